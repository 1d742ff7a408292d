//! Services of a [`World`]: what clients dial, and who serves.

use std::net::{IpAddr, SocketAddr};

use lb_tests::lab::{Node, Place as _};
use serde_json::{Value, json};

use super::world::{POD_PORT, PORT, World};

/// What a client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalIp,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [
        Self::ClusterIp,
        Self::NodePort,
        Self::LoadBalancer,
        Self::ExternalIp,
    ];
}

/// An endpoint of a Service, and what is said of it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// A pod of the world by its index.
    pub(crate) pod: usize,
    /// In its place: a node, whose own network the endpoint is in.
    pub(crate) node: Option<usize>,
    pub(crate) conditions: Value,
    pub(crate) hints: Value,
}

impl Endpoint {
    pub(crate) fn ready(pod: usize) -> Self {
        Self {
            pod,
            node: None,
            conditions: json!({"ready": true}),
            hints: Value::Null,
        }
    }

    /// A process of a node.
    pub(crate) fn of_node(node: usize) -> Self {
        Self {
            node: Some(node),
            ..Self::ready(0)
        }
    }

    /// Its addresses, and the node that it is on.
    fn place<'a>(&self, world: &'a World) -> ([IpAddr; 2], &'a Node) {
        match self.node {
            Some(node) => (
                world.cluster.node(node).addresses(),
                world.cluster.node(node),
            ),
            None => (
                world.pods[self.pod].addresses(),
                world.pods[self.pod].node(),
            ),
        }
    }

    /// On its way out, and still serving.
    pub(crate) fn terminating(pod: usize) -> Self {
        Self {
            conditions: json!({"ready": false, "serving": true, "terminating": true}),
            ..Self::ready(pod)
        }
    }

    pub(crate) fn not_ready(pod: usize) -> Self {
        Self {
            conditions: json!({"ready": false, "serving": false, "terminating": false}),
            ..Self::ready(pod)
        }
    }
}

/// A dual-stack Service of TCP and UDP that has everything: a cluster address, a node port, a load
/// balancer's address and an external one.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    number: u8,
    /// Fields of `spec` that differ.
    pub(crate) spec: Value,
    pub(crate) annotations: Value,
    /// `ipMode` of the load balancer's addresses.
    pub(crate) ip_mode: &'static str,
    /// Its ports, and the endpoints' port of each.
    pub(crate) ports: Vec<(u16, u16)>,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Service {
    /// Service `number`, served by these pods.
    pub(crate) fn new(number: u8, pods: impl IntoIterator<Item = usize>) -> Self {
        Self {
            number,
            spec: json!({}),
            annotations: json!({}),
            ip_mode: "VIP",
            ports: vec![(PORT, POD_PORT)],
            endpoints: pods.into_iter().map(Endpoint::ready).collect(),
        }
    }

    /// The same Service with these fields in its `spec`.
    pub(crate) fn with(mut self, spec: Value) -> Self {
        let Value::Object(fields) = spec else {
            panic!("fields of a spec: {spec}");
        };
        self.spec.as_object_mut().expect("an object").extend(fields);
        self
    }

    /// The same Service with these endpoints.
    pub(crate) fn endpoints(self, endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints, ..self }
    }

    /// Where it is dialled, in both families; NodePorts on node `node`.
    pub(crate) fn dialled(&self, world: &World, kind: Kind, node: usize) -> [SocketAddr; 2] {
        self.dialled_at(world, kind, node, 0)
    }

    /// The same for one of its ports, by its index.
    pub(crate) fn dialled_at(
        &self,
        world: &World,
        kind: Kind,
        node: usize,
        index: usize,
    ) -> [SocketAddr; 2] {
        let port = match kind {
            Kind::NodePort => self.node_port(index),
            _ => self.ports[index].0,
        };
        let addresses = match kind {
            Kind::NodePort => world.cluster.node(node).addresses(),
            _ => self.addresses(kind),
        };
        addresses.map(|addr| SocketAddr::new(addr, port))
    }

    fn node_port(&self, index: usize) -> u16 {
        30_100 + u16::from(self.number) + 100 * u16::try_from(index).expect("few ports")
    }

    /// Both protocols of each of its ports: the name, the protocol, the index.
    fn port_names(&self) -> impl Iterator<Item = (String, &'static str, usize)> {
        let both = |index| ["TCP", "UDP"].map(|protocol| (protocol, index));
        let named = |(protocol, index): (&'static str, usize)| {
            let name = protocol.to_lowercase();
            let name = if index == 0 {
                name
            } else {
                format!("{name}-{index}")
            };
            (name, protocol, index)
        };
        (0..self.ports.len()).flat_map(both).map(named)
    }

    /// Its addresses of this kind, one a family.
    pub(crate) fn addresses(&self, kind: Kind) -> [IpAddr; 2] {
        let number = self.number;
        let (v4, v6) = match kind {
            Kind::ClusterIp => ([10, 96, 1], "fd00:10:96::1"),
            Kind::LoadBalancer => ([198, 51, 100], "2001:db8:aa::1"),
            Kind::ExternalIp => ([198, 51, 101], "2001:db8:ab::1"),
            Kind::NodePort => unreachable!("a node port is dialled at the nodes' addresses"),
        };
        let [a, b, c] = v4;
        let v6 = format!("{v6}:{number:x}").parse().expect("an address");
        [IpAddr::from([a, b, c, number]), v6]
    }

    fn name(&self) -> String {
        format!("service-{}", self.number)
    }

    pub(super) fn object(&self) -> Value {
        let text = |kind| self.addresses(kind).map(|addr| addr.to_string());
        let port = |(name, protocol, index): (String, &str, usize)| {
            json!({"name": name, "protocol": protocol, "port": self.ports[index].0,
                "nodePort": self.node_port(index)})
        };
        let ports: Vec<Value> = self.port_names().map(port).collect();
        let ingress = text(Kind::LoadBalancer).map(|ip| json!({"ip": ip, "ipMode": self.ip_mode}));
        let mut spec = json!({
            "type": "LoadBalancer",
            "clusterIP": text(Kind::ClusterIp)[0],
            "clusterIPs": text(Kind::ClusterIp),
            "externalIPs": text(Kind::ExternalIp),
            "ports": ports,
        });
        let differing = self.spec.as_object().expect("an object").clone();
        spec.as_object_mut().expect("an object").extend(differing);
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.name(), "namespace": "default",
                "annotations": self.annotations},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }

    pub(super) fn slice(&self, world: &World, family: usize) -> Value {
        let endpoint = |endpoint: &Endpoint| {
            let (addresses, node) = endpoint.place(world);
            json!({"addresses": [addresses[family]], "conditions": endpoint.conditions,
                "nodeName": node.name(), "hints": endpoint.hints})
        };
        let endpoints: Vec<Value> = self.endpoints.iter().map(endpoint).collect();
        let port = |(name, protocol, index): (String, &str, usize)| json!({"name": name, "protocol": protocol, "port": self.ports[index].1});
        let ports: Vec<Value> = self.port_names().map(port).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{}-{family}", self.name()), "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.name()}},
            "addressType": if family == 0 { "IPv4" } else { "IPv6" },
            "ports": ports,
            "endpoints": endpoints,
        })
    }
}
