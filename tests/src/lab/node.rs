//! A node: what Kubernetes would call a machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use ipnet::{Ipv4Net, Ipv6Net};

use super::fabric::Fabric;
use super::instance::Instance;
use super::netns::Netns;
use super::outside::{Router, default_routes, uplink};
use super::place::{Place, Site};
use super::{POD_NETWORK_V4, POD_NETWORK_V6, offload, plan, script};

/// The name of a node's uplink.
const UPLINK: &str = "eth0";

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    site: Site,
    number: u8,
    uplink_peer: String,
    directory: PathBuf,
    pins: PathBuf,
    router: Arc<Router>,
}

impl Place for Node {
    fn site(&self) -> &Site {
        &self.site
    }
}

impl Node {
    /// Makes node `number` of `1..=nodes`.
    pub(super) fn create(
        instance: &Arc<Instance>,
        router: &Arc<Router>,
        fabric: Fabric,
        (number, nodes): (u8, u8),
    ) -> Result<Self> {
        let name = format!("node{number}");
        let site = Site::create(instance, &name, Path::new(&name))?;
        let directory = instance.directory().join(&name);
        instance.make_directory(&directory)?;
        let pins = instance.make_pin_directory(&name)?;
        let router = Arc::clone(router);
        let node = Self {
            site,
            number,
            uplink_peer: name,
            directory,
            pins,
            router,
        };
        node.connect()?;
        fabric.join(node.netns(), number, nodes)?;
        script::nft(node.netns(), &masquerade())?;
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

    /// The name of its uplink device.
    #[must_use]
    pub fn uplink(&self) -> &'static str {
        UPLINK
    }

    /// The switch's end of the uplink: its namespace and its name.
    ///
    /// It has tx offload off; native XDP that sends (`XDP_TX`) on the uplink needs an
    /// XDP program here as well.
    #[must_use]
    pub fn uplink_peer(&self) -> (&Netns, &str) {
        (self.router.netns(), &self.uplink_peer)
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
    fn connect(&self) -> Result<()> {
        let (router, peer) = self.uplink_peer();
        self.netns().sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // Strict: what works here works on nodes that have not been loosened.
            ("ipv4/conf/all/rp_filter", "1"),
            ("ipv4/conf/default/rp_filter", "1"),
        ])?;
        let mut commands = vec![uplink(peer, &self.router, plan::UPLINK_MTU)];
        let nets = plan::node(self.number).nets();
        commands.extend(nets.map(|net| format!("addr add {net} dev {UPLINK}")));
        commands.push(format!("link set {UPLINK} up"));
        commands.extend(default_routes(plan::ROUTER));
        self.netns().ip(&commands)?;
        offload::disable_tx(router, peer)?;
        router.ip(&[format!("link set {peer} master br0 up")])
    }
}

/// What pods send out of the cluster leaves with the node's address, as with flannel.
fn masquerade() -> String {
    format!(
        "table inet lab {{
           chain postrouting {{
             type nat hook postrouting priority srcnat;
             oifname {UPLINK} ip saddr {POD_NETWORK_V4} ip daddr != {POD_NETWORK_V4} masquerade
             oifname {UPLINK} ip6 saddr {POD_NETWORK_V6} ip6 daddr != {POD_NETWORK_V6} masquerade
           }}
         }}"
    )
}
