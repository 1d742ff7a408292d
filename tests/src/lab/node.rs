//! A node: what Kubernetes would call a machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use ipnet::{Ipv4Net, Ipv6Net};

use super::hop::Hop;
use super::instance::Instance;
use super::netns::Netns;
use super::outside::{Router, default_routes, uplink};
use super::place::{Place, Site};
use super::vlan::Tag;
use super::wiring::{CARD, Wiring};
use super::{POD_NETWORK_V4, POD_NETWORK_V6, offload, plan, script, vlan};

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    site: Site,
    number: u8,
    uplink: String,
    uplink_peer: String,
    directory: PathBuf,
    pins: PathBuf,
    /// A router between this node and everybody else.
    hop: Option<Hop>,
    router: Arc<Router>,
}

impl Place for Node {
    fn site(&self) -> &Site {
        &self.site
    }
}

impl Node {
    /// Makes node `number`, from 1.
    pub(super) fn create(
        instance: &Arc<Instance>,
        router: &Arc<Router>,
        number: u8,
        wiring: &Wiring,
    ) -> Result<Self> {
        let name = format!("node{number}");
        let site = Site::create(instance, &name, Path::new(&name))?;
        let directory = instance.directory().join(&name);
        instance.make_directory(&directory)?;
        let pins = instance.make_pin_directory(&name)?;
        let router = Arc::clone(router);
        let hop = wiring.narrow_at(number);
        let hop = hop
            .map(|mtu| Hop::create(instance, &router, mtu))
            .transpose()?;
        let node = Self {
            site,
            number,
            uplink: wiring.uplink(),
            uplink_peer: name,
            directory,
            pins,
            hop,
            router,
        };
        node.connect(wiring)?;
        wiring.fabric.join(node.netns(), number, wiring)?;
        script::nft(node.netns(), &masquerade(&node.uplink))?;
        Ok(node)
    }

    /// Which node it is, from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its IPv4 address, on the uplink.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        plan::node(self.number).v4.addr()
    }

    /// Its IPv6 address, on the uplink.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        plan::node(self.number).v6.addr()
    }

    /// Its addresses in both families, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        plan::node(self.number).addresses()
    }

    /// Its addresses towards its own pods, IPv4 first.
    #[must_use]
    pub fn pod_gateway(&self) -> [IpAddr; 2] {
        plan::pod_gateway(self.number).addresses()
    }

    /// The addresses of its pods.
    #[must_use]
    pub fn pod_networks(&self) -> (Ipv4Net, Ipv6Net) {
        let nets = plan::pod_nets(self.number);
        (nets.v4, nets.v6)
    }

    /// The name of its uplink device: the network card, or a VLAN's device on it.
    #[must_use]
    pub fn uplink(&self) -> &str {
        &self.uplink
    }

    /// The name of its network card.
    #[must_use]
    pub fn card(&self) -> &'static str {
        CARD
    }

    /// The far end of the network card's cable: its namespace and its name.
    ///
    /// It has tx offload off; native XDP that sends (`XDP_TX`) on the uplink needs an
    /// XDP program here as well.
    #[must_use]
    pub fn uplink_peer(&self) -> (&Netns, &str) {
        let hop = self.hop.as_ref().map(Place::netns);
        (hop.unwrap_or(self.router.netns()), &self.uplink_peer)
    }

    /// A directory on bpffs, removed with the lab.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pins
    }

    /// A directory for files, removed with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.directory
    }

    /// Plugs the uplink into the switch.
    fn connect(&self, wiring: &Wiring) -> Result<()> {
        let (far, peer) = self.uplink_peer();
        let Wiring {
            tags, tx_offload, ..
        } = *wiring;
        self.netns().sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // Strict: what works here works on nodes that have not been loosened.
            ("ipv4/conf/all/rp_filter", "1"),
            ("ipv4/conf/default/rp_filter", "1"),
        ])?;
        let card = format!("link set {CARD} up");
        self.netns()
            .ip(&[uplink(peer, far, wiring.mtu_below(tags.len())), card])?;
        far.ip(&[format!("link set {peer} up")])?;
        vlan::create(self.netns(), CARD, wiring, (&self.pins, true))?;
        vlan::create(far, peer, wiring, (&self.pins, tx_offload))?;
        if !tx_offload {
            offload::disable_tx(far, peer)?;
        }
        let nets = plan::node(self.number).nets();
        let mut commands = nets
            .map(|net| format!("addr add {net} dev {}", self.uplink))
            .to_vec();
        commands.extend(default_routes(plan::ROUTER));
        self.netns().ip(&commands)?;
        let port = Tag::device_name(peer, tags);
        match &self.hop {
            Some(hop) => hop.lead_to_node(&self.router, &port, self.number, wiring),
            None => far.ip(&[format!("link set {port} master br0")]),
        }
    }
}

/// What pods send out of the cluster leaves with the node's address, as with flannel.
fn masquerade(uplink: &str) -> String {
    format!(
        "table inet lab {{
           chain postrouting {{
             type nat hook postrouting priority srcnat;
             oifname \"{uplink}\" ip saddr {POD_NETWORK_V4} ip daddr != {POD_NETWORK_V4} masquerade
             oifname \"{uplink}\" ip6 saddr {POD_NETWORK_V6} ip6 daddr != {POD_NETWORK_V6} masquerade
           }}
         }}"
    )
}
