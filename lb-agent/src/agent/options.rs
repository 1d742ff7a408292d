//! What an agent is to do, and where.

use std::{path::PathBuf, time::Duration};

use lb_common::{
    flow::{opening, opening_pins},
    known,
    maps::{self, MapSpec},
};

use super::{MonitorOptions, SnatAddresses};
use crate::{
    dataplane::bpf::{TcMode, XdpMode},
    desired::{ExternalIps, NodePortAddresses},
    interfaces::Overrides,
    source::{Role, kubernetes},
};

/// What the agent is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: NodeOptions,
    /// For whom we work: this node; endpoints with its name are local.
    pub role: Role,
    /// Where Services come from.
    pub source: Source,
    /// Directory of the pins, on a BPF file system.
    pub pin_dir: PathBuf,
    /// The cgroup whose processes' sockets are translated; none turns that off.
    pub cgroup: Option<PathBuf>,
    /// Whether only processes in the agent's own network namespace are concerned by that.
    pub own_namespace_only: bool,
    /// Where XDP runs.
    pub xdp: XdpMode,
    /// How programs get to devices beside that.
    pub tc: TcMode,
    /// Whether a TCP connection is reset once its backend is gone.
    pub reset_vanished_backends: bool,
    /// ICMP errors that a CPU sends a second; 0 is no limit.
    pub icmp_errors_per_second: u32,
    /// Devices that are not what they look like.
    pub overrides: Overrides,
    /// Between the end of a run and the start of the next one, at least.
    pub min_sync_period: Duration,
    /// How long a cluster without any Service, or without any endpoint, is not believed.
    pub empty_guard: Duration,
    /// Capacities of the maps.
    pub capacities: Capacities,
    /// Whether the process gives up what it does not need any more once the programs are in place.
    pub is_hardened: bool,
    /// Whether maps of a layout that this version does not know are removed.
    pub discards_unknown_layouts: bool,
    /// What is answered to others, and where.
    pub monitor: MonitorOptions,
}

/// What holds for this node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name; endpoints with this name are local.
    pub name: String,
    /// On which of its addresses NodePorts are served.
    pub node_port_addresses: NodePortAddresses,
    /// Whether its processes reach NodePorts on loopback addresses.
    pub localhost_node_ports: bool,
    /// Whether addresses of Services answer ICMP echo requests.
    pub answers_echo: bool,
    /// Which external addresses Services may have.
    pub external_ips: ExternalIps,
    /// Whether source ranges hold for external addresses and NodePorts, too.
    pub source_ranges_everywhere: bool,
    /// What SNAT sends from in place of the devices' own addresses.
    pub snat_addresses: SnatAddresses,
}

/// Where Services come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A cluster.
    Kubernetes(kubernetes::Connection),
    /// Manifests: a file, a directory, or `-` for standard input.
    Manifests(PathBuf),
}

/// Capacities of the maps, in elements.
#[derive(Clone, Copy, Debug)]
pub struct Capacities {
    /// Frontends: addresses and ports that clients dial.
    pub frontends: u32,
    /// Backends, those that are gone but may have flows included.
    pub backends: u32,
    /// The arena of look-up tables: at least 129 for each Service port and family, and room for
    /// their successors.
    pub slots: u32,
    /// Connections, once they are confirmed.
    pub flows: u32,
    /// Connections before that.
    pub opening: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            frontends: maps::FRONTENDS_MAX as u32,
            backends: maps::BACKENDS_MAX as u32,
            slots: maps::SLOTS_MAX as u32,
            flows: maps::FLOWS_MAX as u32,
            opening: maps::OPENING_MAX as u32,
        }
    }
}

impl Capacities {
    /// The maps with these capacities.
    #[must_use]
    pub fn specs(&self) -> Vec<MapSpec> {
        let capacity = |spec: &MapSpec| match spec.name {
            // Every Service has an address, and most have one.
            maps::FRONTENDS | maps::VIPS => self.frontends,
            maps::FRONTEND_INDEX => maps::index_buckets(self.frontends),
            maps::FRONTEND_COPIES => maps::index_copies(self.frontends),
            maps::BACKENDS => self.backends,
            maps::SLOTS => self.slots,
            maps::FLOWS => self.flows,
            maps::KNOWN => known::elements(self.flows),
            maps::ESTABLISHED => maps::mark_buckets(self.flows),
            // In whole buckets.
            maps::OPENING => opening::records(self.opening),
            maps::OPENING_WORDS => opening::lines(opening::records(self.opening)),
            maps::OPENING_PINS => opening_pins::elements(opening_pins::buckets(self.opening)),
            _ => spec.max_entries,
        };
        let spec = |spec: &MapSpec| MapSpec {
            max_entries: capacity(spec),
            ..*spec
        };
        maps::SPECS.iter().map(spec).collect()
    }
}
