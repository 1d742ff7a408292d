//! Constants of a loaded program, set by the agent before the verifier sees it.

use bytemuck::{Pod, Zeroable};

/// Read-only configuration of the programs (`CONFIG`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DatapathConfig {
    /// Network namespace cookie of the node itself (`SO_NETNS_COOKIE`): socket translation
    /// leaves other namespaces alone. 0 translates in all.
    pub netns_cookie: u64,
    /// Seed of the flow hash. Equal on every node: a flow that moves to another node finds the
    /// same backend there, if the tables have the same size.
    pub seed: u32,
    /// First source port of SNAT, host byte order.
    pub snat_port_first: u16,
    /// Last source port of SNAT, host byte order.
    pub snat_port_last: u16,
    /// Kernel ticks a second (`CONFIG_HZ`).
    pub ticks_per_second: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<DatapathConfig>() == 24);

impl DatapathConfig {
    /// SNAT ports lie above what sockets of nodes and pods pick
    /// (`net.ipv4.ip_local_port_range`, 32768–60999 by default).
    pub const DEFAULT: Self = Self {
        netns_cookie: 0,
        seed: 0x6c62_3031,
        snat_port_first: 61_000,
        snat_port_last: 65_535,
        ticks_per_second: 250,
        pad: 0,
    };

    /// Whether `port` may be the source port of a SNATed flow.
    #[inline(always)]
    #[must_use]
    pub fn is_snat_port(&self, port: u16) -> bool {
        port >= self.snat_port_first && port <= self.snat_port_last
    }
}

impl Default for DatapathConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}
