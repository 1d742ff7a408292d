//! What the model says about this node's own endpoints: for health checks, and to be counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::endpoints::{Candidates, candidates, is_allowed};
use crate::model::{Model, ObjectName, Service, ServiceKind, ServicePort, TrafficPolicy};

/// A Service whose presence on this node a load balancer checks (items 51 and 52).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalReady {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints of this node; none in a family that the Service does not have.
    pub ipv4: Option<usize>,
    /// The same of IPv6.
    pub ipv6: Option<usize>,
}

impl LocalReady {
    /// What a probe over this family is told: the endpoints of the family, or where the Service
    /// has no such address, those that it has.
    #[must_use]
    pub fn count(&self, is_v6: bool) -> usize {
        let (own, other) = if is_v6 {
            (self.ipv6, self.ipv4)
        } else {
            (self.ipv4, self.ipv6)
        };
        own.or(other).unwrap_or(0)
    }
}

/// The Services with a health check node port, and how many endpoints this node has for each.
///
/// Counted are different addresses over all ports of the Service that are ready. One that
/// terminates does not count, even where it is published as ready: the load balancer is to send
/// nothing more here.
#[must_use]
pub fn local_ready_endpoints(model: &Model, node_name: &str) -> BTreeMap<ObjectName, LocalReady> {
    let checked = model.services.iter().filter(|(_, service)| {
        service.kind == ServiceKind::LoadBalancer
            && service.external_policy == TrafficPolicy::Local
            && service.health_check_node_port != 0
            && !service.cluster_ips.is_empty()
    });
    checked
        .map(|(name, service)| {
            let family = |is_v4: bool| {
                let mut ips = service.cluster_ips.iter();
                ips.any(|ip| ip.is_ipv4() == is_v4)
                    .then(|| ready(model, name, service, is_v4, node_name).len())
            };
            let entry = LocalReady {
                port: service.health_check_node_port,
                ipv4: family(true),
                ipv6: family(false),
            };
            (name.clone(), entry)
        })
        .collect()
}

fn ready(
    model: &Model,
    name: &ObjectName,
    service: &Service,
    is_v4: bool,
    node: &str,
) -> BTreeSet<IpAddr> {
    let mut addrs = BTreeSet::new();
    for port in &service.ports {
        let found = found(model, name, port, is_v4, node);
        let ready = found
            .iter()
            .filter(|(_, c)| c.local && c.endpoint.ready && !c.endpoint.terminating);
        addrs.extend(ready.map(|((addr, _), _)| *addr));
    }
    addrs
}

/// Service ports that drop traffic on this node under a policy `Local`: there are endpoints, but
/// on other nodes (items 16 and 69).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// Of `internalTrafficPolicy`.
    pub internal: usize,
    /// Of `externalTrafficPolicy`.
    pub external: usize,
}

/// How many Service ports of a family have endpoints, and none of them on this node.
#[must_use]
pub fn no_local_endpoints(model: &Model, node_name: &str, is_v4: bool) -> NoLocalEndpoints {
    let mut counts = NoLocalEndpoints::default();
    for (name, service) in &model.services {
        let internal = service.internal_policy == TrafficPolicy::Local;
        let external = service.external_policy == TrafficPolicy::Local && is_external(service);
        let has_family = service.cluster_ips.iter().any(|ip| ip.is_ipv4() == is_v4);
        if !(internal || external) || !has_family || service.kind == ServiceKind::ExternalName {
            continue;
        }
        for port in &service.ports {
            let found = found(model, name, port, is_v4, node_name);
            let is_served = |local: bool| found.values().any(|c| c.local >= local && c.is_usable());
            if is_served(false) && !is_served(true) {
                counts.internal += usize::from(internal);
                counts.external += usize::from(external);
            }
        }
    }
    counts
}

/// Whether anybody outside the cluster can dial the Service (item 15).
fn is_external(service: &Service) -> bool {
    let kinds = [ServiceKind::NodePort, ServiceKind::LoadBalancer];
    kinds.contains(&service.kind) || !service.external_ips.is_empty()
}

fn found<'m>(
    model: &'m Model,
    name: &ObjectName,
    port: &ServicePort,
    is_v4: bool,
    node: &str,
) -> Candidates<'m> {
    let slices = model
        .slices
        .get(name)
        .into_iter()
        .flat_map(BTreeMap::values);
    let slices = slices.map(AsRef::as_ref);
    let mut found = candidates(slices, &port.name, port.protocol, is_v4, node);
    found.retain(|(addr, _), _| is_allowed(*addr));
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lb_common::protocol;

    use super::*;
    use crate::model::{Endpoint, Slice, SlicePort};

    fn name() -> ObjectName {
        ObjectName {
            namespace: "default".into(),
            name: "etl".into(),
        }
    }

    /// A dual-stack load balancer's Service with the ports `a` and `b`, for this node's endpoints.
    fn service() -> Service {
        let port = |name: &str, port| ServicePort {
            name: name.into(),
            protocol: protocol::TCP,
            port,
            node_port: 30_000 + port,
        };
        Service {
            kind: ServiceKind::LoadBalancer,
            cluster_ips: ["10.96.0.1", "fd00::1"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: vec![port("a", 80), port("b", 81)],
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Local,
            affinity_timeout_s: None,
            source_ranges: Vec::new(),
            health_check_node_port: 32_000,
            algorithm: Default::default(),
        }
    }

    fn endpoint(addr: &str, node: &str) -> Endpoint {
        Endpoint {
            addr: addr.parse().unwrap(),
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.into()),
            for_zones: BTreeSet::new(),
            for_nodes: BTreeSet::new(),
        }
    }

    fn slice(ports: &[&str], endpoints: Vec<Endpoint>) -> Arc<Slice> {
        let ports = ports.iter().zip(8080..).map(|(name, port)| SlicePort {
            name: (*name).into(),
            protocol: protocol::TCP,
            port,
        });
        Arc::new(Slice {
            ports: ports.collect(),
            endpoints,
            triggered: None,
        })
    }

    fn model(service: Service, slices: impl IntoIterator<Item = Arc<Slice>>) -> Model {
        let names = (0..).map(|number: u32| number.to_string());
        Model {
            services: BTreeMap::from([(name(), Arc::new(service))]),
            slices: BTreeMap::from([(name(), names.zip(slices).collect())]),
            ..Model::default()
        }
    }

    #[track_caller]
    fn check(slices: impl IntoIterator<Item = Arc<Slice>>, v4: usize, v6: usize) {
        let found = local_ready_endpoints(&model(service(), slices), "here");
        let expected = LocalReady {
            port: 32_000,
            ipv4: Some(v4),
            ipv6: Some(v6),
        };
        assert_eq!(found, BTreeMap::from([(name(), expected)]));
    }

    #[test]
    fn s52_different_addresses_of_this_node_count_once_over_all_ports() {
        check(
            [
                slice(
                    &["a", "b"],
                    vec![endpoint("10.0.0.1", "here"), endpoint("10.0.0.2", "there")],
                ),
                slice(
                    &["b"],
                    vec![endpoint("10.0.0.1", "here"), endpoint("10.0.0.3", "here")],
                ),
                slice(&["a"], vec![endpoint("fd00::2", "here")]),
            ],
            2,
            1,
        );
    }

    #[test]
    fn s52_terminating_and_unready_endpoints_do_not_count() {
        let ending = Endpoint {
            terminating: true,
            ..endpoint("10.0.0.1", "here")
        };
        let unready = Endpoint {
            ready: false,
            ..endpoint("10.0.0.2", "here")
        };
        check([slice(&["a"], vec![ending, unready])], 0, 0);
    }

    #[test]
    fn s52_ports_that_the_service_does_not_have_do_not_count() {
        check([slice(&["c"], vec![endpoint("10.0.0.1", "here")])], 0, 0);
    }

    #[test]
    fn s51_only_load_balancers_with_a_local_policy_and_a_port_are_checked() {
        let changes: [fn(&mut Service); 4] = [
            |service| service.kind = ServiceKind::NodePort,
            |service| service.external_policy = TrafficPolicy::Cluster,
            |service| service.health_check_node_port = 0,
            |service| service.cluster_ips.clear(),
        ];
        for change in changes {
            let mut service = service();
            change(&mut service);
            let found = local_ready_endpoints(&model(service, []), "here");
            assert_eq!(found, BTreeMap::new());
        }
    }

    #[test]
    fn s52_a_family_that_the_service_lacks_is_told_the_other_ones_count() {
        let single = LocalReady {
            port: 1,
            ipv4: Some(2),
            ipv6: None,
        };
        assert_eq!((single.count(false), single.count(true)), (2, 2));
        let dual = LocalReady {
            ipv6: Some(0),
            ..single
        };
        assert_eq!((dual.count(false), dual.count(true)), (2, 0));
    }

    #[test]
    fn s69_service_ports_without_local_endpoints_are_counted_by_policy() {
        let elsewhere = || slice(&["a", "b"], vec![endpoint("10.0.0.1", "there")]);
        let mut both = service();
        both.internal_policy = TrafficPolicy::Local;
        let counted = |model: &Model| no_local_endpoints(model, "here", true);
        let expected = NoLocalEndpoints {
            internal: 2,
            external: 2,
        };
        assert_eq!(counted(&model(both.clone(), [elsewhere()])), expected);
        assert_eq!(
            no_local_endpoints(&model(both.clone(), [elsewhere()]), "here", false),
            NoLocalEndpoints::default(),
            "no endpoint at all is another matter"
        );
        both.kind = ServiceKind::ClusterIp;
        let expected = NoLocalEndpoints {
            internal: 2,
            external: 0,
        };
        assert_eq!(counted(&model(both.clone(), [elsewhere()])), expected);
        let here = slice(&["a", "b"], vec![endpoint("10.0.0.2", "here")]);
        let served = counted(&model(both, [elsewhere(), here]));
        assert_eq!(served, NoLocalEndpoints::default());
    }
}
