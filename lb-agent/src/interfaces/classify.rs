//! From what the kernel says about devices to their roles. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use lb_common::{Addr, Interface, Role, interface::flags};

use super::{Device, Routing, State};

/// What matters of a device's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One end of a pair.
    Veth,
    /// vxlan or geneve.
    Overlay,
    /// A switch in software.
    Bridge,
    /// The untagged side of a VLAN on another device.
    Vlan,
    /// Anything else: NICs, bonds, the loopback device.
    Other,
}

/// What the kernel says about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind of device.
    pub kind: Kind,
    /// Whether its frames have an Ethernet header.
    pub ethernet: bool,
    /// Id of the other network namespace that the peer is in; none if it is in this one
    /// (`IFLA_LINK_NETNSID`).
    pub link_netnsid: Option<i32>,
    /// Interface index of the bridge (or bond) that it is a port of.
    pub master: Option<u32>,
    /// Whether what it passes on between its ports, if it is a bridge, goes through netfilter: IPv4,
    /// and IPv6.
    pub filters: [bool; 2],
    /// Its addresses in the kernel's order.
    pub addresses: Vec<AddressFacts>,
}

/// What the kernel says about an address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressFacts {
    /// The address itself.
    pub ip: IpAddr,
    /// Length of its prefix in bits.
    pub prefix_len: u8,
    /// Whether its scope is global.
    pub global: bool,
    /// Whether packets may carry it: neither tentative, nor a duplicate, nor deprecated.
    pub usable: bool,
    /// Whether it is an IPv4 alias or an IPv6 privacy address.
    pub secondary: bool,
    /// Whether it stays until somebody removes it (not so: DHCP, router advertisements).
    pub permanent: bool,
}

/// Devices whose role a person has set.
///
/// Naming devices of a role turns off the search for others of that role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Names of the uplinks.
    pub uplinks: Vec<String>,
    /// Names of the tunnels.
    pub tunnels: Vec<String>,
    /// What names of pod-side devices begin with.
    pub pod_prefixes: Vec<String>,
}

/// Gives every device its role.
#[must_use]
pub fn classify(links: &[Link], routing: &Routing, overrides: &Overrides) -> State {
    let mut state = State::default();
    for link in links {
        // Every device has a link-local address of its own: nobody dials it as a Service's, and with
        // each pod that comes or goes there is another one.
        let addresses = link.addresses.iter().map(|address| address.ip);
        let dialled = addresses.filter(|ip| !is_link_local(*ip));
        state.local_addresses.extend(dialled);
        let role = overrides.role(link).or_else(|| {
            discovered(link, &routing.default_routes).filter(|role| overrides.searches(*role))
        });
        let interface = role.and_then(|role| interface(link, role, links, routing));
        if let (Some(Role::Uplink), Some(interface)) = (role, interface) {
            let primary = [interface.snat4, interface.snat6];
            let known = primary.into_iter().filter(|a| *a != Addr::UNSPECIFIED);
            state.node_addresses.extend(known.map(Addr::to_ip));
        }
        if link.kind == Kind::Bridge && role.is_none() && has_only_pods(link, links) {
            state.pod_networks.extend(networks(&link.addresses));
        }
        let device = Device {
            name: link.name.clone(),
            role,
            interface,
            vlan: link.kind == Kind::Vlan,
        };
        state.devices.insert(link.index, device);
    }
    state
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether all ports of a bridge are pods' veths: with any other port its network goes on elsewhere,
/// and not everybody there is on this node.
fn has_only_pods(bridge: &Link, links: &[Link]) -> bool {
    let mut ports = links
        .iter()
        .filter(|link| link.master == Some(bridge.index));
    ports.all(|port| port.kind == Kind::Veth && port.link_netnsid.is_some())
}

impl Overrides {
    /// The role that a person has given to `link`.
    fn role(&self, link: &Link) -> Option<Role> {
        let is_pod = || self.pod_prefixes.iter().any(|p| link.name.starts_with(p));
        if self.uplinks.contains(&link.name) {
            Some(Role::Uplink)
        } else if self.tunnels.contains(&link.name) {
            Some(Role::Tunnel)
        } else {
            is_pod().then_some(Role::Pod)
        }
    }

    /// Whether devices of `role` are searched for.
    fn searches(&self, role: Role) -> bool {
        match role {
            Role::Pod => self.pod_prefixes.is_empty(),
            Role::Uplink => self.uplinks.is_empty(),
            Role::Tunnel => self.tunnels.is_empty(),
        }
    }
}

/// The role that `link` shows by itself.
fn discovered(link: &Link, default_routes: &BTreeSet<u32>) -> Option<Role> {
    // First: the uplink of a node that is itself a container is a veth, too.
    if default_routes.contains(&link.index) {
        return link.ethernet.then_some(Role::Uplink);
    }
    match link.kind {
        Kind::Veth => link.link_netnsid.is_some().then_some(Role::Pod),
        Kind::Overlay => Some(Role::Tunnel),
        Kind::Bridge | Kind::Vlan | Kind::Other => None,
    }
}

/// What the programs are to know about `link`, one of `links`.
fn interface(link: &Link, role: Role, links: &[Link], routing: &Routing) -> Option<Interface> {
    if role == Role::Pod {
        return within_bridge(link, links);
    }
    let snat = |is_family: fn(&IpAddr) -> bool| {
        primary(&link.addresses, is_family).map_or(Addr::UNSPECIFIED, Addr::from)
    };
    let [v4, v6] = routing.by_destination.map(u8::from);
    Some(Interface {
        snat4: snat(IpAddr::is_ipv4),
        snat6: snat(IpAddr::is_ipv6),
        role: role as u8,
        flags: (v4 * flags::BY_DESTINATION4) | (v6 * flags::BY_DESTINATION6),
        ..Interface::default()
    })
}

/// A pod's veth, if packets between it and others of its bridge are hidden from netfilter.
fn within_bridge(link: &Link, links: &[Link]) -> Option<Interface> {
    let bridge = links
        .iter()
        .find(|other| other.kind == Kind::Bridge && Some(other.index) == link.master)?;
    let [v4, v6] = bridge.filters.map(|filters| u8::from(!filters));
    let flags = (v4 * flags::DIRECT4) | (v6 * flags::DIRECT6);
    (flags != 0).then(|| Interface {
        bridge: bridge.index,
        role: Role::Pod as u8,
        flags,
        ..Interface::default()
    })
}

/// The networks that a bridge's addresses are in: whoever is there is on this node.
fn networks(addresses: &[AddressFacts]) -> impl Iterator<Item = IpNet> + '_ {
    addresses
        .iter()
        .filter(|address| address.is_own() && address.prefix_len < width(&address.ip))
        .filter_map(|address| Some(IpNet::new(address.ip, address.prefix_len).ok()?.trunc()))
}

/// The address of one family that the device's own packets carry.
///
/// Those of a subnet before single addresses, which are often VIPs that wander between nodes.
/// Permanent ones before leases. Then the oldest: a new one must not break flows that are
/// translated to another. The kernel lists the oldest IPv4 address first, and the oldest
/// IPv6 address last.
fn primary(addresses: &[AddressFacts], is_family: fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let rank = |a: &AddressFacts| (a.prefix_len < width(&a.ip), a.permanent);
    let mut best: Option<&AddressFacts> = None;
    for address in addresses.iter().filter(|a| is_family(&a.ip) && a.is_own()) {
        let better = best.is_none_or(|best| match rank(address).cmp(&rank(best)) {
            std::cmp::Ordering::Equal => address.ip.is_ipv6(),
            order => order.is_gt(),
        });
        if better {
            best = Some(address);
        }
    }
    best.map(|a| a.ip)
}

/// Length of an address of this family in bits.
fn width(ip: &IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::BITS as u8,
        IpAddr::V6(_) => Ipv6Addr::BITS as u8,
    }
}

impl AddressFacts {
    /// Whether it can be the source of packets to other hosts.
    fn is_own(&self) -> bool {
        self.global && self.usable && !self.secondary
    }
}

#[cfg(test)]
mod tests;
