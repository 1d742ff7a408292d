//! The lab of the demo, and the changes to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use comfy_table::Table;
use ipnet::IpNet;
use lb_agent::dataplane::bpf;
use lb_common::{BackendState, Frontend, FrontendKey};

use super::interrupt;
use super::kubelet::Alpacas;
use super::service::{Service, State};
use super::show::Show;
use super::source::Source;
use crate::apiserver::Kubelets;
use crate::lab::{Agent, Cluster, Place as _, Pod, Server, Site};

/// Node indexes of `alpaca-1` and so on.
const NODES: [usize; 3] = [0, 1, 2];
/// Reading them all is quick, as often as the demo does.
const BACKENDS_MAX: &str = "1024";

/// What a node has in its map `FRONTENDS`.
type Frontends = BTreeMap<FrontendKey, Frontend>;

/// A pod that serves.
#[derive(Debug)]
pub(super) struct Alpaca {
    // Fields drop in this order.
    pub(super) server: Server,
    pub(super) pod: Pod,
    pub(super) state: State,
}

/// A lab with agents at work.
#[derive(Debug)]
pub(super) struct Scene {
    // Fields drop in this order.
    agents: Vec<Agent>,
    /// Runs pods for people, once the demo is over.
    kubelet: Option<Kubelets>,
    alpacas: Vec<Alpaca>,
    /// All that there have been.
    names: BTreeSet<String>,
    client: Pod,
    source: Source,
    service: Service,
    cluster: Arc<Cluster>,
}

impl Scene {
    /// Builds it; agents follow an API server, or read manifests.
    pub(super) fn build(is_kubernetes: bool) -> Result<Self> {
        let service = Service::read()?;
        let cluster = Arc::new(Cluster::builder().build()?);
        interrupt::remove_on_interrupt(cluster.name());
        let mut scene = Self {
            agents: Vec::new(),
            kubelet: None,
            alpacas: Vec::new(),
            names: BTreeSet::new(),
            client: cluster.pod("client-pod", 0)?,
            source: Source::new(&cluster, is_kubernetes)?,
            service,
            cluster,
        };
        for node in NODES {
            scene.start_pod(node)?;
        }
        scene.publish_pods()?;
        scene.start_agents()?;
        let nothing = vec![Frontends::new(); scene.agents.len()];
        scene.await_tables(&nothing)?;
        Ok(scene)
    }

    fn start_agents(&mut self) -> Result<()> {
        let flags = [self.source.flags()?, ["--backends-max", BACKENDS_MAX]].concat();
        let nodes = self.cluster.nodes().iter();
        self.agents = nodes
            .map(|node| Agent::start(node, &flags))
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// Starts a pod that serves, on a node by its index; returns its name.
    ///
    /// The agents do not know of it before the next [`publish`](Self::publish).
    pub(super) fn start_pod(&mut self, node: usize) -> Result<String> {
        let name = format!("alpaca-{}", self.names.len() + 1);
        let pod = self.cluster.pod(&name, node)?;
        self.alpacas.push(Alpaca {
            server: pod.serve(self.service.target_port())?,
            pod,
            state: State::Ready,
        });
        self.names.insert(name.clone());
        Ok(name)
    }

    /// Tells the agents of pods that have been started, and waits until every agent has
    /// given new connections to them.
    pub(super) fn publish(&mut self) -> Result<()> {
        let agents = self.agents.iter();
        let before = agents
            .map(|agent| bpf::pinned_frontends(agent.pin_dir()))
            .collect::<Result<Vec<_>, _>>()?;
        self.publish_pods()?;
        self.await_tables(&before)
    }

    /// Marks a pod as one that is being deleted, and waits until no agent gives it new
    /// connections any more.
    pub(super) fn terminate(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        self.alpacas[index].state = State::Terminating;
        self.publish_pods()?;
        let addresses = self.alpacas[index].pod.addresses();
        self.await_state(name, addresses, BackendState::Terminating)
    }

    /// Withdraws a pod, waits until the agents have done so, and ends it.
    pub(super) fn remove_pod(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        let Alpaca { server, pod, .. } = self.alpacas.remove(index);
        self.publish_pods()?;
        self.await_state(name, pod.addresses(), BackendState::Gone)?;
        drop(server);
        pod.remove()
    }

    fn publish_pods(&self) -> Result<()> {
        let pods = self
            .alpacas
            .iter()
            .map(|alpaca| (&alpaca.pod, alpaca.state));
        self.source.publish(pods)
    }

    /// Waits until every agent has other tables than `before` for all of the Service. They are
    /// the last step of a plan that adds backends.
    fn await_tables(&mut self, before: &[Frontends]) -> Result<()> {
        let keys = self.service.frontend_keys();
        for (agent, before) in self.agents.iter_mut().zip(before) {
            agent.wait_for("new tables", |now| {
                keys.iter().all(|key| {
                    let is_served = now.get(key).is_some_and(|it| !it.inside.is_empty());
                    is_served && now.get(key) != before.get(key)
                })
            })?;
        }
        Ok(())
    }

    /// Waits until every agent has the pod with these addresses in this state. It is the last
    /// step of a plan that takes from a backend.
    fn await_state(&mut self, name: &str, pod: [IpAddr; 2], state: BackendState) -> Result<()> {
        let what = format!("{name} is {state:?}");
        let expected = self.service.backends_per_pod();
        for agent in &mut self.agents {
            let pins = agent.pin_dir().to_owned();
            agent.wait_for(&what, |_| {
                bpf::pinned_backends(&pins).is_ok_and(|backends| {
                    let backends = backends.values();
                    let mine = backends.filter(|backend| pod.contains(&backend.addr.to_ip()));
                    mine.filter(|backend| backend.state == state as u8).count() == expected
                })
            })?;
        }
        Ok(())
    }

    fn index(&self, name: &str) -> Result<usize> {
        let mut pods = self.alpacas.iter();
        pods.position(|alpaca| alpaca.pod.name() == name)
            .with_context(|| format!("there is no pod {name}"))
    }

    /// The Service.
    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    /// The agents, `node1`'s first.
    pub(super) fn agents(&self) -> &[Agent] {
        &self.agents
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The pod that asks.
    pub(super) fn client(&self) -> &Pod {
        &self.client
    }

    /// The names of all pods that have ever served.
    pub(super) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Where the agents learn of the Service from.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Lets people do with the pods what they like, by the API; the demo's own part is over.
    pub(super) fn hand_over(&mut self) -> Result<()> {
        if let Source::Kubernetes(api) = &self.source {
            let pods = std::mem::take(&mut self.alpacas);
            let cluster = Arc::clone(&self.cluster);
            let kubelet = Alpacas::new(pods, cluster, self.service.target_port());
            self.kubelet = Some(api.employ(kubelet)?);
        }
        Ok(())
    }

    /// The Service's port on a node, over both families.
    pub(super) fn node_ports(&self, node: usize) -> [SocketAddr; 2] {
        let addresses = self.cluster.node(node).addresses();
        addresses.map(|address| SocketAddr::new(address, self.service.node_port()))
    }

    /// Whose address it is.
    pub(super) fn owner(&self, address: IpAddr) -> String {
        let mut places = self.rows().into_iter();
        if let Some((place, _)) = places.find(|(_, addresses)| addresses.contains(&address)) {
            return place.name().to_owned();
        }
        // The only other address in there is that of the pods' gateway.
        let mut nodes = self.cluster.nodes().iter();
        let node = nodes.find(|node| {
            let (v4, v6) = node.pod_networks();
            [IpNet::V4(v4), IpNet::V6(v6)]
                .iter()
                .any(|net| net.contains(&address))
        });
        node.map_or_else(
            || "unknown".to_owned(),
            |node| format!("{}'s bridge", node.name()),
        )
    }

    /// Places and their addresses.
    fn rows(&self) -> Vec<(&Site, [IpAddr; 2])> {
        let nodes = self.cluster.nodes().iter();
        let nodes = nodes.map(|node| (node.site(), node.addresses()));
        let alpacas = self.alpacas.iter().map(|alpaca| &alpaca.pod);
        let pods = alpacas.chain([&self.client]);
        let pods = pods.map(|pod| (pod.site(), pod.addresses()));
        let client = self.cluster.client();
        nodes
            .chain(pods)
            .chain([(client.site(), client.addresses())])
            .collect()
    }

    /// Places, their nodes and their addresses.
    pub(super) fn places(&self, show: &Show) -> Table {
        let mut table = show.new_table(&["PLACE", "ON", "IPV4", "IPV6"]);
        for (place, [v4, v6]) in self.rows() {
            let on = self.host(place.name()).unwrap_or("–");
            table.add_row([place.name(), on, &v4.to_string(), &v6.to_string()]);
        }
        table
    }

    fn host(&self, pod: &str) -> Option<&str> {
        let alpacas = self.alpacas.iter().map(|alpaca| &alpaca.pod);
        let mut pods = alpacas.chain([&self.client]);
        pods.find(|place| place.name() == pod)
            .map(|pod| pod.node().name())
    }

    /// The Service and its endpoints.
    pub(super) fn service_table(&self, show: &Show) -> Table {
        let header = ["NAME", "TYPE", "CLUSTER-IPS", "PORTS", "ENDPOINTS"];
        let mut table = show.new_table(&header);
        let port = self.service.target_port();
        let endpoints = self.alpacas.iter().map(|Alpaca { pod, .. }| {
            let addresses = pod.addresses().map(|ip| SocketAddr::new(ip, port));
            let [v4, v6] = addresses;
            format!("{v4}  {v6}  {} on {}", pod.name(), pod.node().name())
        });
        let ips = self.service.cluster_addresses();
        table.add_row([
            self.service.name(),
            self.service.kind(),
            &ips.map(|address| address.ip().to_string()).join("\n"),
            &self.service.ports(),
            &endpoints.collect::<Vec<_>>().join("\n"),
        ]);
        table
    }
}
