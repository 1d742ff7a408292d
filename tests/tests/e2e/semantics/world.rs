//! A cluster in which Services come and go, and how their clients are answered.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lb_common::{FrontendKey, protocol};
use lb_tests::lab::{
    Agent, Cluster, ClusterBuilder, Place as _, Pod, Request, Requests, Server, Site,
};
use lb_tests::tool::Protocol;
use serde_json::{Value, json};

pub(crate) use super::service::{Endpoint, Kind, Service};

/// The port that pods listen on.
pub(crate) const POD_PORT: u16 = 8000;
/// The port of Services.
pub(crate) const PORT: u16 = 80;

/// Networks of Services' addresses, which the router leads to the first node.
const SERVICE_NETS: [&str; 4] = [
    "10.96.0.0/16",
    "fd00:10:96::/64",
    "198.51.100.0/23",
    "2001:db8:aa::/47",
];

/// The two networks of cluster addresses, as the API server tells of them.
pub(crate) fn service_cidr() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/64"]}})
}

/// Pods that serve, an agent on every node, and the Services of the moment.
pub(crate) struct World {
    // Fields drop in this order.
    pub(crate) agents: Vec<Agent>,
    _servers: Vec<Server>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) cluster: Cluster,
    manifest: PathBuf,
    flags: Vec<String>,
    /// Objects that stay, whatever the Services.
    pub(crate) fixed: Vec<Value>,
    /// Counts the changes.
    changes: u16,
}

impl World {
    /// Pods `pod-0`, … on these nodes, and agents with these flags.
    pub(crate) fn new(cluster: ClusterBuilder, pods: &[usize], flags: &[&str]) -> Self {
        let cluster = cluster.build().expect("a lab");
        let pods: Vec<Pod> = pods
            .iter()
            .enumerate()
            .map(|(number, node)| cluster.pod(&format!("pod-{number}"), *node))
            .collect::<Result<_, _>>()
            .expect("pods");
        let servers = pods
            .iter()
            .map(|pod| pod.serve(POD_PORT))
            .collect::<Result<_, _>>()
            .expect("servers");
        let via = cluster.node(0).addresses();
        let routes = SERVICE_NETS.map(|net| {
            let via = via[usize::from(net.contains(':'))];
            format!("route add {net} via {via}")
        });
        let router = cluster.router().netns();
        router.ip(&routes).expect("routes to Services");
        let mut world = Self {
            agents: Vec::new(),
            _servers: servers,
            pods,
            manifest: cluster.dir().join("manifests.json"),
            cluster,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            fixed: Vec::new(),
            changes: 0,
        };
        world.write(&[]);
        world.start_agents();
        world
    }

    /// Starts the agents, or others in their place.
    pub(crate) fn start_agents(&mut self) {
        let manifest = self.manifest.to_str().expect("a path in UTF-8").to_owned();
        let mut flags = vec!["--manifests", &manifest];
        flags.extend(self.flags.iter().map(String::as_str));
        self.agents.clear();
        let nodes = self.cluster.nodes().iter();
        self.agents = nodes
            .map(|node| Agent::start(node, &flags).expect("an agent"))
            .collect();
        self.await_marker();
    }

    /// Starts a pod that asks, and waits until it can dial Services.
    pub(crate) fn client_pod(&self, node: usize) -> Pod {
        let pod = self.cluster.pod("client-pod", node).expect("a pod");
        let served = self.agents[node].wait_until_it_serves(&pod);
        served.expect("programs at the pod's device");
        pod
    }

    /// Makes these the Services of the cluster, on every node.
    pub(crate) fn serve(&mut self, services: &[&Service]) {
        // Agents take one version after the other. Once the second one is being carried out, the
        // first one, which is the same but for its number, has been.
        for _ in 0..2 {
            self.changes += 1;
            self.write(services);
            self.await_marker();
        }
    }

    /// Writes the manifest as one change: no agent reads half of it.
    fn write(&self, services: &[&Service]) {
        let mut items = self.fixed.clone();
        items.push(self.marker());
        for service in services {
            items.push(service.object());
            items.extend([0, 1].map(|family| service.slice(self, family)));
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let new = self.manifest.with_extension("new");
        fs::write(&new, list.to_string()).expect("a manifest");
        fs::rename(&new, &self.manifest).expect("a manifest in its place");
    }

    /// A Service without endpoints, whose port tells the changes apart.
    fn marker(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "marker", "namespace": "default"},
            "spec": {"clusterIP": "10.96.255.1", "ports": [{"port": 1 + self.changes}]},
        })
    }

    fn await_marker(&mut self) {
        let addr: IpAddr = [10, 96, 255, 1].into();
        let key = FrontendKey::new(addr.into(), 1 + self.changes, protocol::TCP);
        for agent in &mut self.agents {
            let done = agent.wait_for("the change is in the maps", |frontends| {
                frontends.contains_key(&key)
            });
            done.expect("maps in step");
        }
    }

    pub(crate) fn name(&self, pod: usize) -> String {
        self.pods[pod].name().to_owned()
    }

    pub(crate) fn names(&self, pods: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
        pods.into_iter().map(|pod| self.name(pod)).collect()
    }
}

/// How a client's requests ended, if they all ended alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// These answered, and saw the client at these addresses.
    Answered {
        by: BTreeSet<String>,
        seen: BTreeSet<IpAddr>,
    },
    /// Connection refused.
    Refused,
    /// No route to host.
    Unreachable,
    /// Nothing came back.
    Silence,
}

impl Heard {
    /// These answered; how they saw the client is not told.
    pub(crate) fn answered(by: BTreeSet<String>) -> Self {
        let seen = BTreeSet::new();
        Self::Answered { by, seen }
    }

    /// The same, as far as `expected` tells.
    #[must_use]
    fn limited_to(self, expected: &Self) -> Self {
        match (self, expected) {
            (Self::Answered { by, .. }, Self::Answered { seen, .. }) if seen.is_empty() => {
                Self::answered(by)
            }
            (heard, _) => heard,
        }
    }
}

/// How long a client waits before it takes silence for an answer.
const PATIENCE: Duration = Duration::from_millis(400);
/// As many requests as let two backends both answer, all but surely (1 in 2^23 not).
const REQUESTS: u64 = 24;

/// Requests from one place, over one protocol, to one address.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) from: &'a Site,
    pub(crate) protocol: Protocol,
    pub(crate) to: SocketAddr,
    pub(crate) count: u64,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(from: &'a Site, protocol: Protocol, to: SocketAddr) -> Self {
        Self {
            from,
            protocol,
            to,
            count: REQUESTS,
        }
    }

    /// A single one.
    pub(crate) fn once(self) -> Self {
        Self { count: 1, ..self }
    }

    fn start(&self) -> Requests {
        let request = Request {
            count: self.count,
            timeout: PATIENCE,
            // What ICMP says reaches only a connected socket.
            connect: true,
            ..Request::new(self.protocol, self.to)
        };
        self.from.start(&request).expect("a client")
    }

    /// Sends the requests and says how they ended. What is not answered must be the first.
    #[track_caller]
    pub(crate) fn hear(&self) -> Heard {
        self.heard(self.start())
    }

    #[track_caller]
    fn heard(&self, requests: Requests) -> Heard {
        let (mut by, mut seen) = (BTreeSet::new(), BTreeSet::new());
        for outcome in requests {
            match outcome {
                Ok(reply) => {
                    assert_eq!(reply.peer, self.to, "answered from what was dialled");
                    by.insert(reply.server);
                    seen.insert(reply.seen_client.ip());
                }
                Err(error) => {
                    let failure = failure(&error.to_string());
                    assert!(by.is_empty(), "{by:?} answered, and then: {error}");
                    return failure;
                }
            }
        }
        Heard::Answered { by, seen }
    }
}

/// Checks many expectations, some at a time; silence takes long.
#[track_caller]
pub(crate) fn check_all(expected: &[(Ask<'_>, Heard, String)]) {
    for chunk in expected.chunks(16) {
        let requests: Vec<Requests> = chunk.iter().map(|(ask, ..)| ask.start()).collect();
        for ((ask, expected, what), requests) in chunk.iter().zip(requests) {
            let heard = ask.heard(requests).limited_to(expected);
            let Ask {
                from, protocol, to, ..
            } = ask;
            let name = from.name();
            assert_eq!(heard, *expected, "{what}: {name}, {protocol:?} to {to}");
        }
    }
}

#[track_caller]
fn failure(error: &str) -> Heard {
    if error.contains("Connection refused") {
        Heard::Refused
    } else if error.contains("No route to host") {
        Heard::Unreachable
    } else if error.contains("within") {
        Heard::Silence
    } else {
        panic!("an unknown failure: {error}")
    }
}
