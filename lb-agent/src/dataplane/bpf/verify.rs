//! Asks the kernel whether what was put in place is still there.

use std::{collections::BTreeMap, fmt, path::Path};

use tracing::debug;

use super::{
    BpfDataplane,
    attach::device_name,
    error::{Error, is_absent},
    filter,
    link::LinkInfo,
    plan::Attachment,
    sockets,
};

/// A link that is not as the agent has made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenLink {
    /// Name of its pin.
    pub pin: String,
    /// Device or cgroup.
    pub target: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its pin is gone, and with it the link.
    NoPin,
    /// It is attached to nothing, or to something else.
    Detached,
    /// It runs another program than ours.
    Foreign {
        /// Id of the program.
        program: u32,
        /// Id of ours.
        ours: u32,
    },
    /// The kernel does not say.
    Unknown(String),
}

impl fmt::Display for BrokenLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pin, target, fault } = self;
        write!(f, "{pin} ({target}): ")?;
        match fault {
            Fault::NoPin => write!(f, "its pin is gone"),
            Fault::Detached => write!(f, "detached"),
            Fault::Foreign { program, ours } => {
                write!(f, "runs the program {program}, not ours ({ours})")
            }
            Fault::Unknown(reason) => write!(f, "{reason}"),
        }
    }
}

impl BpfDataplane {
    /// The links that are not as this process has made them.
    ///
    /// The next [`sync_attachments`](Self::sync_attachments) makes them anew. A device that is
    /// gone has taken its links with it, and breaks nothing.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the pins cannot be listed, [`Error::Missing`] and [`Error::Program`] if
    /// the programs cannot be told.
    pub fn broken_links(&mut self) -> Result<Vec<BrokenLink>, Error> {
        let mut ids = ProgramIds::default();
        let mut broken = Vec::new();
        for attachment in self.current.clone() {
            let ours = ids.of(self, attachment.hook.program())?;
            let pin = self.pins.link(&attachment.to_string());
            let link = if filter::is_filter(&pin) {
                self.check_filter(attachment, &pin)
            } else {
                self.check_device(attachment, ours)
            };
            if let Some(link) = link {
                debug!(%link, "broken");
                self.current.remove(&attachment);
                broken.push(link);
            }
        }
        let sockets = self.check_sockets(&mut ids)?;
        self.sockets_broken |= !sockets.is_empty();
        broken.extend(sockets);
        Ok(broken)
    }

    fn check_device(&self, attachment: Attachment, ours: u32) -> Option<BrokenLink> {
        let device = device_name(attachment.ifindex)?;
        let pin = attachment.to_string();
        let attached = |info: &LinkInfo| info.ifindex() == attachment.ifindex;
        let fault = self.fault(&pin, ours, attached)?;
        Some(BrokenLink {
            pin,
            target: device,
            fault,
        })
    }

    /// Exchanges a filter's program for itself: one that is gone cannot be.
    fn check_filter(&mut self, attachment: Attachment, pin: &Path) -> Option<BrokenLink> {
        let target = device_name(attachment.ifindex)?;
        let failure = self.replace_filter(attachment, pin).err()?;
        let fault = if failure.is_gone() {
            Fault::Detached
        } else {
            Fault::Unknown(failure.to_string())
        };
        Some(BrokenLink {
            pin: attachment.to_string(),
            target,
            fault,
        })
    }

    /// One link for each socket call is wanted, whatever its generation.
    fn check_sockets(&self, ids: &mut ProgramIds) -> Result<Vec<BrokenLink>, Error> {
        let Some(cgroup) = &self.cgroup else {
            return Ok(Vec::new());
        };
        let names = self.pins.link_names()?;
        let mut broken = Vec::new();
        for call in sockets::CALLS {
            let ours = ids.of(self, &sockets::program(call))?;
            let pin = names.iter().find(|name| sockets::is_pin_of(name, call));
            let fault = match pin {
                Some(pin) => self.fault(pin, ours, LinkInfo::is_attached),
                None => Some(Fault::NoPin),
            };
            broken.extend(fault.map(|fault| BrokenLink {
                pin: pin.cloned().unwrap_or_else(|| format!("socket-{call}")),
                target: cgroup.display().to_string(),
                fault,
            }));
        }
        Ok(broken)
    }

    fn fault(
        &self,
        pin: &str,
        ours: u32,
        is_attached: impl FnOnce(&LinkInfo) -> bool,
    ) -> Option<Fault> {
        match LinkInfo::from_pin(&self.pins.link(pin)) {
            Err(error) if is_absent(&error) => Some(Fault::NoPin),
            Err(error) => Some(Fault::Unknown(error.to_string())),
            Ok(info) if !is_attached(&info) => Some(Fault::Detached),
            Ok(info) if info.program != ours => Some(Fault::Foreign {
                program: info.program,
                ours,
            }),
            Ok(_) => None,
        }
    }
}

/// Ids of this process's programs, asked for once each.
#[derive(Default)]
struct ProgramIds(BTreeMap<String, u32>);

impl ProgramIds {
    fn of(&mut self, dataplane: &BpfDataplane, program: &str) -> Result<u32, Error> {
        if let Some(id) = self.0.get(program) {
            return Ok(*id);
        }
        let loaded = dataplane.ebpf.program(program);
        let loaded = loaded.ok_or_else(|| Error::Missing {
            kind: "program",
            name: program.into(),
        })?;
        let info = loaded.info().map_err(|source| Error::Program {
            program: program.into(),
            source: Box::new(source),
        })?;
        self.0.insert(program.into(), info.id());
        Ok(info.id())
    }
}
