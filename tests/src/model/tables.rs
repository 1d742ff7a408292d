//! What the node was told to serve.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use lb_common::{
    Addr, Backend, BackendRef, Extent, Frontend, FrontendKey, Slot, counter::Outcome,
    frontend::flags,
};

use super::Fate;

/// What is known of an address of Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// It is a cluster address.
    pub is_cluster_ip: bool,
    /// One of its Services has a usable endpoint.
    pub served: bool,
    /// It is the node's own, which serves NodePorts there.
    pub is_node: bool,
}

/// The tables, as the agent compiles them, and what follows from the Services directly.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// What clients dial.
    pub frontends: HashMap<FrontendKey, Frontend>,
    /// The backends, by index.
    pub backends: HashMap<u32, Backend>,
    /// Look-up tables, without their headers, by their place.
    pub tables: HashMap<u32, Vec<Slot>>,
    /// Addresses of Services, and those at which the node serves NodePorts.
    pub vips: HashMap<Addr, Vip>,
    /// Networks whose clients a Service port takes, where it does not take all.
    pub ranges: HashMap<u32, Vec<IpNet>>,
    /// Networks that cluster addresses are allocated from; of a family without one, nobody knows.
    pub nets: Vec<IpNet>,
}

impl Tables {
    /// The slot of a table that a flow's hash selects; nothing in an empty one.
    pub(super) fn slot(&self, extent: Extent, hash: u32) -> Option<Slot> {
        let index = extent.slot_index(hash).checked_sub(extent.offset + 1)?;
        let table = self.tables.get(&extent.offset)?;
        table.get(index as usize).copied()
    }

    /// Everybody in a table.
    pub(super) fn members(&self, extent: Extent) -> HashSet<BackendRef> {
        let slots = self.tables.get(&extent.offset);
        slots
            .into_iter()
            .flatten()
            .map(|slot| slot.current)
            .collect()
    }

    /// A backend, if the reference means this incarnation of it.
    pub(super) fn backend(&self, reference: BackendRef) -> Option<&Backend> {
        let backend = self.backends.get(&reference.index())?;
        backend.is(reference).then_some(backend)
    }

    pub(super) fn vip(&self, addr: &Addr) -> Option<Vip> {
        self.vips.get(addr).copied()
    }

    /// Whether a client may begin a connection to a frontend (item 46).
    pub(super) fn admits(&self, frontend: &Frontend, client: Addr) -> bool {
        if frontend.flags & flags::SOURCE_RANGES == 0 {
            return true;
        }
        let ranges = self.ranges.get(&frontend.service);
        ranges.is_some_and(|ranges| ranges.iter().any(|range| range.contains(&client.to_ip())))
    }

    /// Whether an address is allocated to Services, if to anybody.
    pub(super) fn is_known_net(&self, addr: &Addr) -> bool {
        self.nets.iter().any(|net| net.contains(&addr.to_ip()))
    }

    /// What becomes of a packet that opens nothing and belongs to nothing, for a port that nobody
    /// serves (item 44).
    pub(super) fn without_port(&self, addr: &Addr) -> Fate {
        match self.vip(addr) {
            Some(vip) if vip.is_cluster_ip => Fate::Refused,
            None if self.is_known_net(addr) => Fate::Dropped(Outcome::Unallocated),
            _ => Fate::Untouched,
        }
    }
}
