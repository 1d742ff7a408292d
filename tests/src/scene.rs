//! The cluster of the tests: `alpaca-prod` with three pods on two of three nodes.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::lab::{Agent, AgentSetup, Cluster, ClusterBuilder, Fabric, Node, Place, Pod, Server};
use crate::tool::{Protocol, Reply, ServeOptions, Shape};
use lb_agent::dataplane::bpf::pinned_frontends;
use lb_common::counter::{Hook, Outcome};
use lb_common::{Frontend, FrontendKey, protocol};

/// The Service's cluster addresses.
pub const CLUSTER_IPS: [&str; 2] = ["10.96.0.17", "fd00:10:96::11"];
/// Addresses of the Service that are on no node.
pub const EXTERNAL_IPS: [&str; 2] = ["198.51.100.7", "2001:db8:aa::7"];
/// The Service's port.
pub const PORT: u16 = 8000;
/// The same on nodes.
pub const NODE_PORT: u16 = 30366;

/// What a test asks for.
pub struct Stage {
    /// Where it happens.
    pub cluster: ClusterBuilder,
    /// Node indexes of the backends `alpaca-1`, `alpaca-2`, …
    pub backends: &'static [usize],
    /// More flags for the agents.
    pub flags: &'static [&'static str],
}

/// Pods that serve, and an agent on every node.
pub struct Scene {
    // Fields drop in this order.
    /// One for each node.
    pub agents: Vec<Agent>,
    servers: Vec<Server>,
    /// The Service's pods, those that it has left, too.
    pub backends: Vec<Pod>,
    /// What the agents read.
    pub manifests: PathBuf,
    /// The nodes.
    pub cluster: Cluster,
}

impl Scene {
    /// Builds the cluster, and waits until every agent serves.
    ///
    /// # Panics
    /// As all of these: when something fails.
    #[must_use]
    pub fn new(stage: Stage) -> Self {
        let cluster = stage.cluster.build().expect("a lab");
        let backends: Vec<Pod> = stage
            .backends
            .iter()
            .zip(1..)
            .map(|(node, number)| cluster.pod(&format!("alpaca-{number}"), *node))
            .collect::<Result<_, _>>()
            .expect("pods");
        let servers = backends
            .iter()
            .map(|pod| pod.serve(PORT))
            .collect::<Result<_, _>>()
            .expect("servers");
        let manifests = cluster.dir().join("manifests.yaml");
        let mut scene = Self {
            agents: Vec::new(),
            servers,
            backends,
            manifests,
            cluster,
        };
        scene.write_manifests(&(0..stage.backends.len()).collect::<Vec<_>>());
        scene.start_agents(stage.flags);
        scene
    }

    /// A scene of two nodes in which the first sends from `addresses` of its own, at `device`. The backend
    /// is a pod of the second.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn sending_from(
        fabric: Fabric,
        flags: &'static [&'static str],
        device: &str,
        addresses: [&str; 2],
    ) -> Self {
        let scene = Self::new(Stage {
            cluster: Cluster::builder().nodes(2).fabric(fabric),
            backends: &[1],
            flags,
        });
        let add = addresses.map(|addr| {
            // Nobody is to send from it unasked: of IPv6's, the kernel takes the newest.
            let len = if addr.contains(':') {
                "128 nodad preferred_lft 0"
            } else {
                "32"
            };
            format!("address add dev {device} {addr}/{len}")
        });
        let netns = scene.cluster.node(0).netns();
        netns.ip(&add).expect("addresses");
        scene
    }

    /// Starts another pod on a node, one of no Service, and waits until it can dial them.
    ///
    /// # Panics
    /// When it cannot be started, or is not served in time.
    #[must_use]
    pub fn pod(&self, name: &str, node: usize) -> Pod {
        let pod = self.cluster.pod(name, node).expect("a pod");
        let served = self.agents[node].wait_until_it_serves(&pod);
        served.expect("programs at the pod's device");
        pod
    }

    /// Writes a manifest of the Service and these of its backends; whole, or not at all.
    fn write_manifests(&self, backends: &[usize]) {
        let mut text = service();
        for backend in backends {
            text += &pod_manifest(&self.backends[*backend]);
        }
        let new = self.manifests.with_extension("new");
        fs::write(&new, text).expect("a manifest");
        fs::rename(&new, &self.manifests).expect("a manifest in its place");
    }

    /// Makes these the Service's backends, on every node.
    pub fn serve_by(&mut self, backends: &[usize]) {
        let key = FrontendKey::new(vips()[0].into(), PORT, protocol::TCP);
        let before: Vec<Frontend> = self
            .agents
            .iter()
            .map(|agent| pinned_frontends(agent.pin_dir()).expect("frontends")[&key])
            .collect();
        self.write_manifests(backends);
        for (agent, before) in self.agents.iter_mut().zip(before) {
            agent
                .wait_for("the new backends are in the tables", |frontends| {
                    frontends.get(&key).is_some_and(|now| *now != before)
                })
                .expect("maps in step");
        }
    }

    /// Ends the servers of all backends: their ports are closed, while the Service goes on.
    pub fn stop_serving(&mut self) {
        self.servers.clear();
    }

    /// Lets backends answer over UDP in another shape.
    pub fn answer_in(&mut self, shape: Shape) {
        self.stop_serving();
        let serve = |pod: &Pod| {
            let answers = shape;
            pod.serve_with(ServeOptions {
                answers,
                ..ServeOptions::new(pod.name(), PORT)
            })
        };
        let servers = self.backends.iter().map(serve);
        self.servers = servers.collect::<Result<_, _>>().expect("servers");
    }

    /// Starts agents by other means than usual.
    pub fn start_agents_by(&mut self, start: impl Fn(&Node, &[&str]) -> anyhow::Result<Agent>) {
        let manifests = self.manifests.to_str().expect("a path in UTF-8").to_owned();
        let flags = ["--manifests", &manifests];
        let nodes = self.cluster.nodes().iter();
        self.agents = nodes
            .map(|node| start(node, &flags).expect("an agent"))
            .collect();
        for agent in &mut self.agents {
            let said = agent.wait_until_it_says("in step with the source");
            said.expect("maps in step");
        }
    }

    /// Starts agents, of another build if there is a `binary`, and waits until they have written
    /// `text` into their logs.
    pub fn start_agents_until(&mut self, text: &str, flags: &[&str], binary: Option<&Path>) {
        let manifests = self.manifests.to_str().expect("a path in UTF-8").to_owned();
        let flags = [&["--manifests", &manifests], flags].concat();
        let setup = AgentSetup {
            binary,
            ..AgentSetup::default()
        };
        let start = |node| Agent::start_as(node, &flags, &setup);
        let nodes = self.cluster.nodes().iter();
        self.agents = nodes.map(|node| start(node).expect("an agent")).collect();
        for agent in &mut self.agents {
            agent.wait_until_it_says(text).expect("it says so");
        }
    }

    /// Starts an agent on each node, with these flags.
    pub fn start_agents(&mut self, flags: &[&str]) {
        let manifests = self.manifests.to_str().expect("a path in UTF-8").to_owned();
        let flags = [&["--manifests", &manifests], flags].concat();
        self.agents = self
            .cluster
            .nodes()
            .iter()
            .map(|node| Agent::start(node, &flags).expect("an agent"))
            .collect();
        for agent in &mut self.agents {
            agent
                .wait_for("alpaca-prod is served", |frontends| {
                    vips().iter().all(|vip| {
                        let key = FrontendKey::new((*vip).into(), PORT, protocol::UDP);
                        frontends.get(&key).is_some_and(|f| !f.inside.is_empty())
                    })
                })
                .expect("maps in step");
        }
    }

    /// The Service's cluster addresses with its port.
    #[must_use]
    pub fn cluster_ips() -> [SocketAddr; 2] {
        CLUSTER_IPS.map(|ip| SocketAddr::new(ip.parse().expect("an address"), PORT))
    }

    /// The Service's external addresses with its port.
    #[must_use]
    pub fn external_ips() -> [SocketAddr; 2] {
        EXTERNAL_IPS.map(|ip| SocketAddr::new(ip.parse().expect("an address"), PORT))
    }

    /// What the agent of a node has counted.
    #[must_use]
    pub fn count(&self, node: usize, hook: Hook, outcome: Outcome) -> u64 {
        self.agents[node].counter(hook, outcome).expect("counters")
    }

    /// The Service's port on a node, over both families.
    #[must_use]
    pub fn node_ports(&self, node: usize) -> [SocketAddr; 2] {
        self.cluster
            .node(node)
            .addresses()
            .map(|addr| SocketAddr::new(addr, NODE_PORT))
    }

    /// The names of the Service's pods.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.backends.iter().map(|p| p.name().to_owned()).collect()
    }
}

fn vips() -> [IpAddr; 2] {
    CLUSTER_IPS.map(|ip| ip.parse().expect("an address"))
}

fn service() -> String {
    let [v4, v6] = CLUSTER_IPS;
    let [external4, external6] = EXTERNAL_IPS;
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: alpaca-prod, namespace: default}}
spec:
  type: NodePort
  selector: {{app: alpaca, env: prod}}
  clusterIP: {v4}
  clusterIPs: ['{v4}', '{v6}']
  externalIPs: ['{external4}', '{external6}']
  ports:
  - {{name: tcp, protocol: TCP, port: {PORT}, targetPort: {PORT}, nodePort: {NODE_PORT}}}
  - {{name: udp, protocol: UDP, port: {PORT}, targetPort: {PORT}, nodePort: {NODE_PORT}}}
"
    )
}

fn pod_manifest(pod: &Pod) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {}, namespace: default, labels: {{app: alpaca, env: prod}}}}
spec: {{nodeName: {}}}
status:
  phase: Running
  podIPs: [{{ip: '{}'}}, {{ip: '{}'}}]
  conditions: [{{type: Ready, status: 'True'}}]
",
        pod.name(),
        pod.node().name(),
        pod.ipv4(),
        pod.ipv6()
    )
}

/// [`reach_all`] over both protocols, for every address of `to`.
#[track_caller]
pub fn reach_all_ways(
    from: &impl Place,
    to: impl IntoIterator<Item = SocketAddr>,
    wanted: &BTreeSet<String>,
    check: impl Fn(&Reply),
) {
    for to in to {
        for protocol in Protocol::ALL {
            reach_all(from, protocol, to, wanted, &check);
        }
    }
}

/// Requests from `from` until every one of `wanted` has answered. Every reply must pass `check`;
/// nobody else may answer, and nothing may fail.
#[track_caller]
pub fn reach_all(
    from: &impl Place,
    protocol: Protocol,
    to: SocketAddr,
    wanted: &BTreeSet<String>,
    check: impl Fn(&Reply),
) {
    const TRIES: usize = 60;
    let mut met = BTreeSet::new();
    for _ in 0..TRIES {
        let reply = match from.request(protocol, to) {
            Ok(reply) => reply,
            Err(error) => panic!("{} → {to} ({protocol:?}): {error:#}", from.name()),
        };
        assert!(
            wanted.contains(&reply.server),
            "{reply:?}, not one of {wanted:?}"
        );
        assert_eq!(reply.peer, to, "answered from the address that was dialled");
        check(&reply);
        met.insert(reply.server);
        if met == *wanted {
            return;
        }
    }
    panic!(
        "{} → {to} ({protocol:?}): only {met:?} of {wanted:?}",
        from.name()
    );
}
