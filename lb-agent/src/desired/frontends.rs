//! What clients of a Service dial (SEMANTICS C, D).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{FrontendKey, frontend::flags};

use super::{FrontendSpec, NodeView, Scope, ranges::Filter};
use crate::model::{Algorithm, Service, ServicePort, TrafficPolicy};

/// The frontends of one Service port in the family of `cluster_ip`. Of two with the same key the
/// first counts.
pub(super) fn wanted(
    service: &Service,
    cluster_ip: IpAddr,
    port: &ServicePort,
    node: &NodeView,
    filter: &Filter,
) -> Vec<(FrontendKey, FrontendSpec)> {
    let same_family = |addr: &&IpAddr| addr.is_ipv4() == cluster_ip.is_ipv4();
    let key = |addr: &IpAddr, number| FrontendKey::new((*addr).into(), number, port.protocol);
    let internal = scope(service.internal_policy);
    let spec = |outside, inside, flags| spec(service, outside, inside, flags);

    let inner = spec(internal, internal, 0);
    // Inside the node the external policy does not bind (item 32).
    let outer = |flags| spec(scope(service.external_policy), Scope::Cluster, flags);
    let everywhere = if node.source_ranges_everywhere {
        filter.flags()
    } else {
        0
    };
    let mut wanted = vec![(key(&cluster_ip, port.port), inner)];
    // First the load balancer's: what is also an external address must not open a way around
    // the source ranges.
    let balanced = service.load_balancer_ips.iter().filter(same_family);
    wanted.extend(balanced.map(|vip| (key(vip, port.port), outer(filter.flags()))));
    let external = service.external_ips.iter().filter(same_family);
    wanted.extend(external.map(|vip| (key(vip, port.port), outer(everywhere))));
    if port.node_port != 0 {
        let localhost = if cluster_ip.is_ipv4() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        };
        let localhost = node.localhost_node_ports.then_some(&localhost);
        let addresses = node.node_port_addresses.iter().filter(same_family);
        let node_port = outer(flags::NODE_PORT | everywhere);
        let addresses = addresses.chain(localhost);
        wanted.extend(addresses.map(|addr| (key(addr, port.node_port), node_port)));
    }
    wanted
}

fn spec(service: &Service, outside: Scope, inside: Scope, mut bits: u32) -> FrontendSpec {
    let decided = [
        (outside == Scope::Local, flags::OUTSIDE_LOCAL),
        (inside == Scope::Local, flags::INSIDE_LOCAL),
        (service.algorithm == Algorithm::Random, flags::RANDOM),
    ];
    for (_, flag) in decided.into_iter().filter(|(holds, _)| *holds) {
        bits |= flag;
    }
    FrontendSpec {
        outside,
        inside,
        affinity_timeout_s: service.affinity_timeout_s.unwrap_or(0),
        flags: bits,
    }
}

fn scope(policy: TrafficPolicy) -> Scope {
    match policy {
        TrafficPolicy::Cluster => Scope::Cluster,
        TrafficPolicy::Local => Scope::Local,
    }
}
