//! What is served, in few words: random, and written into regressions.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use fastrand::Rng;
use ipnet::IpNet;
use lb_agent::model::{
    Algorithm, Endpoint, Model, ObjectName, Service, ServiceKind, ServicePort, Slice, SlicePort,
    TrafficPolicy,
};
use lb_common::protocol;
use serde::{Deserialize, Serialize};

use crate::programs::Family;

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Its cluster addresses are [`Family::vip`] of this.
    pub number: u8,
    /// Its ports.
    pub ports: Vec<ServedPort>,
    /// Its endpoints.
    pub pods: Vec<ServedPod>,
    /// It has an external address.
    #[serde(default)]
    pub external: bool,
    /// It has a load balancer's address.
    #[serde(default)]
    pub balanced: bool,
    /// Clients of the node get backends of the node.
    #[serde(default)]
    pub inside_local: bool,
    /// Clients from outside do.
    #[serde(default)]
    pub outside_local: bool,
    /// Clients stay with a backend.
    #[serde(default)]
    pub affinity: bool,
    /// New connections go anywhere.
    #[serde(default)]
    pub random: bool,
    /// Whose connections the load balancer's address takes, if not all.
    #[serde(default)]
    pub ranges: Vec<IpNet>,
}

/// One of its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedPort {
    /// IP protocol number.
    pub protocol: u8,
    /// What clients dial.
    pub port: u16,
    /// Where pods listen.
    pub target: u16,
    /// What clients dial at nodes; 0 is nothing.
    pub node_port: u16,
}

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedPod {
    /// Its node.
    pub node: u8,
    /// Its number there; 0 is the node itself.
    pub number: u8,
    /// It takes connections.
    pub ready: bool,
    /// It is going away.
    pub terminating: bool,
}

/// Ports that clients dial.
pub(super) const PORTS: [u16; 3] = [80, 443, 61_010];
/// Ports that pods listen on.
pub(super) const TARGETS: [u16; 3] = [8000, 80, 61_020];

/// The address of a Service from outside, by its number.
pub(super) fn external(family: Family, number: u8) -> IpAddr {
    outer(family, 113, number)
}

/// The load balancer's.
pub(super) fn balanced(family: Family, number: u8) -> IpAddr {
    outer(family, 114, number)
}

fn outer(family: Family, net: u8, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, net, number).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, net.into(), 0, 0, 0, number.into()).into(),
    }
}

impl ServedPod {
    /// A random one.
    pub(super) fn random(rng: &mut Rng) -> Self {
        // Mostly here and at the node beside.
        let node = rng.choice([1, 1, 1, 1, 2, 2, 2, 3, 4, 5]).unwrap_or(1);
        let number = if rng.u8(..20) == 0 { 0 } else { rng.u8(11..17) };
        let state = rng.u8(..10);
        Self {
            node,
            number,
            ready: state < 8,
            terminating: state == 9,
        }
    }

    /// Its address.
    pub(super) fn addr(self, family: Family) -> IpAddr {
        if self.number == 0 {
            family.node(self.node)
        } else {
            family.pod(self.node, self.number)
        }
    }

    fn endpoint(self, family: Family) -> Endpoint {
        Endpoint {
            addr: self.addr(family),
            ready: self.ready,
            serving: self.ready || self.terminating,
            terminating: self.terminating,
            node: Some(format!("node{}", self.node).into()),
            for_zones: Default::default(),
            for_nodes: Default::default(),
        }
    }
}

impl Served {
    /// A random Service.
    pub(super) fn random(rng: &mut Rng, number: u8) -> Self {
        let mut one_in = |n: u8| rng.u8(..n) == 0;
        let (external, balanced) = (one_in(3), one_in(3));
        let (inside_local, outside_local) = (one_in(6), one_in(4));
        let (affinity, random, ranged) = (one_in(5), one_in(6), balanced && one_in(2));
        let pods = rng.usize(..7).min(rng.usize(..7) + 1);
        Self {
            number,
            ports: ports(rng, number),
            pods: (0..pods).map(|_| ServedPod::random(rng)).collect(),
            external,
            balanced,
            inside_local,
            outside_local,
            affinity,
            random,
            ranges: if ranged { ranges() } else { Vec::new() },
        }
    }

    fn model_ports(&self) -> Vec<ServicePort> {
        let port = |port: &ServedPort| ServicePort {
            name: port.name(),
            protocol: port.protocol,
            port: port.port,
            node_port: port.node_port,
        };
        self.ports.iter().map(port).collect()
    }

    fn object(&self) -> Service {
        let policy = |is_local| {
            if is_local {
                TrafficPolicy::Local
            } else {
                TrafficPolicy::Cluster
            }
        };
        let both = |wanted: bool, addr: fn(Family, u8) -> IpAddr| -> Vec<IpAddr> {
            let families = Family::ALL.into_iter().filter(|_| wanted);
            families.map(|family| addr(family, self.number)).collect()
        };
        Service {
            kind: if self.balanced {
                ServiceKind::LoadBalancer
            } else {
                ServiceKind::NodePort
            },
            cluster_ips: both(true, Family::vip),
            external_ips: both(self.external, external),
            load_balancer_ips: both(self.balanced, balanced),
            ports: self.model_ports(),
            internal_policy: policy(self.inside_local),
            external_policy: policy(self.outside_local),
            affinity_timeout_s: self.affinity.then_some(10_800),
            source_ranges: self.ranges.clone(),
            health_check_node_port: 0,
            algorithm: if self.random {
                Algorithm::Random
            } else {
                Algorithm::Maglev
            },
        }
    }

    fn slice(&self, family: Family) -> Slice {
        let port = |port: &ServedPort| SlicePort {
            name: port.name(),
            protocol: port.protocol,
            port: port.target,
        };
        Slice {
            ports: self.ports.iter().map(port).collect(),
            endpoints: self.pods.iter().map(|pod| pod.endpoint(family)).collect(),
            triggered: None,
        }
    }
}

impl ServedPort {
    fn name(&self) -> String {
        format!("{}-{}", self.protocol, self.port)
    }
}

fn ports(rng: &mut Rng, number: u8) -> Vec<ServedPort> {
    let mut ports: Vec<ServedPort> = Vec::new();
    for index in 0..rng.u8(1..4) {
        let protocol = rng.choice([6, 6, 17, 17, protocol::SCTP]).unwrap_or(6);
        let port = rng.choice(PORTS).unwrap_or(80);
        if ports
            .iter()
            .any(|other| (other.protocol, other.port) == (protocol, port))
        {
            continue;
        }
        let target = if protocol == protocol::SCTP {
            port
        } else {
            rng.choice(TARGETS).unwrap_or(8000)
        };
        // Its port stays, so that of a node is the pods', too.
        let has_node_port = protocol != protocol::SCTP && rng.bool();
        let node_port = 30_000 + u16::from(number) * 10 + u16::from(index);
        ports.push(ServedPort {
            protocol,
            port,
            target,
            node_port: if has_node_port { node_port } else { 0 },
        });
    }
    ports
}

/// Some of the clients outside, and of the pods.
fn ranges() -> Vec<IpNet> {
    [
        "198.18.0.0/30",
        "10.244.1.96/28",
        "2001:db8::/126",
        "fd00:10:244:1::/120",
    ]
    .map(|net| net.parse().expect("a network"))
    .to_vec()
}

/// The agent's model of them. `nets` are the networks of cluster addresses.
pub(super) fn model(services: &[Served], nets: &[IpNet]) -> Model {
    let mut model = Model {
        service_cidrs: nets.iter().copied().collect(),
        ..Model::default()
    };
    for service in services {
        let name = ObjectName::new("default", format!("service-{}", service.number));
        let slices = Family::ALL.map(|family| {
            let slice = Arc::new(service.slice(family));
            (format!("{family:?}"), slice)
        });
        model.slices.insert(name.clone(), slices.into());
        model.services.insert(name, Arc::new(service.object()));
    }
    model
}
