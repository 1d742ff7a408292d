//! Other programs on the devices: one that runs before ours may end the chain.

use std::{collections::BTreeSet, fmt};

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use tracing::debug;

use super::{
    BpfDataplane,
    attach::{device_name, direction},
    plan::Attachment,
    query,
};

/// A tcx program of somebody else that runs before ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Foreign {
    /// Name of the device.
    pub device: String,
    /// Where it runs before ours.
    pub attachment: Attachment,
    /// Its id.
    pub id: u32,
    /// Its name, at most 15 characters; empty for an agent that may not ask for it.
    pub name: String,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            attachment,
            id,
            name,
        } = self;
        let ours = attachment.hook.program();
        if name.is_empty() {
            write!(f, "program {id} before {ours} on {device}")
        } else {
            write!(f, "{name} (program {id}) before {ours} on {device}")
        }
    }
}

impl BpfDataplane {
    /// The programs of others that run before ours. What cannot be told is left out: devices and
    /// programs come and go.
    #[must_use]
    pub fn foreign_programs_ahead(&self) -> BTreeSet<Foreign> {
        let mut ahead = BTreeSet::new();
        for attachment in &self.current {
            let Some(direction) = direction(attachment.hook) else {
                continue;
            };
            let Some(device) = device_name(attachment.ifindex) else {
                continue;
            };
            match self.ahead(*attachment, &device, direction) {
                Ok(foreign) => ahead.extend(foreign),
                Err(error) => debug!(device, %error, "cannot tell who runs before us"),
            }
        }
        ahead
    }

    fn ahead(
        &self,
        attachment: Attachment,
        device: &str,
        direction: TcAttachType,
    ) -> Result<Vec<Foreign>, ProgramError> {
        let Some(ours) = self.ebpf.program(attachment.hook.program()) else {
            return Ok(Vec::new());
        };
        let ours = ours.info()?.id();
        let chain = chain(attachment.ifindex, device, direction)?;
        let Some(place) = chain.iter().position(|(id, _)| *id == ours) else {
            return Ok(Vec::new());
        };
        let foreign = chain.into_iter().take(place).map(|(id, name)| Foreign {
            device: device.to_owned(),
            attachment,
            id,
            name,
        });
        Ok(foreign.collect())
    }
}

/// Ids and names of the tcx programs of a device, in their order. Names take `CAP_SYS_ADMIN`.
fn chain(
    ifindex: u32,
    device: &str,
    direction: TcAttachType,
) -> Result<Vec<(u32, String)>, ProgramError> {
    if let Ok((_, chain)) = SchedClassifier::query_tcx(device, direction) {
        let named = chain.into_iter().map(|program| {
            let name = program.name_as_str().unwrap_or_default();
            (program.id(), name.to_owned())
        });
        return Ok(named.collect());
    }
    let ids =
        query::tcx(ifindex, direction).map_err(|errno| ProgramError::IOError(errno.into()))?;
    Ok(ids.into_iter().map(|id| (id, String::new())).collect())
}
