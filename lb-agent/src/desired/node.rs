//! This node, as the tables depend on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use lb_common::Interface;

/// This node, as `compile` needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name: endpoints with this node name are local (item 9).
    pub name: String,
    /// Its zone, which endpoints may be meant for (item 17).
    pub zone: Option<String>,
    /// Addresses that it is known by, and that its own packets carry.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Every address of its devices: packets for these come up to its processes.
    pub local_addresses: BTreeSet<IpAddr>,
    /// Addresses on which NodePorts are served (item 21).
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Networks whose pods are on this node, whatever their endpoints say of their node: replies
    /// from there come back through it.
    pub pod_networks: BTreeSet<IpNet>,
    /// Whether processes of the node reach NodePorts on loopback addresses (item 22).
    pub localhost_node_ports: bool,
    /// Whether addresses of Services answer ICMP echo requests (item 29).
    pub answers_echo: bool,
    /// Whether netfilter translates connections to Services: those of a proxy that was there before.
    pub has_predecessor: bool,
    /// Whether source ranges hold for external addresses and NodePorts, too, and not for those of
    /// load balancers only (item 46).
    pub source_ranges_everywhere: bool,
    /// Which external addresses Services may have (item 25).
    pub external_ips: ExternalIps,
    /// Devices that packets leave by with the node's own address, by index.
    pub interfaces: BTreeMap<u32, Interface>,
}

impl NodeView {
    /// Whether packets for this address are for the node itself.
    pub(super) fn has(&self, addr: IpAddr) -> bool {
        self.local_addresses.contains(&addr)
            || self.own_addresses.contains(&addr)
            || self.node_port_addresses.contains(&addr)
    }

    /// Whether an address is in a network of this node's pods.
    pub(super) fn is_on_this_node(&self, addr: IpAddr) -> bool {
        self.pod_networks.iter().any(|net| net.contains(&addr))
    }
}

/// Which of the addresses in `spec.externalIPs` are served: whoever may write a Service could take
/// any address with them (CVE-2020-8554).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExternalIps {
    /// All.
    #[default]
    All,
    /// Those in these networks.
    Within(Vec<IpNet>),
}

impl ExternalIps {
    /// Whether `addr` is served.
    #[must_use]
    pub fn allow(&self, addr: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Within(nets) => nets.iter().any(|net| net.contains(&addr)),
        }
    }
}

/// On which of a node's addresses NodePorts are served (item 21).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// On those that the node is known by.
    #[default]
    Primary,
    /// On all that lie in these networks. A family without a network is open on all.
    Within(Vec<IpNet>),
}

impl NodePortAddresses {
    /// The addresses for a node that is known by `primary` and has `local` ones.
    ///
    /// Never a loopback address: what comes from a wire for one is dropped, and what the node
    /// itself sends there is for `localhost_node_ports`.
    #[must_use]
    pub fn choose(&self, primary: &BTreeSet<IpAddr>, local: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let Self::Within(nets) = self else {
            return primary.clone();
        };
        let is_open = |addr: &IpAddr| {
            let mut of_family = nets
                .iter()
                .filter(|net| net.addr().is_ipv4() == addr.is_ipv4())
                .peekable();
            of_family.peek().is_none() || of_family.any(|net| net.contains(addr))
        };
        let served = local.iter().filter(|addr| !addr.is_loopback());
        served.filter(|addr| is_open(addr)).copied().collect()
    }

    /// Where health checks of Services are answered, if NodePorts are at `chosen` (item 51): in each
    /// family at these if networks say which they are, else everywhere.
    #[must_use]
    pub fn to_listen_at(&self, chosen: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let mut addresses = Vec::new();
        for all in everywhere {
            let of_family = |addr: &IpAddr| addr.is_ipv4() == all.is_ipv4();
            match self {
                Self::Within(nets) if nets.iter().any(|net| of_family(&net.addr())) => {
                    addresses.extend(chosen.iter().copied().filter(|addr| of_family(addr)));
                }
                _ => addresses.push(all),
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: [&str; 2] = ["192.168.0.1", "fd00:77::1"];
    const LOCAL: [&str; 7] = [
        "127.0.0.1",
        "::1",
        "192.168.0.1",
        "fd00:77::1",
        "10.9.0.1",
        "fd00:9::1",
        "fe80::1",
    ];

    #[track_caller]
    fn check(addresses: &NodePortAddresses, expected: &[&str]) {
        let set = |addrs: &[&str]| -> BTreeSet<IpAddr> {
            addrs.iter().map(|addr| addr.parse().unwrap()).collect()
        };
        let chosen = addresses.choose(&set(&PRIMARY), &set(&LOCAL));
        assert_eq!(chosen, set(expected));
    }

    fn within(nets: &[&str]) -> NodePortAddresses {
        NodePortAddresses::Within(nets.iter().map(|net| net.parse().unwrap()).collect())
    }

    #[test]
    fn s21_node_ports_are_on_the_addresses_that_the_node_is_known_by() {
        check(&NodePortAddresses::Primary, &PRIMARY);
    }

    #[test]
    fn s51_health_checks_are_answered_everywhere_in_a_family_without_networks() {
        let chosen = ["10.9.0.1", "fd00:9::1"]
            .map(|addr| addr.parse().unwrap())
            .into();
        let listen = |addresses: NodePortAddresses| {
            let listen = addresses.to_listen_at(&chosen);
            listen.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(listen(NodePortAddresses::Primary), ["0.0.0.0", "::"]);
        assert_eq!(listen(within(&["10.0.0.0/8"])), ["10.9.0.1", "::"]);
        assert_eq!(
            listen(within(&["10.0.0.0/8", "fd00::/16"])),
            ["10.9.0.1", "fd00:9::1"]
        );
    }

    #[test]
    fn s21_node_ports_are_on_local_addresses_in_the_networks() {
        check(
            &within(&["10.0.0.0/8", "172.16.0.0/12", "fd00:77::/64"]),
            &["10.9.0.1", "fd00:77::1"],
        );
    }

    #[test]
    fn s21_networks_of_one_family_leave_the_other_open() {
        check(
            &within(&["10.0.0.0/8"]),
            &["10.9.0.1", "fd00:77::1", "fd00:9::1", "fe80::1"],
        );
        check(
            &within(&["fd00:9::/64"]),
            &["192.168.0.1", "10.9.0.1", "fd00:9::1"],
        );
    }

    #[test]
    fn s22_node_ports_are_never_on_loopback_by_packets() {
        check(&within(&["127.0.0.0/8", "::1/128"]), &[]);
        check(
            &within(&["0.0.0.0/0", "::/0"]),
            &[
                "192.168.0.1",
                "10.9.0.1",
                "fd00:77::1",
                "fd00:9::1",
                "fe80::1",
            ],
        );
    }
}
