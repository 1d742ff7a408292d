//! What maps say, whatever numbers they say it by.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::{Dataplane as _, memory::Memory};
use lb_common::{Addr, Extent, Frontend, FrontendKey, Slot};

/// A backend as its clients know it.
pub(crate) type Server = (Addr, u16);

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leads {
    pub(crate) outside: BTreeSet<Server>,
    pub(crate) inside: BTreeSet<Server>,
    affinity_timeout_s: u32,
    flags: u32,
}

/// All that the maps say.
///
/// # Errors
/// Where a program would find a torn table or a backend that does not serve.
pub(crate) fn read(maps: &Memory) -> Result<BTreeMap<FrontendKey, Leads>> {
    let frontends = maps.maps().frontends.iter();
    frontends
        .map(|(key, frontend)| {
            let table = |extent| {
                servers(maps, frontend, extent).with_context(|| format!("{key:?} {frontend:?}"))
            };
            let leads = Leads {
                outside: table(frontend.outside)?,
                inside: table(frontend.inside)?,
                affinity_timeout_s: frontend.affinity_timeout_s,
                flags: frontend.flags,
            };
            Ok((*key, leads))
        })
        .collect()
}

/// What one table of a frontend leads to.
///
/// # Errors
/// As [`read`].
pub(crate) fn servers(
    maps: &Memory,
    frontend: &Frontend,
    extent: Extent,
) -> Result<BTreeSet<Server>> {
    if extent.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (begin, end) = (extent.offset, extent.offset + extent.elements());
    let table = maps.slots().get(begin as usize..end as usize);
    let [header, slots @ ..] = table.context("the table is outside of the arena")? else {
        unreachable!("a table that is not empty has a header");
    };
    let expected = Slot::header(frontend.service, frontend.generation);
    ensure!(*header == expected, "the table is another's");
    let mut servers = BTreeSet::new();
    for slot in slots {
        let backend = maps.maps().backends.get(&slot.current.index());
        let backend = backend.context("there is no such backend")?;
        ensure!(backend.is(slot.current), "the backend is another by now");
        ensure!(backend.serves(), "the backend is gone");
        servers.insert((backend.addr, backend.port));
    }
    Ok(servers)
}
