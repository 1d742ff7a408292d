//! Services, endpoints and nodes for tests.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::{FrontendKey, protocol};
use proptest::prelude::*;

use super::{Compiler, FrontendSpec, Ids, NodeView, Port, Rejection, Tables};
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
    ObjectName::new("default", name)
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
        for_zones: Default::default(),
        for_nodes: Default::default(),
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
        answers_echo: true,
        has_predecessor: false,
        ..NodeView::default()
    }
}

pub(super) fn model<'a>(
    services: impl IntoIterator<Item = (&'a str, Service, Vec<Endpoint>)>,
) -> Model {
    let mut model = Model::default();
    for (short, service, endpoints) in services {
        let slices = [("a", Arc::new(slice(endpoints)))].into();
        model.slices.insert(name(short), slices);
        model.services.insert(name(short), Arc::new(service));
    }
    model
}

/// What is desired for `model`.
pub(super) fn compile(model: &Model, node: &NodeView) -> (Tables, Vec<Rejection>) {
    let mut compiler = Compiler::new(Ids::new(64));
    compiler.update(model, node);
    let rejections = compiler.rejections().cloned().collect();
    (compiler.tables().clone(), rejections)
}

/// What is desired for one Service, `web`, with these endpoints.
pub(super) fn desired(
    service: Service,
    endpoints: impl IntoIterator<Item = Endpoint>,
    node: &NodeView,
) -> (Tables, Vec<Rejection>) {
    let endpoints = endpoints.into_iter().collect();
    let model = model([("web", service, endpoints)]);
    compile(&model, node)
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

/// Models whose Services dispute addresses and ports, and nodes that they are on: one after the
/// other, as they might change, most often by one Service.
pub(crate) fn histories() -> impl Strategy<Value = Vec<(Model, NodeView)>> {
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    let object = (services(), prop::collection::vec(endpoints(), 0..4));
    let change = (name, prop::option::weighted(0.8, object));
    let environment = prop::option::weighted(0.2, (nodes(), any::<bool>()));
    prop::collection::vec((change, environment), 1..16).prop_map(|steps| {
        let mut objects = BTreeMap::new();
        let (mut node, mut known_nets) = (node(), false);
        let states = steps.into_iter().map(|((name, object), environment)| {
            match object {
                Some(object) => objects.insert(name, object),
                None => objects.remove(name),
            };
            if let Some(environment) = environment {
                (node, known_nets) = environment;
            }
            let services = objects.iter();
            let mut model = model(services.map(|(name, object)| {
                let (service, endpoints) = object.clone();
                (*name, service, endpoints)
            }));
            if known_nets {
                model.service_cidrs = ["10.96.0.0/16".parse().expect("a network")].into();
            }
            (model, node.clone())
        });
        states.collect()
    })
}

fn nodes() -> impl Strategy<Value = NodeView> {
    (0..6_u8, any::<bool>()).prop_map(|(variant, everywhere)| {
        let mut node = node();
        match variant {
            0 => node.zone = Some("a".into()),
            1 => node.node_port_addresses = ["203.0.113.1"].map(ip).into(),
            2 => node.pod_networks = ["203.0.113.2/32".parse().expect("a network")].into(),
            3 => node.source_ranges_everywhere = everywhere,
            _ => {}
        }
        node
    })
}

fn services() -> impl Strategy<Value = Service> {
    let addrs = || {
        let pool = [
            "203.0.113.1",
            "203.0.113.2",
            "10.96.0.1",
            "192.168.0.1",
            "fd00::9",
        ];
        prop::collection::vec(prop::sample::select(pool.to_vec()), 0..3)
    };
    let cluster_ips = [
        &["10.96.0.1"][..],
        &["10.96.0.2"],
        &["10.96.0.2", "fd00:10:96::1"],
        &[],
    ];
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), 0..10_u8);
    (
        prop::sample::select(cluster_ips.to_vec()),
        (addrs(), addrs()),
        prop::collection::vec(service_ports(), 1..3),
        switches,
    )
        .prop_map(|(cluster_ips, (external, balanced), ports, switches)| {
            let (internal_local, external_local, limited, kind) = switches;
            let ips = |addrs: &[&str]| addrs.iter().map(|addr| ip(addr)).collect();
            let policy = |local| match local {
                true => TrafficPolicy::Local,
                false => TrafficPolicy::Cluster,
            };
            let mut service = service();
            if kind == 0 {
                service.kind = ServiceKind::ExternalName;
            }
            service.cluster_ips = ips(cluster_ips);
            service.external_ips = ips(&external);
            service.load_balancer_ips = ips(&balanced);
            service.internal_policy = policy(internal_local);
            service.external_policy = policy(external_local);
            if limited {
                service.source_ranges = vec!["198.51.100.0/24".parse().expect("a network")];
            }
            service.ports = ports;
            service
        })
}

fn service_ports() -> impl Strategy<Value = ServicePort> {
    let protocols = [protocol::TCP, protocol::UDP, protocol::SCTP];
    (
        prop::sample::select(vec![80_u16, 8000]),
        prop::sample::select(vec![0_u16, 80, 8000]),
        prop::sample::select(protocols.to_vec()),
    )
        .prop_map(|(number, node_port, protocol)| ServicePort {
            port: number,
            node_port,
            ..port(protocol)
        })
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    let addrs = ["10.244.2.1", "10.244.2.2", "10.244.2.3", "fd00:10:244::1"];
    let services = ["10.96.0.1", "10.96.0.2", "203.0.113.1"];
    let addr = prop::sample::select([&addrs[..], &addrs, &services].concat());
    (addr, any::<bool>(), any::<bool>(), 0..5_u8).prop_map(|(addr, local, hinted, state)| {
        let mut endpoint = if local {
            local_endpoint(addr)
        } else {
            endpoint(addr)
        };
        if hinted {
            endpoint.for_zones = ["a"].into_iter().collect();
        }
        match state {
            0 => terminating(endpoint),
            1 => failing(endpoint),
            2 => Endpoint {
                node: None,
                ..endpoint
            },
            _ => endpoint,
        }
    })
}
