//! Nodes with pods and agents, and an API server beyond their router.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};

use lb_common::{FrontendKey, protocol};
use lb_tests::apiserver::ApiServer;
use lb_tests::lab::{Agent, Cluster, Node, Place as _, Pod, Server, Site};
use serde_json::{Value, json};

use super::answers::Way;
use super::user::User;
use lb_tests::scene::PORT;

/// Where agents find the API server.
const API_PORT: u16 = 6443;
/// The first Service of each cluster, `kubernetes`.
const FIRST: ([u8; 4], u16) = ([10, 96, 0, 1], 443);

/// A pod: its name, the index of its node, and its addresses where they matter.
pub(super) type Wanted = (&'static str, usize, Option<[&'static str; 2]>);

/// A cluster at work.
pub(super) struct Stage {
    // Fields drop in this order.
    pub(super) agents: Vec<Agent>,
    pub(super) server: ApiServer,
    _servers: Vec<Server>,
    pub(super) pods: Vec<Pod>,
    client: Pod,
    pub(super) cluster: Cluster,
}

impl Stage {
    /// A cluster with these pods; the API does not know them yet.
    pub(super) fn new(nodes: usize, pods: &[Wanted]) -> Self {
        let cluster = Cluster::builder().nodes(nodes).build().expect("a lab");
        for node in cluster.nodes() {
            // A refusal that is held back is none that is to be measured.
            let unlimited = [("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")];
            node.netns().sysctl(&unlimited).expect("settings");
        }
        let pods: Vec<Pod> = pods.iter().map(|pod| start_pod(&cluster, pod)).collect();
        let servers = pods.iter().map(|pod| pod.serve(PORT));
        let servers = servers.collect::<Result<_, _>>().expect("servers");
        let mut stage = Self {
            agents: Vec::new(),
            server: start_server(&cluster),
            _servers: servers,
            pods,
            client: cluster.pod("client-pod", 0).expect("a pod"),
            cluster,
        };
        stage.start_agents();
        for agent in &mut stage.agents {
            let (addr, port) = FIRST;
            let key = FrontendKey::new(IpAddr::from(addr).into(), port, protocol::TCP);
            let served = agent.wait_for("the Service kubernetes is known", |frontends| {
                frontends.contains_key(&key)
            });
            served.expect("maps in step");
        }
        stage
    }

    /// Starts an agent on every node.
    pub(super) fn start_agents(&mut self) {
        let kubeconfig = self.cluster.dir().join("kubeconfig");
        let kubeconfig = kubeconfig.to_str().expect("a path in UTF-8");
        let nodes = self.cluster.nodes().iter();
        let agents = nodes.map(|node| Agent::start(node, &["--kubeconfig", kubeconfig]));
        self.agents = agents.collect::<Result<_, _>>().expect("agents");
    }

    pub(super) fn user(&self) -> User<'_> {
        User::of(&self.server)
    }

    /// A pod that asks.
    pub(super) fn client(&self) -> &Site {
        self.client.site()
    }

    /// From a pod to a port of these addresses.
    pub(super) fn inside(&self, addresses: &[&str], port: u16) -> Vec<Way<'_>> {
        let to = addresses.iter().map(|ip| socket(ip, port));
        Way::all(self.client(), to)
    }

    /// From outside to a port of every node.
    pub(super) fn outside(&self, port: u16) -> Vec<Way<'_>> {
        let addresses = self
            .cluster
            .nodes()
            .iter()
            .flat_map(|node| node.addresses());
        let to = addresses.map(|ip| SocketAddr::new(ip, port));
        Way::all(self.cluster.client().site(), to)
    }
}

fn start_pod(cluster: &Cluster, &(name, node, addresses): &Wanted) -> Pod {
    let pod = match addresses {
        None => cluster.pod(name, node),
        Some(ips) => cluster.pod_at(name, node, ips.map(|ip| ip.parse().expect("an address"))),
    };
    pod.expect("a pod")
}

/// Starts an API server that kubectl reaches here, and agents at the lab's client outside.
fn start_server(cluster: &Cluster) -> ApiServer {
    let outside = cluster.client();
    let ip = IpAddr::from(outside.ipv4());
    let builder = ApiServer::builder().tls().known_as(&[ip]);
    let server = builder.start().expect("an API server");
    let listener = outside
        .netns()
        .run(|| TcpListener::bind((ip, API_PORT)))
        .expect("a namespace")
        .expect("a free port");
    let address = server.listen(listener).expect("another socket");
    let kubeconfig = cluster.dir().join("kubeconfig");
    fs::write(kubeconfig, server.kubeconfig_at(address)).expect("a kubeconfig");
    for node in cluster.nodes() {
        server.apply(node_object(node)).expect("a good node");
    }
    server
}

fn node_object(node: &Node) -> Value {
    let addresses = node
        .addresses()
        .map(|ip| json!({"type": "InternalIP", "address": ip}));
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name()},
        "status": {"addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn socket(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}
