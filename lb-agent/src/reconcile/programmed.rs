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
    flat::{FlatMap, FlatSet},
};

/// The maps' content as the agent knows it. It is the only writer; it reads them at its start,
/// and again after an error.
#[derive(Clone, Debug)]
pub struct Programmed {
    pub(super) frontends: BTreeMap<FrontendKey, Frontend>,
    pub(super) backends: BTreeMap<u32, Backend>,
    /// How many of them serve.
    serving: usize,
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
    pub(super) frontends: FlatSet<FrontendKey>,
    /// Indexes of the backends that may have flows.
    pub(super) backends: FlatSet<u32>,
    pub(super) source_ranges: FlatSet<SourceRange>,
}

/// The look-up tables of one Service port.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PortTables {
    /// The generation in the tables' headers and the port's frontends.
    pub(super) generation: u32,
    /// Table by the set of backends in it.
    pub(super) tables: FlatMap<Members, Extent>,
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
        let mut found = BTreeMap::<u32, Found>::new();
        for (key, frontend) in &frontends {
            let port = found.entry(frontend.service).or_default();
            port.frontends.push(*key);
            port.add(frontend, slots);
        }
        let serving = backends.iter().filter(|(_, backend)| backend.serves());
        for (index, backend) in serving.clone() {
            found
                .entry(backend.service)
                .or_default()
                .backends
                .push(*index);
        }
        let serving = serving.count();
        for range in &source_ranges {
            found
                .entry(range.service)
                .or_default()
                .source_ranges
                .push(*range);
        }
        let ports = found
            .into_iter()
            .map(|(id, port)| (id, port.into()))
            .collect();
        let used: Vec<Extent> = frontends
            .values()
            .flat_map(|frontend| [frontend.outside, frontend.inside])
            .collect();
        let elements = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        Self {
            arena: Allocator::new(elements, used),
            frontends,
            backends,
            serving,
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

    /// The devices that the programs know, by interface index.
    #[must_use]
    pub fn interfaces(&self) -> &BTreeMap<u32, Interface> {
        &self.interfaces
    }

    /// Where cluster addresses can be.
    #[must_use]
    pub fn service_nets(&self) -> &ServiceNets {
        &self.service_nets
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
        let mut tables = port.into_iter().flat_map(|port| port.tables.tables.iter());
        let table = tables.find(|(_, extent)| **extent == frontend.inside);
        let members = table.into_iter().flat_map(|(members, _)| members);
        members
            .filter_map(|member| self.backends.get(&member.index()))
            .map(|backend| SocketAddr::new(backend.addr.to_ip(), backend.port))
            .collect()
    }

    /// Whether a backend serves what is dialled there: new connections, or those that it has.
    #[must_use]
    pub fn serves(&self, frontend: &FrontendKey, addr: Addr, port: u16) -> bool {
        let frontend = self.frontends.get(frontend);
        let state = frontend.and_then(|frontend| self.ports.get(&frontend.service));
        let indexes = state.into_iter().flat_map(|state| &state.backends);
        let mut backends = indexes.filter_map(|index| self.backends.get(index));
        backends.any(|backend| backend.serves() && backend.port == port && backend.addr == addr)
    }

    /// Takes note of a backend. Returns what was known of the element.
    pub(super) fn put_backend(&mut self, index: u32, backend: Backend) -> Option<Backend> {
        let before = self.backends.insert(index, backend);
        self.serving += usize::from(backend.serves());
        self.serving -= usize::from(before.is_some_and(|before| before.serves()));
        before
    }

    /// How many elements of the maps are in use, by map.
    pub fn usage(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            (maps::FRONTENDS, self.frontends.len() as u64),
            (maps::BACKENDS, self.serving as u64),
            (maps::INTERFACES, self.interfaces.len() as u64),
            (maps::SLOTS, self.arena.used()),
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

/// What is found of a Service port in the maps.
#[derive(Default)]
struct Found {
    generation: u32,
    tables: Vec<(Members, Extent)>,
    frontends: Vec<FrontendKey>,
    backends: Vec<u32>,
    source_ranges: Vec<SourceRange>,
}

impl From<Found> for PortState {
    fn from(found: Found) -> Self {
        let Found {
            generation,
            tables,
            frontends,
            backends,
            source_ranges,
        } = found;
        let tables = tables.into_iter().collect();
        Self {
            tables: PortTables { generation, tables },
            frontends: frontends.into_iter().collect(),
            backends: backends.into_iter().collect(),
            source_ranges: source_ranges.into_iter().collect(),
        }
    }
}

impl Found {
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
                self.tables.push((members, extent));
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
