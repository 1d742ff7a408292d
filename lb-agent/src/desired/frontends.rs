//! What clients of a Service dial (SEMANTICS C, D).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{FrontendKey, frontend::flags};

use super::{FrontendSpec, NodeView, Scope, endpoints::is_allowed, ranges::Filter};
use crate::model::{Algorithm, Cause, ObjectName, Service, ServicePort, TrafficPolicy};

/// A Service in one family: what its ports have in common.
pub(super) struct Dialled<'a> {
    service: &'a Service,
    node: &'a NodeView,
    cluster_ip: IpAddr,
    balanced: Vec<IpAddr>,
    external: Vec<IpAddr>,
    pub(super) filter: Filter,
}

/// A field of a Service, and why it is not served: in a word, and in a sentence.
pub(super) type Refusal = (&'static str, Cause, String);

impl<'a> Dialled<'a> {
    /// `holder` tells which other Service has a cluster address.
    pub(super) fn new(
        service: &'a Service,
        node: &'a NodeView,
        cluster_ip: IpAddr,
        holder: impl Fn(IpAddr) -> Option<&'a ObjectName>,
    ) -> (Self, Vec<Refusal>) {
        let is_v4 = cluster_ip.is_ipv4();
        let mut refusals = Vec::new();
        let mut accepted = |field, addrs: &[IpAddr], allowed: &dyn Fn(IpAddr) -> bool| {
            let of_family = addrs.iter().filter(|addr| addr.is_ipv4() == is_v4);
            let accepted = of_family.filter(|addr| match refusal(**addr, node, &holder, allowed) {
                Some(reason) => {
                    refusals.push((field, Cause::ForbiddenAddress, reason));
                    false
                }
                None => true,
            });
            accepted.copied().collect()
        };
        let allowed = |addr| node.external_ips.allow(addr);
        let dialled = Self {
            balanced: accepted("status.loadBalancer", &service.load_balancer_ips, &|_| true),
            external: accepted("spec.externalIPs", &service.external_ips, &allowed),
            filter: Filter::new(service, is_v4, node),
            service,
            node,
            cluster_ip,
        };
        (dialled, refusals)
    }

    /// The frontends of one port. Of two with the same key the first counts.
    pub(super) fn wanted(&self, port: &ServicePort) -> Vec<(FrontendKey, FrontendSpec)> {
        let Self {
            service,
            node,
            cluster_ip,
            filter,
            ..
        } = self;
        let key = |addr: &IpAddr, number| FrontendKey::new((*addr).into(), number, port.protocol);
        let internal = scope(service.internal_policy);
        // Inside the node the external policy does not bind (item 32).
        let outer = |flags| {
            spec(
                service,
                scope(service.external_policy),
                Scope::Cluster,
                flags,
            )
        };
        let everywhere = if node.source_ranges_everywhere {
            filter.flags()
        } else {
            0
        };
        let inner = spec(service, internal, internal, 0);
        let mut wanted = vec![(key(cluster_ip, port.port), inner)];
        // First the load balancer's: what is also an external address must not open a way around
        // the source ranges.
        for (vips, flags) in [
            (&self.balanced, filter.flags()),
            (&self.external, everywhere),
        ] {
            wanted.extend(vips.iter().map(|vip| (key(vip, port.port), outer(flags))));
        }
        if port.node_port != 0 {
            let localhost = if cluster_ip.is_ipv4() {
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            } else {
                IpAddr::V6(Ipv6Addr::LOCALHOST)
            };
            let localhost = node.localhost_node_ports.then_some(&localhost);
            let addresses = node.node_port_addresses.iter();
            let of_family = addresses.filter(|addr| addr.is_ipv4() == cluster_ip.is_ipv4());
            let node_port = outer(flags::NODE_PORT | everywhere);
            let addresses = of_family.chain(localhost);
            wanted.extend(addresses.map(|addr| (key(addr, port.node_port), node_port)));
        }
        wanted
    }
}

/// Why a Service may not have `addr` as an external address.
fn refusal<'a>(
    addr: IpAddr,
    node: &NodeView,
    holder: &impl Fn(IpAddr) -> Option<&'a ObjectName>,
    allowed: &dyn Fn(IpAddr) -> bool,
) -> Option<String> {
    if !is_allowed(addr) {
        return Some(format!("{addr}: an address that no Service may have"));
    }
    if let Some(other) = holder(addr) {
        return Some(format!("{addr} is the cluster address of {other}"));
    }
    if node.is_on_this_node(addr) {
        return Some(format!("{addr} is an address of this node's pods"));
    }
    (!allowed(addr)).then(|| format!("{addr} is not allowed by --external-ips"))
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

#[cfg(test)]
mod tests;
