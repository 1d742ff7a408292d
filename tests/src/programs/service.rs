//! The Services of a test, in the agent's model.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use lb_agent::model::{
    Algorithm, Endpoint, Model, ObjectName, Service as ModelService, ServiceKind, ServicePort,
    Slice, SlicePort, TrafficPolicy,
};

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
            node: Some(format!("node{}", self.node)),
            for_zones: BTreeSet::new(),
            for_nodes: BTreeSet::new(),
        }
    }
}

/// A dual-stack Service of type `NodePort` for TCP and UDP.
#[derive(Clone, Debug)]
pub struct Service {
    number: u8,
    pods: Vec<Pod>,
}

impl Service {
    /// The Service with the cluster addresses [`Family::vip`]`(number)` and the node port 30000 +
    /// `number`, served by `pods`.
    #[must_use]
    pub fn new(number: u8, pods: impl IntoIterator<Item = Pod>) -> Self {
        Self {
            number,
            pods: pods.into_iter().collect(),
        }
    }

    fn object(&self) -> ModelService {
        let port = |transport: Transport| ServicePort {
            name: name(transport),
            protocol: transport.protocol(),
            port: SERVICE_PORT,
            node_port: node_port(self.number),
        };
        ModelService {
            kind: ServiceKind::NodePort,
            cluster_ips: Family::ALL.map(|family| family.vip(self.number)).to_vec(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: Transport::ALL.map(port).to_vec(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity_timeout_s: None,
            source_ranges: Vec::new(),
            health_check_node_port: 0,
            algorithm: Algorithm::Maglev,
        }
    }

    fn slice(&self, family: Family) -> Slice {
        let port = |transport: Transport| SlicePort {
            name: name(transport),
            protocol: transport.protocol(),
            port: BACKEND_PORT,
        };
        Slice {
            ports: Transport::ALL.map(port).to_vec(),
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
        let name = ObjectName {
            namespace: "default".into(),
            name: format!("service-{}", service.number),
        };
        let slices = Family::ALL.map(|family| {
            let slice = Arc::new(service.slice(family));
            (format!("{family:?}"), slice)
        });
        model.slices.insert(name.clone(), BTreeMap::from(slices));
        model.services.insert(name, Arc::new(service.object()));
    }
    model
}
