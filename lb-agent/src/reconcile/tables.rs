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

/// A table that is to be written. Its slots are not computed before: the tables of ten thousand
/// Service ports would take more memory than all else.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTable {
    header: Slot,
    extent: Extent,
    backends: Box<[(BackendRef, maglev::Identity)]>,
    /// The table that its clients have used so far. It stands until after this one is written.
    predecessor: Option<Extent>,
}

impl NewTable {
    pub(super) fn new(
        header: Slot,
        extent: Extent,
        port: &Port,
        set: &Members,
        predecessor: Option<Extent>,
    ) -> Self {
        let backends = set.iter().filter_map(|reference| {
            let backend = port.backends.get(&reference.index())?;
            let (addr, port): (Addr, u16) = (backend.addr, backend.port);
            Some((*reference, maglev::Identity { addr, port }))
        });
        Self {
            header,
            extent,
            backends: backends.collect(),
            predecessor,
        }
    }

    /// Where it is in the arena.
    pub(super) fn offset(&self) -> u32 {
        self.extent.offset
    }

    /// The header, then the slots, each with the backend that had it before. `arena` has the
    /// predecessor.
    pub(super) fn content(&self, arena: &[Slot]) -> Vec<Slot> {
        let bits = self.extent.bits;
        let old = self.predecessor.and_then(|old| {
            let slots = slots_of(old, arena)?;
            Some((bits.saturating_sub(old.bits), slots))
        });
        let previous = |index: usize, current: BackendRef| -> BackendRef {
            let Some((shift, slots)) = old else {
                return BackendRef::NONE;
            };
            match slots.get(index >> shift) {
                Some(slot) if slot.current == current => slot.previous,
                Some(slot) => slot.current,
                None => BackendRef::NONE,
            }
        };
        let identities: Vec<_> = self
            .backends
            .iter()
            .map(|(_, identity)| *identity)
            .collect();
        let owners = maglev::populate(&identities, bits);
        let slots = owners.into_iter().enumerate().map(|(index, owner)| {
            let current = self.backends.get(owner as usize);
            let current = current.map_or(BackendRef::NONE, |(reference, _)| *reference);
            Slot {
                current,
                previous: previous(index, current),
            }
        });
        std::iter::once(self.header).chain(slots).collect()
    }
}

/// The slots of a table, without its header.
pub(super) fn slots_of(extent: Extent, arena: &[Slot]) -> Option<&[Slot]> {
    let start = extent.offset as usize + 1;
    arena.get(start..start + extent.slots() as usize)
}
