//! A router that has a smaller MTU towards the rest of the lab than towards whom it serves.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::instance::Instance;
use super::outside::Router;
use super::place::{Place, Site};
use super::plan;
use super::wiring::Wiring;

/// The router's device towards the hop, whose own is `eth0`.
const DOWN: &str = "hop";

/// Stands between the router and a node, or the client.
///
/// A node's neighbours do not know of it: they are answered in the name of whoever is on
/// the other side.
#[derive(Debug)]
pub(super) struct Hop(Site);

impl Place for Hop {
    fn site(&self) -> &Site {
        &self.0
    }
}

impl Hop {
    /// Makes the hop, and its link of the MTU given to the router.
    pub(super) fn create(instance: &Arc<Instance>, router: &Router, mtu: u32) -> Result<Self> {
        let site = Site::create(instance, "hop", Path::new("hop"))?;
        let hop = site.netns();
        hop.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let far = router.netns().name();
        let mut commands = vec![
            format!("link add eth0 mtu {mtu} type veth peer name {DOWN} mtu {mtu} netns {far}"),
            "link set eth0 up".to_owned(),
        ];
        commands.extend(
            plan::HOP
                .nets()
                .map(|net| format!("addr add {net} dev eth0")),
        );
        hop.ip(&commands)?;
        let mut commands = vec![format!("link set {DOWN} up")];
        let nets = plan::ROUTER_TO_HOP.nets();
        commands.extend(nets.map(|net| format!("addr add {net} dev {DOWN}")));
        router.netns().ip(&commands)?;
        let router = plan::ROUTER_TO_HOP.addresses();
        hop.ip(&router.map(|via| format!("route add default via {via}")))?;
        Ok(Self(site))
    }

    /// Serves the client, whose cable ends in `device`.
    pub(super) fn lead_to_client(&self, router: &Router, device: &str) -> Result<()> {
        let mut commands = vec![format!("link set {device} up")];
        let nets = plan::ROUTER_OUTSIDE.nets();
        commands.extend(nets.map(|net| format!("addr add {net} dev {device}")));
        self.netns().ip(&commands)?;
        let nets = plan::CLIENT.nets().map(|net| net.trunc());
        router.netns().ip(&routes(nets, plan::HOP))
    }

    /// Serves node `number`, whose cable ends in `device`.
    pub(super) fn lead_to_node(
        &self,
        router: &Router,
        device: &str,
        number: u8,
        wiring: &Wiring,
    ) -> Result<()> {
        let node = plan::node(number);
        let mut commands = vec![format!("link set {device} up")];
        let nets = plan::HOP_TO_NODE.nets();
        commands.extend(nets.map(|net| format!("addr add {net} dev {device}")));
        let addresses = node.addresses();
        commands.extend(addresses.map(|address| format!("route add {address} dev {device}")));
        let onlink = plan::pod_nets(number).nets().into_iter().zip(addresses);
        commands.extend(
            onlink.map(|(net, via)| format!("route add {net} via {via} dev {device} onlink")),
        );
        self.netns().ip(&commands)?;
        let others = (1..=wiring.nodes).filter(|other| *other != number);
        let others: Vec<_> = others.collect();
        let behind = others.iter().map(|other| plan::node(*other));
        answer_for(self, device, behind.chain([plan::ROUTER]))?;

        let mut commands = routes(addresses, plan::HOP);
        commands.extend(routes(plan::pod_nets(number).nets(), plan::HOP));
        for other in others {
            let via = plan::node(other);
            commands.extend(routes(plan::pod_nets(other).nets(), via));
        }
        router.netns().ip(&commands)?;
        answer_for(router, "br0", [node])
    }
}

/// The commands that lead to networks, one a family, by a gateway.
fn routes(to: [impl std::fmt::Display; 2], gateway: plan::Dual) -> Vec<String> {
    let pairs = to.into_iter().zip(gateway.addresses());
    pairs
        .map(|(net, via)| format!("route add {net} via {via}"))
        .collect()
}

/// Lets a place answer in the name of others, at once, who ask for them at `device`.
fn answer_for(
    place: &impl Place,
    device: &str,
    others: impl IntoIterator<Item = plan::Dual>,
) -> Result<()> {
    let settings = [
        (format!("ipv4/conf/{device}/proxy_arp"), "1"),
        (format!("ipv4/neigh/{device}/proxy_delay"), "0"),
        (format!("ipv6/conf/{device}/proxy_ndp"), "1"),
        (format!("ipv6/neigh/{device}/proxy_delay"), "0"),
    ];
    let settings = settings
        .each_ref()
        .map(|(key, value)| (key.as_str(), *value));
    place.netns().sysctl(&settings)?;
    // IPv4 needs no list: the routes say who is behind another device.
    let proxies = others.into_iter().map(|other| {
        let address = other.v6.addr();
        format!("neigh add proxy {address} dev {device}")
    });
    place
        .netns()
        .ip(&proxies.collect::<Vec<_>>())
        .with_context(|| format!("answer for others at {device}"))
}
