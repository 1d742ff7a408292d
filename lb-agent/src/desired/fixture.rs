//! Services, endpoints and nodes for tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{FrontendKey, protocol};

use super::{FrontendSpec, Ids, NodeView, Port, Rejection, Tables, compile};
use crate::model::{
    Algorithm, Endpoint, Model, ObjectName, Service, ServiceKind, ServicePort, Slice, SlicePort,
    TrafficPolicy,
};

/// The node under test.
pub(super) const NODE: &str = "here";
/// Where the Services of these tests are dialled.
pub(super) const CLUSTER_IP: &str = "10.96.0.1";

pub(super) fn ip(addr: &str) -> IpAddr {
    addr.parse().expect("an address")
}

pub(super) fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".into(),
        name: name.into(),
    }
}

/// `web`, for TCP at [`CLUSTER_IP`] and port 80, of type `ClusterIP`.
pub(super) fn service() -> Service {
    Service {
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![ip(CLUSTER_IP)],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![port(protocol::TCP)],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_timeout_s: None,
        source_ranges: Vec::new(),
        health_check_node_port: 0,
        algorithm: Algorithm::Maglev,
    }
}

pub(super) fn port(protocol: u8) -> ServicePort {
    ServicePort {
        name: protocol::name(protocol).to_lowercase(),
        protocol,
        port: 80,
        node_port: 0,
    }
}

/// A ready endpoint of another node.
pub(super) fn endpoint(addr: &str) -> Endpoint {
    Endpoint {
        addr: ip(addr),
        ready: true,
        serving: true,
        terminating: false,
        node: Some("there".into()),
        for_zones: BTreeSet::new(),
        for_nodes: BTreeSet::new(),
    }
}

/// A ready endpoint of this node.
pub(super) fn local_endpoint(addr: &str) -> Endpoint {
    Endpoint {
        node: Some(NODE.into()),
        ..endpoint(addr)
    }
}

/// The same endpoint, which serves while it terminates.
pub(super) fn terminating(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        ready: false,
        terminating: true,
        ..endpoint
    }
}

/// The same endpoint, which does not serve, but may again.
pub(super) fn failing(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        ready: false,
        serving: false,
        ..endpoint
    }
}

/// Port 8000 of `endpoints`, for TCP and UDP.
pub(super) fn slice(endpoints: impl IntoIterator<Item = Endpoint>) -> Slice {
    let port = |protocol| SlicePort {
        name: protocol::name(protocol).to_lowercase(),
        protocol,
        port: 8000,
    };
    Slice {
        ports: [protocol::TCP, protocol::UDP, protocol::SCTP]
            .map(port)
            .into(),
        endpoints: endpoints.into_iter().collect(),
        triggered: None,
    }
}

pub(super) fn node() -> NodeView {
    NodeView {
        name: NODE.into(),
        own_addresses: ["192.168.0.1", "fd00:77::1"].map(ip).into(),
        local_addresses: [
            "127.0.0.1",
            "::1",
            "192.168.0.1",
            "fd00:77::1",
            "10.244.1.1",
        ]
        .map(ip)
        .into(),
        node_port_addresses: ["192.168.0.1", "fd00:77::1"].map(ip).into(),
        ..NodeView::default()
    }
}

pub(super) fn model<'a>(
    services: impl IntoIterator<Item = (&'a str, Service, Vec<Endpoint>)>,
) -> Model {
    let mut model = Model::default();
    for (short, service, endpoints) in services {
        let slices = BTreeMap::from([("a".to_owned(), Arc::new(slice(endpoints)))]);
        model.slices.insert(name(short), slices);
        model.services.insert(name(short), Arc::new(service));
    }
    model
}

/// What is desired for one Service, `web`, with these endpoints.
pub(super) fn desired(
    service: Service,
    endpoints: impl IntoIterator<Item = Endpoint>,
    node: &NodeView,
) -> (Tables, Vec<Rejection>) {
    let endpoints = endpoints.into_iter().collect();
    let model = model([("web", service, endpoints)]);
    compile(&model, node, &mut Ids::new(64))
}

/// The port that has the frontend `addr`:`number` of TCP or UDP, and its specification.
#[track_caller]
pub(super) fn frontend<'a>(
    tables: &'a Tables,
    addr: &str,
    number: u16,
) -> (&'a Port, &'a FrontendSpec) {
    let has = |port: &'a Port| {
        let key = FrontendKey::new(ip(addr).into(), number, port.name.protocol);
        Some((port, port.frontends.get(&key)?))
    };
    let found = tables.ports.values().find_map(has);
    found.unwrap_or_else(|| panic!("nobody has {addr}:{number}"))
}
