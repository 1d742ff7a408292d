//! Where a plan is carried out: the kernel's maps and hooks, or a twin of them in memory.

pub mod bpf;
pub mod memory;

use lb_common::{Backend, Flow, FlowKey, Frontend, FrontendKey, Interface, Pin, PinKey, Slot};

/// The maps that a plan writes.
///
/// Every operation but [`pin_flows`](Self::pin_flows) is one map operation (or, for slots, one
/// copy into mapped memory); a plan is ordered so that traffic is served correctly between any two of them.
pub trait Dataplane {
    /// Writes element `index` of `BACKENDS`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses.
    fn put_backend(&mut self, index: u32, backend: &Backend) -> Result<(), Error>;

    /// Copies `slots` into the arena from element `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfArena`] if they do not fit.
    fn write_slots(&mut self, offset: u32, slots: &[Slot]) -> Result<(), Error>;

    /// The arena, as it is now.
    fn slots(&self) -> &[Slot];

    /// Inserts or replaces an element of `FRONTENDS`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses, for one because the map is full.
    fn put_frontend(&mut self, key: &FrontendKey, frontend: &Frontend) -> Result<(), Error>;

    /// Removes an element of `FRONTENDS`; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses.
    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), Error>;

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

    /// Inserts or replaces an element of `INTERFACES`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses.
    fn put_interface(&mut self, ifindex: u32, interface: &Interface) -> Result<(), Error>;

    /// Removes an element of `INTERFACES`; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses.
    fn remove_interface(&mut self, ifindex: u32) -> Result<(), Error>;

    /// Reads back what the maps hold.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses.
    fn observe(&self) -> Result<Observation, Error>;
}

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// Elements of `FRONTENDS`.
    pub frontends: std::collections::BTreeMap<FrontendKey, Frontend>,
    /// Elements of `BACKENDS` that have ever been written (their generation is not 0), by index.
    pub backends: std::collections::BTreeMap<u32, Backend>,
    /// Elements of `INTERFACES`.
    pub interfaces: std::collections::BTreeMap<u32, Interface>,
    /// Capacity of `FRONTENDS`.
    pub frontends_max: u32,
    /// Capacity of `BACKENDS`.
    pub backends_max: u32,
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
