//! The cluster of the tests: `alpaca-prod` with three pods on two of three nodes.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use lb_agent::dataplane::bpf::pinned_frontends;
use lb_common::counter::{Hook, Outcome};
use lb_common::{Frontend, FrontendKey, protocol};
use lb_tests::lab::{Agent, Cluster, ClusterBuilder, Place, Pod, Server};
use lb_tests::tool::{Protocol, Reply};

/// The Service's cluster addresses.
pub(crate) const CLUSTER_IPS: [&str; 2] = ["10.96.0.17", "fd00:10:96::11"];
/// Addresses of the Service that are on no node.
pub(crate) const EXTERNAL_IPS: [&str; 2] = ["198.51.100.7", "2001:db8:aa::7"];
pub(crate) const PORT: u16 = 8000;
pub(crate) const NODE_PORT: u16 = 30366;

/// What a test asks for.
pub(crate) struct Stage {
    pub(crate) cluster: ClusterBuilder,
    /// Node indexes of the backends `alpaca-1`, `alpaca-2`, …
    pub(crate) backends: &'static [usize],
    /// More flags for the agents.
    pub(crate) flags: &'static [&'static str],
}

/// Pods that serve, and an agent on every node.
pub(crate) struct Scene {
    // Fields drop in this order.
    pub(crate) agents: Vec<Agent>,
    _servers: Vec<Server>,
    pub(crate) backends: Vec<Pod>,
    pub(crate) manifests: PathBuf,
    pub(crate) cluster: Cluster,
}

impl Scene {
    pub(crate) fn new(stage: Stage) -> Self {
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
            _servers: servers,
            backends,
            manifests,
            cluster,
        };
        scene.write_manifests(&(0..stage.backends.len()).collect::<Vec<_>>());
        scene.start_agents(stage.flags);
        scene
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
    pub(crate) fn serve_by(&mut self, backends: &[usize]) {
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

    pub(crate) fn start_agents(&mut self, flags: &[&str]) {
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
    pub(crate) fn cluster_ips() -> [SocketAddr; 2] {
        CLUSTER_IPS.map(|ip| SocketAddr::new(ip.parse().expect("an address"), PORT))
    }

    /// The Service's external addresses with its port.
    pub(crate) fn external_ips() -> [SocketAddr; 2] {
        EXTERNAL_IPS.map(|ip| SocketAddr::new(ip.parse().expect("an address"), PORT))
    }

    /// What the agent of a node has counted.
    pub(crate) fn count(&self, node: usize, hook: Hook, outcome: Outcome) -> u64 {
        self.agents[node].counter(hook, outcome).expect("counters")
    }

    /// The Service's port on a node, over both families.
    pub(crate) fn node_ports(&self, node: usize) -> [SocketAddr; 2] {
        self.cluster
            .node(node)
            .addresses()
            .map(|addr| SocketAddr::new(addr, NODE_PORT))
    }

    pub(crate) fn names(&self) -> BTreeSet<String> {
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
pub(crate) fn reach_all_ways(
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
pub(crate) fn reach_all(
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
