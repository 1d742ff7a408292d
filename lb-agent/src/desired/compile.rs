//! From the model to tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{Addr, Backend, BackendState, FrontendKey, frontend::flags, protocol};

use super::{
    FrontendSpec, Full, Ids, Members, NodeView, Port, PortName, Rejection, Scope, Tables,
    endpoints::{Candidates, candidates, cluster_set, is_allowed, local_set},
};
use crate::model::{
    Cause, Model, ObjectName, Service, ServiceKind, ServicePort, Slice, TrafficPolicy,
};

/// The tables that serve `model` on this node, and what cannot be served.
///
/// Pure but for `ids`, which remembers the numbers that it has given out.
pub fn compile(model: &Model, node: &NodeView, ids: &mut Ids) -> (Tables, Vec<Rejection>) {
    let mut compiler = Compiler {
        node,
        ids,
        taken: HashMap::new(),
        tables: Tables {
            ports: BTreeMap::new(),
            kept: BTreeSet::new(),
            interfaces: node.interfaces.clone(),
        },
        rejections: BTreeSet::new(),
    };
    let none = BTreeMap::new();
    for (name, service) in &model.services {
        let slices = model.slices.get(name).unwrap_or(&none);
        compiler.service(name, service, slices.values().map(AsRef::as_ref));
    }
    let Compiler {
        ids,
        tables,
        rejections,
        ..
    } = compiler;
    ids.retain(
        |id| tables.ports.contains_key(&id) || tables.kept.contains(&id),
        |id| tables.kept.contains(&id),
        tables
            .ports
            .values()
            .flat_map(|port| port.backends.iter().map(|(index, b)| (*index, b))),
    );
    (tables, rejections.into_iter().collect())
}

struct Compiler<'a> {
    node: &'a NodeView,
    ids: &'a mut Ids,
    /// Frontends by the Service that has them: the first in the order of names.
    taken: HashMap<FrontendKey, ObjectName>,
    tables: Tables,
    rejections: BTreeSet<Rejection>,
}

impl Compiler<'_> {
    fn service<'s>(
        &mut self,
        name: &ObjectName,
        service: &Service,
        slices: impl Iterator<Item = &'s Slice> + Clone,
    ) {
        if service.kind == ServiceKind::ExternalName {
            return;
        }
        for cluster_ip in &service.cluster_ips {
            for port in &service.ports {
                if !matches!(port.protocol, protocol::TCP | protocol::UDP) {
                    let proto = protocol::name(port.protocol);
                    let reason = format!("port {}: {proto} is not served yet", port.port);
                    self.reject(name, Cause::UnsupportedFeature, reason);
                    continue;
                }
                self.port(name, service, *cluster_ip, port, slices.clone());
            }
        }
    }

    fn port<'s>(
        &mut self,
        service_name: &ObjectName,
        service: &Service,
        cluster_ip: IpAddr,
        port: &ServicePort,
        slices: impl Iterator<Item = &'s Slice>,
    ) {
        let is_v4 = cluster_ip.is_ipv4();
        let name = PortName {
            service: service_name.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
            is_v4,
        };
        let frontends = self.frontends(service_name, service, cluster_ip, port);
        if frontends.is_empty() {
            return;
        }
        let mut found = candidates(slices, &port.name, port.protocol, is_v4, &self.node.name);
        self.drop_forbidden(service_name, &mut found);
        let id = self.ids.port(&name, frontends.keys());

        let mut entry = Port {
            name,
            backends: BTreeMap::new(),
            cluster: Members::new(),
            local: Members::new(),
            frontends,
        };
        match self.fill(id, &mut entry, &found) {
            Ok(()) => {
                self.tables.ports.insert(id, entry);
            }
            Err(Full) => {
                let reason = "the map BACKENDS is full: raise --backends-max".to_owned();
                self.reject(service_name, Cause::ServiceMapFull, reason);
                self.tables.kept.insert(id);
            }
        }
    }

    /// Puts endpoints into a port's sets.
    fn fill(&mut self, id: u32, port: &mut Port, found: &Candidates) -> Result<(), Full> {
        let (cluster, local) = (cluster_set(found), local_set(found));
        let specs = port.frontends.values();
        let scopes: BTreeSet<Scope> = specs.flat_map(|spec| [spec.outside, spec.inside]).collect();
        for (key, candidate) in found {
            let (addr, number) = (Addr::from(key.0), key.1);
            let reference = self.ids.backend(id, addr, number)?;
            // A set that no client uses gives nobody new connections.
            let active = scopes.contains(&Scope::Cluster) && cluster.contains(key)
                || scopes.contains(&Scope::Local) && local.contains(key);
            let state = if active {
                BackendState::Active
            } else {
                BackendState::Terminating
            };
            if cluster.contains(key) {
                port.cluster.insert(reference);
            }
            if local.contains(key) {
                port.local.insert(reference);
            }
            let backend = Backend {
                addr,
                service: id,
                port: number,
                generation: reference.generation(),
                state: state as u8,
                local: (candidate.local || self.is_on_this_node(key.0)).into(),
                protocol: port.name.protocol,
                pad: [0; 2],
            };
            port.backends.insert(reference.index(), backend);
        }
        Ok(())
    }

    /// Whether an address is in a network of this node's own. Policies go by the endpoint's node
    /// name alone (item 9); this is about the way of packets.
    fn is_on_this_node(&self, addr: IpAddr) -> bool {
        self.node.pod_networks.iter().any(|net| net.contains(&addr))
    }

    fn drop_forbidden(&mut self, service: &ObjectName, found: &mut Candidates) {
        found.retain(|(addr, _), _| {
            let allowed = is_allowed(*addr);
            if !allowed {
                let reason = format!("endpoint {addr}: an address that no Service may reach");
                self.reject(service, Cause::InvalidEndpointAddress, reason);
            }
            allowed
        });
    }

    /// What clients of a Service port dial in the family of `cluster_ip` (SEMANTICS C, D).
    fn frontends(
        &mut self,
        name: &ObjectName,
        service: &Service,
        cluster_ip: IpAddr,
        port: &ServicePort,
    ) -> BTreeMap<FrontendKey, FrontendSpec> {
        let spec = |outside, inside, flags| FrontendSpec {
            outside,
            inside,
            affinity_timeout_s: service.affinity_timeout_s.unwrap_or(0),
            flags,
        };
        let internal = scope(service.internal_policy);
        let external = scope(service.external_policy);
        let same_family = |addr: &&IpAddr| addr.is_ipv4() == cluster_ip.is_ipv4();

        let mut wanted = vec![(cluster_ip, port.port, spec(internal, internal, 0))];
        // Inside the node the external policy does not bind (item 32).
        let outer = spec(external, Scope::Cluster, 0);
        let vips = service
            .external_ips
            .iter()
            .chain(&service.load_balancer_ips);
        wanted.extend(vips.filter(same_family).map(|vip| (*vip, port.port, outer)));
        if port.node_port != 0 {
            let node_port = spec(external, Scope::Cluster, flags::NODE_PORT);
            let localhost = if cluster_ip.is_ipv4() {
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            } else {
                IpAddr::V6(Ipv6Addr::LOCALHOST)
            };
            let addresses = self.node.node_port_addresses.iter().filter(same_family);
            let localhost = self.node.localhost_node_ports.then_some(&localhost);
            wanted.extend(
                addresses
                    .chain(localhost)
                    .map(|addr| (*addr, port.node_port, node_port)),
            );
        }
        let mut frontends = BTreeMap::new();
        for (addr, number, spec) in wanted {
            let key = FrontendKey::new(addr.into(), number, port.protocol);
            match self.taken.get(&key) {
                Some(owner) if !frontends.contains_key(&key) => {
                    let proto = protocol::name(port.protocol);
                    let reason = format!("{addr}:{number}/{proto} is taken by {owner}");
                    self.reject(name, Cause::ConflictingFrontend, reason);
                }
                Some(_) => {}
                None => {
                    self.taken.insert(key, name.clone());
                    frontends.insert(key, spec);
                }
            }
        }
        frontends
    }

    fn reject(&mut self, service: &ObjectName, cause: Cause, reason: String) {
        let rejection = Rejection::of_service(service, cause, reason);
        self.rejections.insert(rejection);
    }
}

fn scope(policy: TrafficPolicy) -> Scope {
    match policy {
        TrafficPolicy::Cluster => Scope::Cluster,
        TrafficPolicy::Local => Scope::Local,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Algorithm, Endpoint, SlicePort};

    const NODE: &str = "node1";

    fn endpoint(last: u8, node: &str, terminating: bool) -> Endpoint {
        Endpoint {
            addr: [10, 244, 0, last].into(),
            ready: !terminating,
            serving: true,
            terminating,
            node: Some(node.into()),
            for_zones: Default::default(),
            for_nodes: Default::default(),
        }
    }

    /// The states of two endpoints: one of this node, which is terminating, and another.
    fn states(external_policy: TrafficPolicy) -> Vec<u8> {
        let name = ObjectName {
            namespace: "default".into(),
            name: "web".into(),
        };
        let service = Service {
            kind: ServiceKind::NodePort,
            cluster_ips: vec![[10, 96, 0, 1].into()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: vec![ServicePort {
                name: String::new(),
                protocol: protocol::TCP,
                port: 80,
                node_port: 30080,
            }],
            internal_policy: TrafficPolicy::Cluster,
            external_policy,
            affinity_timeout_s: None,
            source_ranges: Vec::new(),
            health_check_node_port: 0,
            algorithm: Algorithm::Maglev,
        };
        let slice = Slice {
            ports: vec![SlicePort {
                name: String::new(),
                protocol: protocol::TCP,
                port: 8000,
            }],
            endpoints: vec![endpoint(1, NODE, true), endpoint(2, "node2", false)],
            triggered: None,
        };
        let slices = BTreeMap::from([("web-1".to_owned(), Arc::new(slice))]);
        let model = Model {
            services: BTreeMap::from([(name.clone(), Arc::new(service))]),
            slices: BTreeMap::from([(name, slices)]),
            ..Model::default()
        };
        let node = NodeView {
            name: NODE.into(),
            node_port_addresses: BTreeSet::from([[192, 0, 2, 1].into()]),
            ..NodeView::default()
        };
        let (tables, rejections) = compile(&model, &node, &mut Ids::new(16));
        assert!(rejections.is_empty(), "{rejections:?}");
        let backends = tables
            .ports
            .values()
            .flat_map(|port| port.backends.values());
        let mut states: Vec<_> = backends
            .map(|backend| (backend.addr, backend.state))
            .collect();
        states.sort_unstable();
        states.into_iter().map(|(_, state)| state).collect()
    }

    #[test]
    fn the_last_local_endpoint_stays_active_for_local_clients_only() {
        let (active, terminating) = (BackendState::Active as u8, BackendState::Terminating as u8);
        assert_eq!(states(TrafficPolicy::Local), [active, active]);
        assert_eq!(states(TrafficPolicy::Cluster), [terminating, active]);
    }
}
