//! A cluster with servers that are known by number, and Services of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::lab::{
    Agent, AgentSetup, Cluster, Echo, Inventory, Place as _, Pod, Traffic, open_files, programs,
};
use lb_tests::tool::{TrafficOptions, TrafficReport};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Port of every Service.
pub(crate) const PORT: u16 = 8000;
/// First port of the servers in a pod.
pub(crate) const SERVER_PORT: u16 = 9000;
/// Servers in a pod.
pub(crate) const SERVERS: u16 = 3;
/// What an agent logs when the maps are what they ought to be.
pub(crate) const IN_STEP: &str = "in step with the source";

/// How long the kernel may take to let go of what is not used any more.
const LATER: Duration = Duration::from_secs(20);

/// What an agent has in the kernel, and which files it has open, and how many of each.
pub(crate) type Held = (Inventory, BTreeMap<String, usize>);

/// A server: the index of its pod, and its own there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Backend {
    pub(crate) pod: usize,
    pub(crate) server: u16,
}

/// A Service: its number, whether nodes serve it on a port of theirs, and its backends.
pub(crate) type Service = (u16, bool, BTreeSet<Backend>);

/// Pods that serve, a pod that asks, and somebody outside.
pub(crate) struct Stage {
    // Fields drop in this order.
    pub(crate) agents: Vec<Agent>,
    _echoes: Vec<Echo>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) client: Pod,
    pub(crate) manifests: PathBuf,
    pub(crate) cluster: Cluster,
}

impl Backend {
    /// The number that it answers.
    pub(crate) fn number(self) -> u32 {
        self.pod as u32 * 10 + u32::from(self.server)
    }
}

impl Stage {
    /// A cluster of so many nodes, and serving pods on those of these indexes. The client is on the
    /// first node. There are no agents yet.
    pub(crate) fn new(nodes: usize, pods: &[usize]) -> Self {
        let cluster = Cluster::builder().nodes(nodes).build().expect("a lab");
        let pods: Vec<Pod> = (0..)
            .zip(pods)
            .map(|(pod, node)| cluster.pod(&format!("server-{pod}"), *node))
            .collect::<Result<_, _>>()
            .expect("pods");
        let echo = |(index, pod): (usize, &Pod)| {
            let servers: Vec<(u16, u32)> = (0..SERVERS)
                .map(|server| {
                    (
                        SERVER_PORT + server,
                        Backend { pod: index, server }.number(),
                    )
                })
                .collect();
            pod.echo(&servers)
        };
        let echoes = pods.iter().enumerate().map(echo);
        Self {
            agents: Vec::new(),
            _echoes: echoes.collect::<Result<_, _>>().expect("servers"),
            client: cluster.pod("client-pod", 0).expect("a pod"),
            manifests: cluster.dir().join("manifests.yaml"),
            pods,
            cluster,
        }
    }

    /// Every server.
    pub(crate) fn backends(&self) -> BTreeSet<Backend> {
        let pods = 0..self.pods.len();
        pods.flat_map(|pod| (0..SERVERS).map(move |server| Backend { pod, server }))
            .collect()
    }

    /// Puts these Services, and no others, into the manifests; all of it at once.
    pub(crate) fn write(&self, services: &[Service]) {
        let items: Vec<Value> = services
            .iter()
            .flat_map(|(number, has_node_port, backends)| {
                let service = service(*number, *has_node_port);
                [service].into_iter().chain(self.slices(*number, backends))
            })
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let new = self.manifests.with_extension("new");
        fs::write(&new, list.to_string()).expect("manifests");
        fs::rename(&new, &self.manifests).expect("manifests in their place");
    }

    /// The slices of a Service: one for each family and port, also where it is empty.
    pub(crate) fn slices(&self, number: u16, backends: &BTreeSet<Backend>) -> Vec<Value> {
        let mut slices = Vec::new();
        for server in 0..SERVERS {
            let pods = backends.iter().filter(|backend| backend.server == server);
            let pods: Vec<&Pod> = pods.map(|backend| &self.pods[backend.pod]).collect();
            slices.push(slice(number, server, "IPv4", &pods, |pod| {
                pod.ipv4().into()
            }));
            slices.push(slice(number, server, "IPv6", &pods, |pod| {
                pod.ipv6().into()
            }));
        }
        slices
    }

    /// Starts an agent on every node, and waits until the maps are what they ought to be.
    pub(crate) fn start_agents(&mut self, flags: &[&str]) {
        let marks = self.start(flags);
        self.await_step(&marks);
    }

    /// Starts an agent on every node. Returns where each log begins.
    fn start(&mut self, flags: &[&str]) -> Vec<u64> {
        let manifests = self.manifests.to_str().expect("a path in UTF-8").to_owned();
        let flags = [&["--manifests", &manifests], flags].concat();
        let nodes = self.cluster.nodes();
        let logs = nodes.iter().map(|node| node.dir().join("agent.log"));
        let marks = logs.map(|log| fs::metadata(log).map_or(0, |log| log.len()));
        let marks = marks.collect();
        let agents = nodes.iter().map(|node| Agent::start(node, &flags));
        self.agents = agents.collect::<Result<_, _>>().expect("agents");
        marks
    }

    /// Waits until every agent has written what there was to be written after its mark. Returns how
    /// many operations each took for it.
    fn await_step(&mut self, marks: &[u64]) -> Vec<usize> {
        let agents = self.agents.iter_mut().zip(marks);
        agents
            .map(|(agent, mark)| {
                agent.wait_for_log(IN_STEP, *mark).expect("maps in step");
                operations(&agent.log_from(*mark))
            })
            .collect()
    }

    /// Starts one agent on the first node in another way.
    pub(crate) fn start_one(&self, flags: &[&str], setup: &AgentSetup<'_>) -> (Agent, u64) {
        let node = self.cluster.node(0);
        let manifests = self.manifests.to_str().expect("a path in UTF-8");
        let flags = [&["--manifests", manifests], flags].concat();
        let mark = fs::metadata(node.dir().join("agent.log")).map_or(0, |log| log.len());
        let agent = Agent::start_as(node, &flags, setup).expect("an agent");
        (agent, mark)
    }

    /// Ends all agents by a signal and starts others. Returns how many operations on maps each of these
    /// took.
    pub(crate) fn restart_agents(&mut self, signal: Signal, flags: &[&str]) -> Vec<usize> {
        for agent in self.agents.drain(..) {
            agent.stop(signal).expect("a clean end");
        }
        let marks = self.start(flags);
        self.await_step(&marks)
    }

    /// What agents have once nothing comes or goes any more: what was exchanged goes a moment later, and
    /// an agent that looks at something has it open meanwhile.
    #[track_caller]
    pub(crate) fn settled(&self) -> Vec<Held> {
        const QUIET: Duration = Duration::from_secs(1);
        let deadline = Instant::now() + LATER;
        let (mut last, mut since) = (self.inventory(), Instant::now());
        while since.elapsed() < QUIET {
            assert!(Instant::now() < deadline, "not in time: {last:?}");
            pause();
            let now = self.inventory();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }

    /// Waits until agents have no more and no less than before.
    #[track_caller]
    pub(crate) fn await_inventory(&self, before: &[Held], what: &str) {
        let deadline = Instant::now() + LATER;
        loop {
            let now = self.inventory();
            if now == before {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "after {what}: {now:?}, and not {before:?}"
            );
            pause();
        }
    }

    fn inventory(&self) -> Vec<Held> {
        let agents = self.agents.iter();
        agents
            .map(|agent| {
                let inventory = Inventory::of(agent.pin_dir()).expect("an inventory");
                (inventory, open_files(agent.id()).expect("open files"))
            })
            .collect()
    }

    /// Ids of the programs that agents have in the kernel.
    pub(crate) fn programs(&self) -> BTreeSet<u32> {
        let agents = self.agents.iter();
        agents
            .flat_map(|agent| programs(agent.pin_dir()).expect("programs"))
            .collect()
    }

    /// From the client's pod to a Service's cluster addresses.
    pub(crate) fn inside(&self, services: impl IntoIterator<Item = u16>) -> TrafficOptions {
        TrafficOptions::to(services.into_iter().flat_map(cluster_ips))
    }

    /// From outside to a Service's port on every node.
    pub(crate) fn outside(&self, service: u16) -> TrafficOptions {
        let nodes = self.cluster.nodes().iter();
        let addresses = nodes.flat_map(|node| node.addresses());
        TrafficOptions::to(addresses.map(|ip| SocketAddr::new(ip, node_port(service))))
    }
}

/// A Service's cluster addresses with its port.
pub(crate) fn cluster_ips(service: u16) -> [SocketAddr; 2] {
    addresses(service).map(|ip| SocketAddr::new(ip, PORT))
}

fn addresses(service: u16) -> [IpAddr; 2] {
    let [high, low] = service.to_be_bytes();
    [
        IpAddr::from([10, 96, 10 + high, low]),
        IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x100 + service]),
    ]
}

pub(crate) fn node_port(service: u16) -> u16 {
    30_100 + service
}

/// A Service without a selector.
pub(crate) fn service(number: u16, has_node_port: bool) -> Value {
    let port = |protocol: &str| {
        let mut port = json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT});
        if has_node_port {
            port["nodePort"] = node_port(number).into();
        }
        port
    };
    let addresses = addresses(number);
    let kind = if has_node_port {
        "NodePort"
    } else {
        "ClusterIP"
    };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("service-{number}"), "namespace": "default"},
        "spec": {"type": kind, "clusterIP": addresses[0], "clusterIPs": addresses,
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": [port("TCP"), port("UDP")]},
    })
}

fn slice(
    number: u16,
    server: u16,
    family: &str,
    pods: &[&Pod],
    address: impl Fn(&Pod) -> IpAddr,
) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| {
            json!({"addresses": [address(pod)], "conditions": {"ready": true},
                "nodeName": pod.node().name()})
        })
        .collect();
    let port = |protocol: &str| {
        json!({"name": protocol.to_lowercase(), "protocol": protocol,
            "port": SERVER_PORT + server})
    };
    let name = format!("service-{number}-{}-{server}", family.to_lowercase());
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("service-{number}")}},
        "addressType": family, "ports": [port("TCP"), port("UDP")], "endpoints": endpoints,
    })
}

/// How many operations a log says that the first turn took.
pub(crate) fn operations(log: &str) -> usize {
    let line = log.lines().find(|line| line.contains(IN_STEP));
    let words = line.into_iter().flat_map(|line| line.split(' '));
    let mut counts = words.filter_map(|word| word.strip_prefix("operations="));
    let count = counts.next().expect("a number of operations");
    count.parse().expect("a number")
}

/// Ends traffic to which nothing must have happened.
#[track_caller]
pub(crate) fn finish(traffic: Traffic, what: &str) -> TrafficReport {
    let report = traffic.finish().expect("traffic to the end");
    println!("{what}: {report}");
    assert_eq!(report.failures, 0, "{what}: {report}");
    report
}

/// Between two looks at what is waited for with a deadline.
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(5));
}
