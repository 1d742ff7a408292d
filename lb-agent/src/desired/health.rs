//! What the model says about this node's own endpoints: for health checks, and to be counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::endpoints::{Candidates, candidates, is_allowed};
use crate::model::{Model, ObjectName, Service, ServiceKind, ServicePort, Slices, TrafficPolicy};

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

/// What this node's own endpoints are to the Services, kept in step with a model.
#[derive(Clone, Debug)]
pub struct LocalEndpoints {
    node_name: String,
    /// What was looked at last.
    model: Model,
    checked: BTreeMap<ObjectName, LocalReady>,
    /// Services that drop traffic here, by family: IPv4 first.
    unserved: [BTreeMap<ObjectName, NoLocalEndpoints>; 2],
}

impl LocalEndpoints {
    /// There are no Services yet.
    #[must_use]
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            model: Model::default(),
            checked: BTreeMap::new(),
            unserved: Default::default(),
        }
    }

    /// Looks at the Services that are not as they were.
    pub fn update(&mut self, model: &Model) {
        for name in self.model.changed_services(model) {
            let node = &self.node_name;
            let service = model.services.get(&name);
            let checked = service.and_then(|service| local_ready(model, &name, service, node));
            set(&mut self.checked, &name, checked);
            for (unserved, is_v4) in self.unserved.iter_mut().zip([true, false]) {
                let counts = service.map(|service| no_local(model, &name, service, node, is_v4));
                set(
                    unserved,
                    &name,
                    counts.filter(|counts| *counts != NoLocalEndpoints::default()),
                );
            }
        }
        self.model = model.clone();
    }

    /// The Services with a health check node port, and how many endpoints this node has for each.
    ///
    /// Counted are different addresses over all ports of the Service that are ready. One that
    /// terminates does not count, even where it is published as ready: the load balancer is to send
    /// nothing more here.
    #[must_use]
    pub fn checked(&self) -> &BTreeMap<ObjectName, LocalReady> {
        &self.checked
    }

    /// How many Service ports of a family have endpoints, and none of them on this node.
    #[must_use]
    pub fn unserved(&self, is_v4: bool) -> NoLocalEndpoints {
        let [v4, v6] = &self.unserved;
        let unserved = if is_v4 { v4 } else { v6 };
        let counts = unserved.values();
        counts.fold(NoLocalEndpoints::default(), |sum, counts| {
            NoLocalEndpoints {
                internal: sum.internal + counts.internal,
                external: sum.external + counts.external,
            }
        })
    }
}

fn set<V>(map: &mut BTreeMap<ObjectName, V>, name: &ObjectName, value: Option<V>) {
    match value {
        Some(value) => map.insert(name.clone(), value),
        None => map.remove(name),
    };
}

fn local_ready(
    model: &Model,
    name: &ObjectName,
    service: &Service,
    node: &str,
) -> Option<LocalReady> {
    let is_checked = service.kind == ServiceKind::LoadBalancer
        && service.external_policy == TrafficPolicy::Local
        && service.health_check_node_port != 0
        && !service.cluster_ips.is_empty();
    let family = |is_v4: bool| {
        let mut ips = service.cluster_ips.iter();
        ips.any(|ip| ip.is_ipv4() == is_v4)
            .then(|| ready(model, name, service, is_v4, node).len())
    };
    is_checked.then(|| LocalReady {
        port: service.health_check_node_port,
        ipv4: family(true),
        ipv6: family(false),
    })
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

fn no_local(
    model: &Model,
    name: &ObjectName,
    service: &Service,
    node: &str,
    is_v4: bool,
) -> NoLocalEndpoints {
    let mut counts = NoLocalEndpoints::default();
    let internal = service.internal_policy == TrafficPolicy::Local;
    let external = service.external_policy == TrafficPolicy::Local && is_external(service);
    let has_family = service.cluster_ips.iter().any(|ip| ip.is_ipv4() == is_v4);
    if !(internal || external) || !has_family || service.kind == ServiceKind::ExternalName {
        return counts;
    }
    for port in &service.ports {
        let found = found(model, name, port, is_v4, node);
        let is_served = |local: bool| found.values().any(|c| c.local >= local && c.is_usable());
        if is_served(false) && !is_served(true) {
            counts.internal += usize::from(internal);
            counts.external += usize::from(external);
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
    let slices = model.slices.get(name).into_iter().flat_map(Slices::values);
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
        ObjectName::new("default", "etl")
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
            for_zones: Default::default(),
            for_nodes: Default::default(),
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
            services: [(name(), Arc::new(service))].into_iter().collect(),
            slices: [(name(), names.zip(slices).collect::<Slices>())]
                .into_iter()
                .collect(),
            ..Model::default()
        }
    }

    fn looked_at(model: &Model) -> LocalEndpoints {
        let mut local = LocalEndpoints::new("here");
        local.update(model);
        local
    }

    #[track_caller]
    fn check(slices: impl IntoIterator<Item = Arc<Slice>>, v4: usize, v6: usize) {
        let found = looked_at(&model(service(), slices)).checked().clone();
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
            let found = looked_at(&model(service, [])).checked().clone();
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
        let counted = |model: &Model| looked_at(model).unserved(true);
        let expected = NoLocalEndpoints {
            internal: 2,
            external: 2,
        };
        assert_eq!(counted(&model(both.clone(), [elsewhere()])), expected);
        assert_eq!(
            looked_at(&model(both.clone(), [elsewhere()])).unserved(false),
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

    #[test]
    fn s69_what_is_no_more_is_not_counted() {
        let mut internal = service();
        internal.internal_policy = TrafficPolicy::Local;
        let elsewhere = slice(&["a", "b"], vec![endpoint("10.0.0.1", "there")]);
        let here = slice(&["a", "b"], vec![endpoint("10.0.0.1", "here")]);
        let mut local = looked_at(&model(internal.clone(), [elsewhere.clone()]));
        assert_eq!(local.unserved(true).internal, 2);
        local.update(&model(internal.clone(), [here]));
        assert_eq!(local.unserved(true), NoLocalEndpoints::default());
        assert_eq!(local.checked()[&name()].ipv4, Some(1));
        local.update(&model(internal, [elsewhere]));
        assert_eq!(local.unserved(true).internal, 2);
        local.update(&Model::default());
        assert_eq!(local.unserved(true), NoLocalEndpoints::default());
        assert_eq!(local.checked(), &BTreeMap::new());
    }
}
