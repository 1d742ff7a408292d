//! The node whose programs are measured: one Service in use, many others beside it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use lb_agent::model::{
    Algorithm, Endpoint, Model, ObjectName, Service as ModelService, ServiceKind, ServicePort,
    Slice, SlicePort, TrafficPolicy,
};
use lb_common::{
    DatapathConfig, maglev,
    maps::{self, MapSpec},
    protocol,
};

use crate::programs::{BACKEND_PORT, Pod, SERVICE_PORT, Service, model};

/// Number of the Service whose backends are on node 2.
pub(super) const REMOTE: u8 = 1;
/// Number of the Service whose backends are on the node itself.
pub(super) const LOCAL: u8 = 2;

/// Backends of each of the two: so many that half a million connections find ports for SNAT.
const BACKENDS: u8 = 250;

/// The first cluster address of the others, and the first of their backends.
const OTHERS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
const OTHERS_PODS: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);

/// Constants of the programs: as usual, but for a range of ports that is large enough. No NodePort is
/// in it: what comes for such a port might be a reply, and is looked up as one first.
pub(super) fn config() -> DatapathConfig {
    DatapathConfig {
        snat_port_first: 32_768,
        ..DatapathConfig::DEFAULT
    }
}

/// All maps, as large as by default, and larger where so many Services or flows need it.
pub(super) fn specs(services: u32, flows: u32) -> Vec<MapSpec> {
    // An extra one for the header of each table.
    let tables = services * ((1 << maglev::MIN_BITS) + 1);
    let used = 4 * (1 << maglev::bits_for(BACKENDS.into()));
    let needed = |spec: &MapSpec| match spec.name {
        maps::FRONTENDS | maps::VIPS => services + 64,
        maps::FRONTEND_INDEX => maps::index_buckets(services + 64),
        maps::FRONTEND_COPIES => maps::index_copies(services + 64),
        maps::BACKENDS => services + 4 * u32::from(BACKENDS) + 64,
        maps::FLOWS => flows,
        maps::ESTABLISHED => maps::mark_buckets(flows),
        // The arena is dealt out in powers of two, and a little is lost.
        maps::SLOTS => 2 * (tables + used),
        _ => 0,
    };
    let spec = |spec: &MapSpec| MapSpec {
        max_entries: spec.max_entries.max(needed(spec)),
        ..*spec
    };
    maps::SPECS.iter().map(spec).collect()
}

/// So many Services in all: the two in use, dual-stack with NodePorts, and others of IPv4 with one
/// backend.
pub(super) fn services(count: u32) -> Model {
    let used = [(REMOTE, 2), (LOCAL, 1)].map(|(number, node)| {
        let pods = (1..=BACKENDS).map(|pod| Pod::on(node, pod));
        Service::new(number, pods)
    });
    let mut model = model(&used);
    for number in 0..count.saturating_sub(1) {
        let name = ObjectName::new("other", format!("service-{number}"));
        let slices = [("slice", Arc::new(slice(number)))].into();
        model.slices.insert(name.clone(), slices);
        model.services.insert(name, Arc::new(other(number)));
    }
    model
}

/// What clients of another Service dial.
pub(super) fn other_frontend(number: u32) -> SocketAddr {
    (address(OTHERS, number), SERVICE_PORT).into()
}

fn other(number: u32) -> ModelService {
    ModelService {
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![address(OTHERS, number)],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: protocol::TCP,
            port: SERVICE_PORT,
            node_port: 0,
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_timeout_s: None,
        source_ranges: Vec::new(),
        health_check_node_port: 0,
        algorithm: Algorithm::Maglev,
    }
}

fn slice(number: u32) -> Slice {
    Slice {
        ports: vec![SlicePort {
            name: String::new(),
            protocol: protocol::TCP,
            port: BACKEND_PORT,
        }],
        endpoints: vec![Endpoint {
            addr: address(OTHERS_PODS, number),
            ready: true,
            serving: true,
            terminating: false,
            node: Some("node2".into()),
            for_zones: Default::default(),
            for_nodes: Default::default(),
        }],
        triggered: None,
    }
}

fn address(first: Ipv4Addr, number: u32) -> IpAddr {
    Ipv4Addr::from_bits(first.to_bits() + number).into()
}
