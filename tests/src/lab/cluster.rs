//! A cluster, and how to build one.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::cni::{Attachment, Cni};
use super::fabric::Fabric;
use super::instance::Instance;
use super::mode::{self, Mode};
use super::node::Node;
use super::outside::{Client, Router};
use super::place::Place as _;
use super::pod::Pod;
use super::preflight::BPFFS;
use super::vlan::Tag;
use super::wiring::{Narrow, Wiring};
use super::{netns, plan, remains};

/// Nodes, the router between them, and a client outside.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Arc<Node>>,
    client: Client,
    router: Arc<Router>,
    options: ClusterBuilder,
    instance: Arc<Instance>,
}

/// What a cluster shall be like.
#[derive(Clone, Copy, Debug)]
pub struct ClusterBuilder {
    nodes: usize,
    cni: Cni,
    mode: Mode,
    pod_mtu: Option<u32>,
    wiring: Wiring,
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self {
            nodes: 3,
            cni: Cni::default(),
            mode: Mode::default(),
            pod_mtu: None,
            wiring: Wiring::default(),
        }
    }
}

impl ClusterBuilder {
    /// How many nodes; 3 by default.
    #[must_use]
    pub fn nodes(self, nodes: usize) -> Self {
        Self { nodes, ..self }
    }

    /// How pods are attached; by a bridge by default.
    #[must_use]
    pub fn cni(self, cni: Cni) -> Self {
        Self { cni, ..self }
    }

    /// How nodes reach each other's pods; by routes by default.
    #[must_use]
    pub fn fabric(self, fabric: Fabric) -> Self {
        self.wired(|wiring| wiring.fabric = fabric)
    }

    /// Whether packets may reach pods with checksums yet to be computed; true by default.
    ///
    /// Without, a wrong partial checksum shows.
    #[must_use]
    pub fn host_tx_offload(self, host_tx_offload: bool) -> Self {
        let mode = Mode {
            tx_off: !host_tx_offload,
            ..self.mode
        };
        Self { mode, ..self }
    }

    /// The MTU of everything, in bytes; 1500 by default. Tunnels, and what is behind them, have
    /// less by their headers.
    #[must_use]
    pub fn mtu(self, mtu: u32) -> Self {
        self.wired(|wiring| wiring.mtu = mtu)
    }

    /// The MTU of pods, if it is not what fits the network between them.
    #[must_use]
    pub fn pod_mtu(self, mtu: u32) -> Self {
        let pod_mtu = Some(mtu);
        Self { pod_mtu, ..self }
    }

    /// Puts a router with a smaller MTU on somebody's way.
    ///
    /// Routes by the address of a node with such a router in front do not go.
    #[must_use]
    pub fn narrow(self, place: Narrow, mtu: u32) -> Self {
        self.wired(|wiring| wiring.narrow = Some((place, mtu)))
    }

    /// Whether packets may reach nodes with checksums and segmentation yet to be done; false by
    /// default, because XDP on a veth would spoil them.
    #[must_use]
    pub fn uplink_tx_offload(self, tx_offload: bool) -> Self {
        self.wired(|wiring| wiring.tx_offload = tx_offload)
    }

    /// Nodes are in this VLAN: their addresses and routes are on a device of its own, and frames
    /// on the cables carry these tags, the first one outermost.
    #[must_use]
    pub fn vlan(self, tags: &'static [Tag]) -> Self {
        self.wired(|wiring| wiring.tags = tags)
    }

    /// How nodes reach each other's pods.
    #[must_use]
    pub fn fabric_of(self) -> Fabric {
        self.wiring.fabric
    }

    fn wired(mut self, change: impl FnOnce(&mut Wiring)) -> Self {
        change(&mut self.wiring);
        self
    }

    /// Lets nodes drop what their conntrack takes for invalid.
    #[must_use]
    pub fn drop_invalid(self) -> Self {
        let mode = Mode {
            drop_invalid: true,
            ..self.mode
        };
        Self { mode, ..self }
    }

    /// Builds the cluster, at least as unkind as the environment says ([`Mode`]).
    ///
    /// # Errors
    /// Those of [`preflight`](super::preflight()), and whatever the kernel refuses.
    pub fn build(self) -> Result<Cluster> {
        ensure!(
            (1..=plan::MAX_NODES).contains(&self.nodes),
            "{} nodes cannot be built",
            self.nodes
        );
        let count = u8::try_from(self.nodes)?;
        let wiring = Wiring {
            nodes: count,
            ..self.wiring
        };
        let everywhere = Mode::of_environment()?;
        let mode = Mode {
            tx_off: self.mode.tx_off || everywhere.tx_off,
            drop_invalid: self.mode.drop_invalid || everywhere.drop_invalid,
        };
        let instance = Arc::new(Instance::create()?);
        let router = Arc::new(Router::create(&instance).context("make the router")?);
        let client = Client::create(&instance, &router, &wiring).context("make the client")?;
        let node = |number| {
            let node = Node::create(&instance, &router, number, &wiring);
            node.map(Arc::new)
                .with_context(|| format!("make node {number}"))
        };
        let nodes: Vec<Arc<Node>> = (1..=count).map(node).collect::<Result<_>>()?;
        for node in nodes.iter().filter(|_| mode.drop_invalid) {
            mode::drop_invalid(node.netns())?;
        }
        Ok(Cluster {
            nodes,
            client,
            router,
            options: Self { mode, ..self },
            instance,
        })
    }
}

impl Cluster {
    /// A cluster to be described: three nodes, a bridge for pods, direct routes.
    #[must_use]
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// The lab's name, which all that belongs to it begins with.
    #[must_use]
    pub fn name(&self) -> &str {
        self.instance.name()
    }

    /// The lab's own directory for files, removed with it.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.instance.directory()
    }

    /// The nodes, `node1` first.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// A node by its index, from 0.
    ///
    /// # Panics
    /// When there are not as many nodes.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The client outside of the cluster.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The router between the nodes and the client.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// How pods are attached.
    #[must_use]
    pub fn cni(&self) -> Cni {
        self.options.cni
    }

    /// How nodes reach each other's pods.
    #[must_use]
    pub fn fabric(&self) -> Fabric {
        self.options.wiring.fabric
    }

    /// How unkind the lab is.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.options.mode
    }

    /// Starts a pod on a node, by the node's index, from 0.
    ///
    /// # Errors
    /// When there is no such node, the name is taken, or the plugin refuses.
    pub fn pod(&self, name: &str, node: usize) -> Result<Pod> {
        self.new_pod(name, node, None)
    }

    /// Starts a pod with these addresses, IPv4 first, which must be of the node's pod networks.
    ///
    /// # Errors
    /// Those of [`pod`](Self::pod), and when an address is taken.
    pub fn pod_at(&self, name: &str, node: usize, addresses: [IpAddr; 2]) -> Result<Pod> {
        self.new_pod(name, node, Some(addresses))
    }

    fn new_pod(&self, name: &str, node: usize, addresses: Option<[IpAddr; 2]>) -> Result<Pod> {
        let host = self
            .nodes
            .get(node)
            .with_context(|| format!("no node at index {node}"))?;
        let ClusterBuilder {
            cni,
            mode,
            pod_mtu,
            wiring,
            ..
        } = self.options;
        let attachment = Attachment {
            cni,
            mtu: pod_mtu.unwrap_or_else(|| wiring.fabric.mtu(wiring.mtu)),
            addresses,
        };
        Pod::create(host, name, attachment, !mode.tx_off)
            .with_context(|| format!("make pod {name} on {}", host.name()))
    }

    /// Makes this process part of a lab that is kept: it ends with the lab.
    ///
    /// # Errors
    /// When it cannot move into the lab's cgroup.
    pub fn hold(&self) -> Result<()> {
        self.instance.hold()
    }

    /// Lets the lab outlive its values and this process, servers included; says where
    /// it is and how to enter it.
    ///
    /// [`remove_lab`](super::remove_lab) and [`remove_kept`](super::remove_kept) end it.
    ///
    /// # Errors
    /// When the lab cannot be marked as kept.
    pub fn keep(&self) -> Result<String> {
        self.instance.keep()?;
        let prefix = format!("{}-", self.name());
        let mut text = format!("The lab {} stays. Its places:\n", self.name());
        let mut names: Vec<_> = remains::entries(netns::DIRECTORY).collect();
        names.sort_unstable();
        for name in names {
            if let Some(place) = name.strip_prefix(&prefix) {
                let path = Path::new(netns::DIRECTORY).join(&name);
                let _ = writeln!(text, "  {place:<12} nsenter --net={}", path.display());
            }
        }
        let (files, cgroup) = (self.dir(), self.instance.cgroup());
        let _ = writeln!(text, "Its files:   {}", files.display());
        let _ = writeln!(text, "Its cgroups: {}", cgroup.display());
        let _ = writeln!(text, "Its pins:    {BPFFS}/{prefix}*");
        Ok(text)
    }
}
