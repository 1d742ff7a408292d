//! How large the maps of a bench are.

use lb_common::maps::{self, MapSpec};

/// What clients may dial, at most.
const FRONTENDS_MAX: u32 = 1024;

/// Connections that no flood displaces, at most, where they are in maps.
pub const FLOWS_MAX: u32 = 256;

/// Where the programs have flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// In `FLOWS` and `OPENING`.
    Maps,
    /// In `FLOW_TABLE`, of so many buckets.
    Table(u32),
}

impl Flows {
    /// All maps, as large as a test needs them.
    #[must_use]
    pub fn specs(self) -> Vec<MapSpec> {
        let spec = |spec: &MapSpec| MapSpec {
            max_entries: self.capacity(spec),
            ..*spec
        };
        maps::SPECS.iter().map(spec).collect()
    }

    fn capacity(self, spec: &MapSpec) -> u32 {
        match (self, spec.name) {
            (Self::Table(buckets), maps::FLOW_TABLE) => buckets,
            // What is not used has to have one.
            (Self::Table(_), maps::FLOWS | maps::OPENING) => 1,
            (_, maps::FRONTENDS) => FRONTENDS_MAX,
            // So few that some frontends spill: programs have to find these, too.
            (_, maps::FRONTEND_INDEX) => 4,
            (_, maps::FRONTEND_COPIES) => maps::index_copies(FRONTENDS_MAX),
            (_, maps::BACKENDS) => 2048,
            (_, maps::SLOTS) => 1 << 18,
            (_, maps::FLOWS) => FLOWS_MAX,
            (_, maps::OPENING) => 65_536,
            // So few that connections displace each other's marks.
            (_, maps::ESTABLISHED) => 16,
            (_, maps::PINS) => 512,
            (_, maps::OPENING_PINS) => 4096,
            (_, maps::SOCKETS) => 64,
            _ => spec.max_entries,
        }
    }
}
