//! What the maps hold, in the terms of a plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::{
    Addr, Backend, Extent, Frontend, FrontendKey, Interface, ServiceNets, Slot, SourceRange, Vip,
    maps,
};

use super::arena::Allocator;
use crate::{
    dataplane::Observation,
    desired::{Changes, Members, Tables},
};

/// The maps' content as the agent knows it. It is the only writer; it reads them at its start,
/// and again after an error.
#[derive(Clone, Debug)]
pub struct Programmed {
    pub(super) frontends: BTreeMap<FrontendKey, Frontend>,
    pub(super) backends: BTreeMap<u32, Backend>,
    pub(super) interfaces: BTreeMap<u32, Interface>,
    pub(super) vips: BTreeMap<Addr, Vip>,
    pub(super) service_nets: ServiceNets,
    /// What belongs to each Service port.
    pub(super) ports: BTreeMap<u32, PortState>,
    /// Source ranges of all ports.
    pub(super) source_ranges: usize,
    pub(super) arena: Allocator,
    pub(super) frontends_max: u32,
    pub(super) vips_max: u32,
    pub(super) source_ranges_max: u32,
}

/// What the maps hold of one Service port.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PortState {
    pub(super) tables: PortTables,
    pub(super) frontends: BTreeSet<FrontendKey>,
    /// Indexes of the backends that may have flows.
    pub(super) backends: BTreeSet<u32>,
    pub(super) source_ranges: BTreeSet<SourceRange>,
}

/// The look-up tables of one Service port.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PortTables {
    /// The generation in the tables' headers and the port's frontends.
    pub(super) generation: u32,
    /// Table by the set of backends in it.
    pub(super) tables: BTreeMap<Members, Extent>,
}

impl Programmed {
    /// Understands what the maps hold. A table whose header does not name its frontend's Service
    /// port and generation counts as missing, and is written anew.
    #[must_use]
    pub fn new(observation: Observation, slots: &[Slot]) -> Self {
        let Observation {
            frontends,
            backends,
            interfaces,
            vips,
            source_ranges,
            service_nets,
            frontends_max,
            backends_max: _,
            vips_max,
            source_ranges_max,
        } = observation;
        let mut ports = BTreeMap::<u32, PortState>::new();
        for (key, frontend) in &frontends {
            let port = ports.entry(frontend.service).or_default();
            port.frontends.insert(*key);
            port.tables.add(frontend, slots);
        }
        for (index, backend) in backends.iter().filter(|(_, backend)| backend.serves()) {
            let port = ports.entry(backend.service).or_default();
            port.backends.insert(*index);
        }
        for range in &source_ranges {
            let port = ports.entry(range.service).or_default();
            port.source_ranges.insert(*range);
        }
        let used: Vec<Extent> = frontends
            .values()
            .flat_map(|frontend| [frontend.outside, frontend.inside])
            .collect();
        let elements = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        Self {
            arena: Allocator::new(elements, used),
            frontends,
            backends,
            interfaces,
            vips,
            service_nets,
            ports,
            source_ranges: source_ranges.len(),
            frontends_max,
            vips_max,
            source_ranges_max,
        }
    }

    /// What is served, by frontend.
    #[must_use]
    pub fn frontends(&self) -> &BTreeMap<FrontendKey, Frontend> {
        &self.frontends
    }

    /// The backends, by index.
    #[must_use]
    pub fn backends(&self) -> &BTreeMap<u32, Backend> {
        &self.backends
    }

    /// The backends that clients of this node get from a frontend.
    #[must_use]
    pub fn backends_inside(&self, frontend: &Frontend) -> BTreeSet<SocketAddr> {
        let port = self.ports.get(&frontend.service);
        let mut tables = port.into_iter().flat_map(|port| &port.tables.tables);
        let table = tables.find(|(_, extent)| **extent == frontend.inside);
        let members = table.into_iter().flat_map(|(members, _)| members);
        members
            .filter_map(|member| self.backends.get(&member.index()))
            .map(|backend| SocketAddr::new(backend.addr.to_ip(), backend.port))
            .collect()
    }

    /// How many elements of the maps are in use, by map.
    pub fn usage(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let backends = self.backends.values().filter(|b| b.serves()).count();
        let tables = self
            .ports
            .values()
            .flat_map(|port| port.tables.tables.values());
        let slots = tables.map(|extent| u64::from(extent.elements())).sum();
        [
            (maps::FRONTENDS, self.frontends.len() as u64),
            (maps::BACKENDS, backends as u64),
            (maps::INTERFACES, self.interfaces.len() as u64),
            (maps::SLOTS, slots),
            (maps::VIPS, self.vips.len() as u64),
            (maps::SOURCE_RANGES, self.source_ranges as u64),
        ]
        .into_iter()
    }

    /// All that can differ from `desired`.
    pub(super) fn everything(&self, desired: &Tables) -> Changes {
        let ports = desired.ports.keys().chain(self.ports.keys());
        let vips = desired.vips.keys().chain(self.vips.keys());
        Changes {
            ports: ports.copied().collect(),
            vips: vips.copied().collect(),
        }
    }
}

impl PortTables {
    /// Notes the tables of a frontend.
    fn add(&mut self, frontend: &Frontend, slots: &[Slot]) {
        if self.generation != frontend.generation {
            // Half of an update: the newer half is the one that is kept.
            if self.generation > frontend.generation {
                return;
            }
            self.tables.clear();
            self.generation = frontend.generation;
        }
        for extent in [frontend.outside, frontend.inside] {
            if let Some(members) = members(frontend, extent, slots) {
                self.tables.insert(members, extent);
            }
        }
    }
}

/// The backends in a table, if it is what the frontend says.
fn members(frontend: &Frontend, extent: Extent, slots: &[Slot]) -> Option<Members> {
    let start = extent.offset as usize;
    let table = slots.get(start..start.checked_add(extent.elements() as usize)?)?;
    let (header, slots) = table.split_first()?;
    (*header == Slot::header(frontend.service, frontend.generation))
        .then(|| slots.iter().map(|slot| slot.current).collect())
}
