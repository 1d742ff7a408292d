//! How pods of one node reach those of another.

use anyhow::Result;

use super::netns::Netns;
use super::wiring::Wiring;
use super::{plan, script};

/// The network between the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fabric {
    /// Nodes have routes to each other's pods, by the nodes' addresses.
    #[default]
    Direct,
    /// Nodes have a tunnel device, `vxlan0`, with a fixed list of peers (as flannel).
    Vxlan,
}

impl Fabric {
    /// Both, for tests that go through all.
    pub const ALL: [Self; 2] = [Self::Direct, Self::Vxlan];

    /// The MTU between pods of different nodes, in bytes, if uplinks have `uplink_mtu`.
    #[must_use]
    pub fn mtu(self, uplink_mtu: u32) -> u32 {
        match self {
            Self::Direct => uplink_mtu,
            Self::Vxlan => uplink_mtu - plan::VXLAN_OVERHEAD,
        }
    }

    /// Lets node `number` of `1..=nodes` reach the pods of the others.
    pub(super) fn join(self, netns: &Netns, number: u8, wiring: &Wiring) -> Result<()> {
        let nodes = wiring.nodes;
        let others = (1..=nodes).filter(|other| *other != number);
        match self {
            Self::Direct => netns.ip(&others.flat_map(direct_routes).collect::<Vec<_>>()),
            Self::Vxlan => {
                let mut commands = tunnel(number, self.mtu(wiring.mtu), &wiring.uplink());
                commands.extend(others.clone().flat_map(tunnel_routes));
                netns.ip(&commands)?;
                script::bridge(netns, &others.map(forwarding_entry).collect::<Vec<_>>())
            }
        }
    }
}

fn direct_routes(other: u8) -> Vec<String> {
    let routes = plan::pod_nets(other)
        .nets()
        .into_iter()
        .zip(plan::node(other).addresses());
    routes
        .map(|(net, via)| format!("route add {net} via {via}"))
        .collect()
}

/// Makes the tunnel device.
fn tunnel(number: u8, mtu: u32, uplink: &str) -> Vec<String> {
    let (mac, local) = (plan::tunnel_mac(number), plan::node(number).v4.addr());
    let mut commands = vec![format!(
        "link add vxlan0 address {mac} mtu {mtu} type vxlan id 77 dev {uplink} local {local} \
         dstport 8472 nolearning"
    )];
    commands.extend(
        plan::tunnel(number)
            .nets()
            .map(|net| format!("addr add {net} dev vxlan0")),
    );
    commands.push("link set vxlan0 up".to_owned());
    commands
}

/// Routes to another node's pods by the address of its tunnel device, whose MAC is known.
fn tunnel_routes(other: u8) -> Vec<String> {
    let mac = plan::tunnel_mac(other);
    let routes = plan::pod_nets(other)
        .nets()
        .into_iter()
        .zip(plan::tunnel(other).addresses());
    let commands = routes.flat_map(|(net, via)| {
        [
            format!("neigh add {via} lladdr {mac} dev vxlan0 nud permanent"),
            format!("route add {net} via {via} dev vxlan0 onlink"),
        ]
    });
    commands.collect()
}

/// Says on which node a tunnel device's MAC is.
fn forwarding_entry(other: u8) -> String {
    let (mac, node) = (plan::tunnel_mac(other), plan::node(other).v4.addr());
    format!("fdb append {mac} dev vxlan0 dst {node}")
}
