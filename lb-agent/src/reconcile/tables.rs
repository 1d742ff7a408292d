//! The look-up tables of a Service port, and the frontends that lead to them.

use std::collections::BTreeSet;

use lb_common::{Addr, BackendRef, Extent, Frontend, Slot, maglev};

use super::programmed::PortTables;
use crate::desired::{FrontendSpec, Members, Port};

/// The sets of backends that a port's frontends use; an empty set needs no table.
pub(super) fn wanted_sets(port: &Port) -> BTreeSet<&Members> {
    port.frontends
        .values()
        .flat_map(|spec| [spec.outside, spec.inside])
        .map(|scope| port.members(scope))
        .filter(|members| !members.is_empty())
        .collect()
}

/// A frontend whose tables have their places.
pub(super) fn frontend(id: u32, port: &Port, spec: &FrontendSpec, tables: &PortTables) -> Frontend {
    let extent = |scope| {
        let extent = tables.tables.get(port.members(scope));
        extent.copied().unwrap_or(Extent::EMPTY)
    };
    Frontend {
        service: id,
        generation: tables.generation,
        outside: extent(spec.outside),
        inside: extent(spec.inside),
        affinity_timeout_s: spec.affinity_timeout_s,
        flags: spec.flags,
    }
}

/// The slots of a table, each with the backend that had it before.
pub(super) fn table(
    port: &Port,
    set: &Members,
    bits: u32,
    old: Option<(Extent, &[Slot])>,
) -> Vec<Slot> {
    let (references, identities): (Vec<BackendRef>, Vec<maglev::Identity>) = set
        .iter()
        .filter_map(|reference| {
            let backend = port.backends.get(&reference.index())?;
            let (addr, port): (Addr, u16) = (backend.addr, backend.port);
            Some((*reference, maglev::Identity { addr, port }))
        })
        .unzip();
    let previous = |index: usize, current: BackendRef| -> BackendRef {
        let Some((extent, slots)) = old else {
            return BackendRef::NONE;
        };
        match slots.get(index >> bits.saturating_sub(extent.bits)) {
            Some(slot) if slot.current == current => slot.previous,
            Some(slot) => slot.current,
            None => BackendRef::NONE,
        }
    };
    maglev::populate(&identities, bits)
        .into_iter()
        .enumerate()
        .map(|(index, owner)| {
            let current = references
                .get(owner as usize)
                .copied()
                .unwrap_or(BackendRef::NONE);
            Slot {
                current,
                previous: previous(index, current),
            }
        })
        .collect()
}
