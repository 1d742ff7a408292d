//! What an API server keeps, without a network: objects, one counter of versions for all of
//! them, and what happened to them since the history was last compacted.
//!
//! Time is an argument, and nothing is random: the same requests lead to the same objects.

mod delete;
mod history;
mod kind;
mod list;
pub mod object;
pub mod patch;
mod prepare;
pub mod selector;
mod service;
pub mod status;
mod write;

use std::collections::BTreeMap;

use ipnet::IpNet;

pub use self::delete::{DeleteOptions, Deletion};
pub use self::history::{Change, EventType};
pub use self::kind::{Kind, RESOURCES, Resource};
pub use self::list::{Continue, ListOptions, Page, VersionMatch};
pub use self::object::{Name, Object};
pub use self::selector::Selector;
pub use self::service::NODE_PORTS;
pub use self::status::{Cause, Status};
pub use self::write::Part;
pub(in crate::apiserver) use self::write::{mix, suffix};

use self::history::History;
use self::service::Allocations;

/// How a store behaves where clusters differ.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Networks of cluster addresses, the first for Services that ask for no family.
    pub service_networks: Vec<IpNet>,
    /// Changes of a kind that are remembered without a compaction.
    pub history_limit: usize,
    /// Whether a deleted pod that runs on a node stays, terminating, until it is deleted with a
    /// grace period of 0: what a kubelet does in the end.
    pub pods_linger: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let v4 = IpNet::new_assert([10, 96, 0, 0].into(), 16);
        let v6 = IpNet::new_assert([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0].into(), 112);
        Self {
            service_networks: vec![v4, v6],
            history_limit: 100_000,
            pods_linger: false,
        }
    }
}

/// All objects of a cluster.
#[derive(Clone, Debug)]
pub struct Store {
    settings: Settings,
    tables: [Table; Kind::ALL.len()],
    revision: u64,
    allocations: Allocations,
}

/// The objects of a kind.
#[derive(Clone, Debug, Default)]
struct Table {
    objects: BTreeMap<Name, Object>,
    history: History,
}

impl Store {
    /// A store without any object, namespaces included.
    #[must_use]
    pub fn empty(settings: Settings) -> Self {
        Self {
            allocations: Allocations::new(settings.service_networks.clone()),
            settings,
            tables: Default::default(),
            revision: 1,
        }
    }

    /// The version of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The object called `name`.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &Name) -> Option<&Object> {
        self.table(kind).objects.get(name)
    }

    /// All objects of a kind, by name.
    pub fn objects(&self, kind: Kind) -> impl Iterator<Item = (&Name, &Object)> {
        self.table(kind).objects.iter()
    }

    /// What happened to objects of a kind after `revision`.
    ///
    /// # Errors
    /// `Expired` if not all of it is remembered.
    pub fn changes(
        &self,
        kind: Kind,
        revision: u64,
    ) -> Result<impl Iterator<Item = &Change>, Status> {
        self.table(kind).history.after(revision)
    }

    /// Forgets all that happened before now.
    pub fn compact(&mut self) {
        for table in &mut self.tables {
            table.history.compact(self.revision);
        }
    }

    /// Lets the counter go on by `count`, as changes of other kinds do.
    pub fn skip(&mut self, count: u64) {
        self.revision += count;
    }

    fn table(&self, kind: Kind) -> &Table {
        &self.tables[kind as usize]
    }

    fn table_mut(&mut self, kind: Kind) -> &mut Table {
        &mut self.tables[kind as usize]
    }
}

#[cfg(test)]
mod tests;
