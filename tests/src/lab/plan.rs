//! Who has which address in a lab.
//!
//! Every lab uses the same ones: its namespaces meet nobody else's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The IPv4 addresses of all pods of a cluster.
pub const POD_NETWORK_V4: Ipv4Net = v4(10, 244, 0, 0, 16);
/// The IPv6 addresses of all pods of a cluster.
pub const POD_NETWORK_V6: Ipv6Net = v6([0xfd00, 0x10, 0x244, 0, 0], 0, 48);

/// The bytes that a vxlan header with its outer headers (IPv4) takes from the MTU.
pub(super) const VXLAN_OVERHEAD: u32 = 50;
/// The MTU of the nodes' uplinks.
pub(super) const UPLINK_MTU: u32 = 1500;
/// As many nodes as the last byte of an address can count, with room for the router.
pub(super) const MAX_NODES: usize = 200;

/// An address in each family, with the prefix length of its network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dual {
    pub(super) v4: Ipv4Net,
    pub(super) v6: Ipv6Net,
}

impl Dual {
    /// Both, as `ip` takes them.
    pub(super) fn nets(self) -> [IpNet; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Both, without the prefix lengths.
    pub(super) fn addresses(self) -> [IpAddr; 2] {
        [self.v4.addr().into(), self.v6.addr().into()]
    }
}

/// The router, in the nodes' network.
pub(super) const ROUTER: Dual = node_net(1);
/// The router, in the client's network.
pub(super) const ROUTER_OUTSIDE: Dual = outside_net(1);
/// The client outside of the cluster.
pub(super) const CLIENT: Dual = outside_net(10);

/// The router, towards a hop.
pub(super) const ROUTER_TO_HOP: Dual = hop_net(1);
/// A hop, towards the router.
pub(super) const HOP: Dual = hop_net(2);
/// A hop in front of a node, as the node sees it.
pub(super) const HOP_TO_NODE: Dual = Dual {
    v4: v4(192, 168, 77, 254, 32),
    v6: v6([0xfd00, 0x77, 0, 0, 0], 254, 128),
};

/// Node `number` (from 1) on its uplink.
pub(super) const fn node(number: u8) -> Dual {
    node_net(number + 10)
}

/// The addresses of the pods of node `number`.
pub(super) const fn pod_nets(number: u8) -> Dual {
    Dual {
        v4: v4(10, 244, number, 0, 24),
        v6: pod_v6(number, 0, 64),
    }
}

/// The gateway of the pods of node `number`.
pub(super) const fn pod_gateway(number: u8) -> Dual {
    Dual {
        v4: v4(10, 244, number, 1, 24),
        v6: pod_v6(number, 1, 64),
    }
}

/// Node `number` on its tunnel: the network's own address, as flannel does it.
pub(super) const fn tunnel(number: u8) -> Dual {
    Dual {
        v4: v4(10, 244, number, 0, 32),
        v6: pod_v6(number, 0, 128),
    }
}

/// The tunnel device's MAC address on node `number`.
pub(super) fn tunnel_mac(number: u8) -> String {
    format!("02:77:00:00:00:{number:02x}")
}

const fn node_net(host: u8) -> Dual {
    let v6 = v6([0xfd00, 0x77, 0, 0, 0], host as u16, 64);
    Dual {
        v4: v4(192, 168, 77, host, 24),
        v6,
    }
}

const fn hop_net(host: u8) -> Dual {
    let v6 = v6([0xfd00, 0x78, 0, 0, 0], host as u16, 64);
    Dual {
        v4: v4(192, 168, 78, host, 24),
        v6,
    }
}

const fn outside_net(host: u8) -> Dual {
    let v6 = v6([0x2001, 0xdb8, 0x113, 0, 0], host as u16, 64);
    Dual {
        v4: v4(203, 0, 113, host, 24),
        v6,
    }
}

const fn pod_v6(number: u8, host: u16, prefix: u8) -> Ipv6Net {
    v6([0xfd00, 0x10, 0x244, number as u16, 0], host, prefix)
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(head: [u16; 5], host: u16, prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e] = head;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, 0, 0, host), prefix)
}
