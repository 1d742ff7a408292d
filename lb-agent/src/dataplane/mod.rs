//! Where a plan is carried out: the kernel's maps and hooks, or a twin of them in memory.

pub mod bpf;
pub mod memory;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use lb_common::{
    Addr, Backend, Flow, FlowKey, Frontend, FrontendKey, Interface, Pin, PinKey, ServiceNets, Slot,
    SourceRange, Vip, maps,
};

/// The maps that a plan writes.
///
/// Every operation but [`put_all`](Self::put_all) and [`pin_flows`](Self::pin_flows) is one map
/// operation (or, for slots, one copy into mapped memory); a plan is ordered so that traffic is served correctly between any two of them.
pub trait Dataplane {
    /// Inserts or replaces an element.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses, for one because the map is full.
    fn put(&mut self, element: &Element) -> Result<(), Error>;

    /// Inserts or replaces elements of one map, one after the other.
    ///
    /// # Errors
    ///
    /// Of the first one that is refused; those before it are there.
    fn put_all(&mut self, elements: &[&Element]) -> Result<(), Error> {
        elements.iter().try_for_each(|element| self.put(element))
    }

    /// Removes an element; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses.
    fn remove(&mut self, key: &Key) -> Result<(), Error>;

    /// Copies `slots` into the arena from element `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfArena`] if they do not fit.
    fn write_slots(&mut self, offset: u32, slots: &[Slot]) -> Result<(), Error>;

    /// The arena, as it is now.
    fn slots(&self) -> &[Slot];

    /// Pins every living flow of which `is_lost` is true to the backend that it has: the tables
    /// will lead it elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses.
    fn pin_flows(
        &mut self,
        is_lost: &dyn Fn(&[Slot], &FlowKey, &Flow) -> bool,
    ) -> Result<(), Error>;

    /// Reads back what the maps hold.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses.
    fn observe(&self) -> Result<Observation, Error>;

    /// Sets right what follows from the maps that [`observe`](Self::observe) reads, and is not read itself.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses.
    fn mend(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// An element of a map, with its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Element {
    /// Of `BACKENDS`, by index.
    Backend(u32, Backend),
    /// Of `FRONTENDS`.
    Frontend(FrontendKey, Frontend),
    /// Of `INTERFACES`, by interface index.
    Interface(u32, Interface),
    /// Of `VIPS`.
    Vip(Addr, Vip),
    /// Of `SOURCE_RANGES`; being there is all that it says.
    SourceRange(SourceRange),
    /// The only one of `SERVICE_NETS`.
    ServiceNets(Box<ServiceNets>),
}

/// The key of an element that can be removed: the others are of arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Of `FRONTENDS`.
    Frontend(FrontendKey),
    /// Of `INTERFACES`.
    Interface(u32),
    /// Of `VIPS`.
    Vip(Addr),
    /// Of `SOURCE_RANGES`.
    SourceRange(SourceRange),
}

impl Element {
    /// Name of its map.
    #[must_use]
    pub fn map(&self) -> &'static str {
        match self {
            Self::Backend(..) => maps::BACKENDS,
            Self::Frontend(..) => maps::FRONTENDS,
            Self::Interface(..) => maps::INTERFACES,
            Self::Vip(..) => maps::VIPS,
            Self::SourceRange(_) => maps::SOURCE_RANGES,
            Self::ServiceNets(_) => maps::SERVICE_NETS,
        }
    }
}

impl Key {
    /// Name of its map.
    #[must_use]
    pub fn map(&self) -> &'static str {
        match self {
            Self::Frontend(_) => maps::FRONTENDS,
            Self::Interface(_) => maps::INTERFACES,
            Self::Vip(_) => maps::VIPS,
            Self::SourceRange(_) => maps::SOURCE_RANGES,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(index, _) => index.fmt(f),
            Self::Frontend(key, _) => Key::Frontend(*key).fmt(f),
            Self::Interface(ifindex, _) => Key::Interface(*ifindex).fmt(f),
            Self::Vip(addr, _) => Key::Vip(*addr).fmt(f),
            Self::SourceRange(range) => Key::SourceRange(*range).fmt(f),
            Self::ServiceNets(_) => 0.fmt(f),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend(key) => write!(f, "{key:?}"),
            Self::Interface(ifindex) => ifindex.fmt(f),
            Self::Vip(addr) => addr.fmt(f),
            Self::SourceRange(range) => write!(f, "{range:?}"),
        }
    }
}

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// Elements of `FRONTENDS`.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// Elements of `BACKENDS` that have ever been written (their generation is not 0), by index.
    pub backends: BTreeMap<u32, Backend>,
    /// Elements of `INTERFACES`.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Elements of `VIPS`.
    pub vips: BTreeMap<Addr, Vip>,
    /// Elements of `SOURCE_RANGES`.
    pub source_ranges: BTreeSet<SourceRange>,
    /// The element of `SERVICE_NETS`.
    pub service_nets: ServiceNets,
    /// Capacity of `FRONTENDS`.
    pub frontends_max: u32,
    /// Capacity of `BACKENDS`.
    pub backends_max: u32,
    /// Capacity of `VIPS`.
    pub vips_max: u32,
    /// Capacity of `SOURCE_RANGES`.
    pub source_ranges_max: u32,
}

/// The pin that keeps a flow with its backend.
#[must_use]
pub fn pin_of(key: &FlowKey, flow: &Flow) -> (PinKey, Pin) {
    let pin = Pin {
        backend: flow.backend,
        source_port: key.dst_port,
        pad: 0,
    };
    (flow.tuple().pin(), pin)
}

/// An operation of the data plane that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A map operation failed.
    #[error("{action} {map}[{key}]")]
    Map {
        /// What was being done.
        action: &'static str,
        /// Name of the map.
        map: &'static str,
        /// The element.
        key: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A table does not fit into the arena.
    #[error("write {len} slots at {offset}: the arena SLOTS has {capacity}")]
    OutOfArena {
        /// First element.
        offset: u32,
        /// Number of elements.
        len: usize,
        /// Number of elements of the arena.
        capacity: usize,
    },
}
