//! The network devices of the node under test.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use lb_common::{Interface, Role, interface::flags};

use super::Family;
use crate::lab::Netns;

/// MAC address of the node's uplink.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 77, 11];
/// MAC address of the gateway.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 77, 1];
/// MAC address of node 2.
pub const NODE2_MAC: [u8; 6] = [2, 0, 0, 0, 77, 12];
/// The tunnel,
pub const TUNNEL_MAC: [u8; 6] = [2, 0, 0, 0, 4, 11];
/// and the node at its other end.
pub const BEHIND_MAC: [u8; 6] = [2, 0, 0, 0, 4, 0];

/// Makes the devices, addresses, routes and neighbours of [`Family`]'s plan. Neighbours are
/// permanent: nobody answers here.
const SCRIPT: &[&str] = &[
    "link set lo up",
    "link add uplink address 02:00:00:00:4d:0b type veth peer name wire",
    "link set wire up",
    "link set uplink up",
    "address add 192.168.77.11/24 dev uplink",
    "address add fd00:77::b/64 dev uplink nodad",
    "neighbour add 192.168.77.1 lladdr 02:00:00:00:4d:01 dev uplink nud permanent",
    "neighbour add fd00:77::1 lladdr 02:00:00:00:4d:01 dev uplink nud permanent",
    "neighbour add 192.168.77.12 lladdr 02:00:00:00:4d:0c dev uplink nud permanent",
    "neighbour add fd00:77::c lladdr 02:00:00:00:4d:0c dev uplink nud permanent",
    "route add default via 192.168.77.1",
    "route add default via fd00:77::1",
    "route add 10.244.2.0/24 via 192.168.77.12",
    "route add fd00:10:244:2::/64 via fd00:77::c",
    "route add 10.244.3.0/24 via 192.168.77.13",
    "route add fd00:10:244:3::/64 via fd00:77::d",
    "route add unreachable 10.244.5.0/24",
    "route add unreachable fd00:10:244:5::/64",
    "link add pod type veth peer name eth0",
    "link set eth0 up",
    "link set pod up",
    "route add 10.244.1.0/24 dev pod",
    "route add fd00:10:244:1::/64 dev pod",
    "link add tunnel address 02:00:00:00:04:0b type vxlan id 7 dstport 4789 dev uplink local 192.168.77.11 nolearning",
    "link set tunnel up",
    "address add 10.244.1.0/32 dev tunnel",
    "address add fd00:10:244:1::/128 dev tunnel nodad",
    "neighbour add 10.244.4.0 lladdr 02:00:00:00:04:00 dev tunnel nud permanent",
    "neighbour add fd00:10:244:4::1 lladdr 02:00:00:00:04:00 dev tunnel nud permanent",
    "route add 10.244.4.0/24 via 10.244.4.0 dev tunnel onlink",
    "route add fd00:10:244:4::/64 via fd00:10:244:4::1 dev tunnel onlink",
];

/// Interface indices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Devices {
    pub(super) uplink: u32,
    pub(super) pod: u32,
    pub(super) tunnel: u32,
    /// Families whose packets for pods may go by a bridge, as bits of `lb_common::interface::flags`.
    /// The pods' device itself is taken for it: that is where their route leads.
    pub(super) direct: u8,
    /// Whether XDP meets the uplink's packets first.
    pub(super) xdp: bool,
    /// What uplinks and tunnels say about routes, as bits of `lb_common::interface::flags`.
    pub(super) routing: u8,
}

impl Devices {
    /// Makes them in `netns`.
    pub(super) fn create(netns: &Netns) -> Result<Self> {
        netns.ip(SCRIPT)?;
        // A routing table answers for packets only where they are forwarded.
        netns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        Ok(Self {
            uplink: netns.interface_index("uplink")?,
            pod: netns.interface_index("pod")?,
            tunnel: netns.interface_index("tunnel")?,
            direct: 0,
            routing: Self::BY_DESTINATION,
            xdp: false,
        })
    }

    /// What uplinks and tunnels of a node have whose routing tables are like those of most.
    pub(super) const BY_DESTINATION: u8 = flags::BY_DESTINATION4 | flags::BY_DESTINATION6;

    /// What `INTERFACES` is to hold.
    pub(super) fn interfaces(&self) -> BTreeMap<u32, Interface> {
        let interface = |role: Role, address: fn(Family) -> IpAddr| Interface {
            snat4: address(Family::V4).into(),
            snat6: address(Family::V6).into(),
            role: role as u8,
            flags: self.routing,
            ..Interface::default()
        };
        let mut interfaces = BTreeMap::from([
            (
                self.uplink,
                Interface {
                    flags: self.routing | (u8::from(self.xdp) * flags::XDP),
                    ..interface(Role::Uplink, |family| family.node(1))
                },
            ),
            (self.tunnel, interface(Role::Tunnel, Family::tunnel)),
        ]);
        if self.direct != 0 {
            let pod = Interface {
                bridge: self.pod,
                role: Role::Pod as u8,
                flags: self.direct,
                ..Interface::default()
            };
            interfaces.insert(self.pod, pod);
        }
        interfaces
    }
}
