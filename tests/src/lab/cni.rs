//! Attaches pods by real CNI plugins, in the CNI protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::netns::Netns;
use super::node::Node;
use super::place::Place as _;
use super::{plan, script};

/// The bridge that the plugin of that name makes.
const BRIDGE: &str = "cni0";

/// The plugin that attaches pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cni {
    /// The node's pods are ports of one bridge, `cni0`, and in one subnet.
    #[default]
    Bridge,
    /// Every pod has a routed link of its own.
    Ptp,
}

impl Cni {
    /// Both, for tests that go through all.
    pub const ALL: [Self; 2] = [Self::Bridge, Self::Ptp];

    /// The plugin's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
        }
    }
}

/// A pod's network, as a plugin is told about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment {
    pub(super) cni: Cni,
    pub(super) mtu: u32,
    /// The pod's addresses; the next that are free, if it is not said.
    pub(super) addresses: Option<[IpAddr; 2]>,
}

/// What a plugin has made.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Ipv6Addr,
    /// The node's end of the pod's veth.
    pub(super) veth: String,
    pub(super) veth_index: u32,
}

/// The parts of a CNI result that are read.
#[derive(Debug, Deserialize)]
struct CniResult {
    interfaces: Vec<CniInterface>,
    ips: Vec<CniAddress>,
}

#[derive(Debug, Deserialize)]
struct CniInterface {
    name: String,
    /// The namespace; absent for the node's own.
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct CniAddress {
    address: IpNet,
}

impl Attachment {
    /// Gives the namespace of a pod an `eth0` (CNI's ADD).
    pub(super) fn add(self, node: &Node, pod: &Netns) -> Result<Attached> {
        let output = self.call("ADD", node, pod)?;
        let result: CniResult =
            serde_json::from_str(&output).with_context(|| format!("parse the result {output}"))?;
        result.into_attached(node)
    }

    /// Takes it away again, with the addresses (CNI's DEL).
    pub(super) fn delete(self, node: &Node, pod: &Netns) -> Result<()> {
        self.call("DEL", node, pod).map(drop)
    }

    fn call(self, verb: &str, node: &Node, pod: &Netns) -> Result<String> {
        let directory = &node.site().instance().host().cni_directory;
        let mut plugin = node.netns().command(directory.join(self.cni.name()));
        plugin
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod.name())
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", directory);
        let (done, stdout, stderr) = script::feed(&mut plugin, &self.config(node).to_string())?;
        // Plugins report errors on standard output.
        ensure!(done, "CNI {verb} by {}: {stdout}{stderr}", self.cni.name());
        Ok(stdout)
    }

    fn config(self, node: &Node) -> Value {
        let Self {
            cni,
            mtu,
            addresses,
        } = self;
        let (nets, gateway) = (
            plan::pod_nets(node.number()),
            plan::pod_gateway(node.number()),
        );
        let pairs = nets.nets().into_iter().zip(gateway.addresses());
        let ranges: Vec<_> = pairs
            .map(|(subnet, gateway)| json!([{ "subnet": subnet, "gateway": gateway }]))
            .collect();
        json!({
            "cniVersion": "1.0.0",
            "name": "lab",
            "type": cni.name(),
            "bridge": BRIDGE,
            "isGateway": true,
            "hairpinMode": false,
            "ipMasq": false,
            "mtu": mtu,
            "args": { "cni": { "ips": addresses.iter().flatten().collect::<Vec<_>>() } },
            "ipam": {
                "type": "host-local",
                "dataDir": node.dir().join("cni"),
                "ranges": ranges,
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
        })
    }
}

impl CniResult {
    fn into_attached(self, node: &Node) -> Result<Attached> {
        let is_veth = |link: &CniInterface| link.sandbox.is_empty() && link.name != BRIDGE;
        let veth = self
            .interfaces
            .into_iter()
            .find(is_veth)
            .context("no veth in the result")?
            .name;
        let addresses = || self.ips.iter().map(|ip| ip.address);
        let ipv4 = addresses().find_map(|net| match net {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        });
        let ipv6 = addresses().find_map(|net| match net {
            IpNet::V6(net) => Some(net.addr()),
            IpNet::V4(_) => None,
        });
        Ok(Attached {
            ipv4: ipv4.context("no IPv4 address in the result")?,
            ipv6: ipv6.context("no IPv6 address in the result")?,
            veth_index: node.netns().interface_index(&veth)?,
            veth,
        })
    }
}
