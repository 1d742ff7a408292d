//! The Services of a test, in the agent's model.

use std::sync::Arc;

use lb_agent::model::{
    Algorithm, Endpoint, Model, ObjectName, Service as ModelService, ServiceKind, ServicePort,
    Slice, SlicePort, TrafficPolicy,
};
use lb_common::protocol;

use super::{Family, Transport};

/// The port that clients of a Service dial at its cluster addresses.
pub const SERVICE_PORT: u16 = 80;
/// The port that pods listen on.
pub const BACKEND_PORT: u16 = 8000;

/// An endpoint of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    node: u8,
    number: u8,
    terminating: bool,
}

impl Pod {
    /// Pod `number` of node `node`.
    #[must_use]
    pub fn on(node: u8, number: u8) -> Self {
        Self {
            node,
            number,
            terminating: false,
        }
    }

    /// The same pod, on its way out.
    #[must_use]
    pub fn terminating(self) -> Self {
        Self {
            terminating: true,
            ..self
        }
    }

    fn endpoint(self, family: Family) -> Endpoint {
        Endpoint {
            addr: family.pod(self.node, self.number),
            ready: !self.terminating,
            serving: true,
            terminating: self.terminating,
            node: Some(format!("node{}", self.node).into()),
            for_zones: Default::default(),
            for_nodes: Default::default(),
        }
    }
}

/// A dual-stack Service of type `NodePort` for TCP and UDP.
#[derive(Clone, Debug)]
pub struct Service {
    number: u8,
    pods: Vec<Pod>,
    affinity_timeout_s: Option<u32>,
    algorithm: Algorithm,
    is_local: bool,
    is_sctp: bool,
    is_external: bool,
}

impl Service {
    /// The Service with the cluster addresses [`Family::vip`]`(number)` and the node port 30000 +
    /// `number`, served by `pods`.
    #[must_use]
    pub fn new(number: u8, pods: impl IntoIterator<Item = Pod>) -> Self {
        Self {
            number,
            pods: pods.into_iter().collect(),
            affinity_timeout_s: None,
            algorithm: Algorithm::Maglev,
            is_local: false,
            is_sctp: false,
            is_external: false,
        }
    }

    /// The same, whose clients stay with a backend for so many seconds.
    #[must_use]
    pub fn with_affinity(self, seconds: u32) -> Self {
        Self {
            affinity_timeout_s: Some(seconds),
            ..self
        }
    }

    /// The same, with backends by chance.
    #[must_use]
    pub fn by_chance(self) -> Self {
        Self {
            algorithm: Algorithm::Random,
            ..self
        }
    }

    /// The same, that serves clients outside by pods of their node only.
    #[must_use]
    pub fn local(self) -> Self {
        Self {
            is_local: true,
            ..self
        }
    }

    /// The same, with the external addresses [`Family::external`]`(number)`, too.
    #[must_use]
    pub fn external(self) -> Self {
        Self {
            is_external: true,
            ..self
        }
    }

    /// The same, of SCTP instead of TCP and UDP, whose clients dial the port that pods listen on.
    #[must_use]
    pub fn sctp(self) -> Self {
        Self {
            is_sctp: true,
            ..self
        }
    }

    fn ports(&self) -> Vec<ServicePort> {
        if self.is_sctp {
            return vec![ServicePort {
                name: "sctp".to_owned(),
                protocol: protocol::SCTP,
                port: BACKEND_PORT,
                node_port: 0,
            }];
        }
        let port = |transport: Transport| ServicePort {
            name: name(transport),
            protocol: transport.protocol(),
            port: SERVICE_PORT,
            node_port: node_port(self.number),
        };
        Transport::ALL.map(port).to_vec()
    }

    fn object(&self) -> ModelService {
        ModelService {
            kind: ServiceKind::NodePort,
            cluster_ips: Family::ALL.map(|family| family.vip(self.number)).to_vec(),
            external_ips: Family::ALL
                .map(|family| family.external(self.number))
                .into_iter()
                .filter(|_| self.is_external)
                .collect(),
            load_balancer_ips: Vec::new(),
            ports: self.ports(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: if self.is_local {
                TrafficPolicy::Local
            } else {
                TrafficPolicy::Cluster
            },
            affinity_timeout_s: self.affinity_timeout_s,
            source_ranges: Vec::new(),
            health_check_node_port: 0,
            algorithm: self.algorithm,
        }
    }

    fn slice(&self, family: Family) -> Slice {
        let port = |port: ServicePort| SlicePort {
            name: port.name,
            protocol: port.protocol,
            port: BACKEND_PORT,
        };
        Slice {
            ports: self.ports().into_iter().map(port).collect(),
            endpoints: self.pods.iter().map(|pod| pod.endpoint(family)).collect(),
            triggered: None,
        }
    }
}

/// The node port of Service `number`.
pub(super) fn node_port(number: u8) -> u16 {
    30_000 + u16::from(number)
}

fn name(transport: Transport) -> String {
    format!("{transport:?}").to_lowercase()
}

/// The model that holds `services`.
#[must_use]
pub fn model(services: &[Service]) -> Model {
    let mut model = Model::default();
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
