//! A cluster, and how to build one.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::cni::{Attachment, Cni};
use super::fabric::Fabric;
use super::instance::Instance;
use super::node::Node;
use super::outside::{Client, Router};
use super::place::Place as _;
use super::pod::Pod;
use super::preflight::BPFFS;
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
    fabric: Fabric,
    host_tx_offload: bool,
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self {
            nodes: 3,
            cni: Cni::default(),
            fabric: Fabric::default(),
            host_tx_offload: true,
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
        Self { fabric, ..self }
    }

    /// Whether packets may reach pods with checksums yet to be computed; true by default.
    ///
    /// Without, a wrong partial checksum shows.
    #[must_use]
    pub fn host_tx_offload(self, host_tx_offload: bool) -> Self {
        Self {
            host_tx_offload,
            ..self
        }
    }

    /// Builds the cluster.
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
        let instance = Arc::new(Instance::create()?);
        let router = Arc::new(Router::create(&instance).context("make the router")?);
        let client = Client::create(&instance, &router).context("make the client")?;
        let node = |number| {
            let node = Node::create(&instance, &router, self.fabric, (number, count));
            node.map(Arc::new)
                .with_context(|| format!("make node {number}"))
        };
        let nodes = (1..=count).map(node).collect::<Result<_>>()?;
        Ok(Cluster {
            nodes,
            client,
            router,
            options: self,
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
        self.options.fabric
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
            fabric,
            host_tx_offload,
            ..
        } = self.options;
        let attachment = Attachment {
            cni,
            mtu: fabric.pod_mtu(),
            addresses,
        };
        Pod::create(host, name, attachment, host_tx_offload)
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
