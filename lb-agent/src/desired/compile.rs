//! From the model to tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use lb_common::{
    Addr, Backend, BackendState, FrontendKey, Vip, backend::sets, frontend::flags, protocol, vip,
};

use super::{
    FrontendSpec, Full, Ids, Members, NodeView, Port, PortName, Rejection, Scope, Tables,
    endpoints::{Candidate, Candidates, candidates, is_allowed, memberships},
    frontends::Dialled,
    nets::service_nets,
};
use crate::model::{Cause, Model, ObjectName, Service, ServiceKind, ServicePort, Slice};

/// The tables that serve `model` on this node, and what cannot be served.
///
/// Pure but for `ids`, which remembers the numbers that it has given out.
pub fn compile(model: &Model, node: &NodeView, ids: &mut Ids) -> (Tables, Vec<Rejection>) {
    let (service_nets, too_many_nets) = service_nets(&model.service_cidrs);
    let mut compiler = Compiler {
        node,
        ids,
        taken: HashMap::new(),
        cluster_ips: cluster_ips(model),
        tables: Tables {
            interfaces: node.interfaces.clone(),
            service_nets,
            ..Tables::default()
        },
        rejections: too_many_nets.into_iter().collect(),
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

/// Cluster addresses by the Service that has them.
fn cluster_ips(model: &Model) -> HashMap<IpAddr, &ObjectName> {
    let served = model
        .services
        .iter()
        .filter(|(_, service)| service.kind != ServiceKind::ExternalName);
    let addrs =
        served.flat_map(|(name, service)| service.cluster_ips.iter().map(move |ip| (*ip, name)));
    addrs.collect()
}

struct Compiler<'a> {
    node: &'a NodeView,
    ids: &'a mut Ids,
    /// Frontends by the Service that has them: the first in the order of names.
    taken: HashMap<FrontendKey, ObjectName>,
    /// Cluster addresses by the Service that has them.
    cluster_ips: HashMap<IpAddr, &'a ObjectName>,
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
            self.vip(*cluster_ip, vip::flags::CLUSTER_IP);
            let holder = |addr| {
                let holder = self.cluster_ips.get(&addr).copied();
                holder.filter(|holder| *holder != name)
            };
            let (dialled, refusals) = Dialled::new(service, self.node, *cluster_ip, holder);
            for (field, reason) in refusals {
                self.reject(name, field, Cause::ForbiddenAddress, reason);
            }
            for port in &service.ports {
                let port_name = PortName {
                    service: name.clone(),
                    port: port.name.clone(),
                    protocol: port.protocol,
                    is_v4: cluster_ip.is_ipv4(),
                };
                self.port(port_name, port, slices.clone(), &dialled);
            }
        }
    }

    fn port<'s>(
        &mut self,
        name: PortName,
        port: &ServicePort,
        slices: impl Iterator<Item = &'s Slice>,
        dialled: &Dialled<'_>,
    ) {
        let service = &name.service;
        let node = &self.node.name;
        let mut found = candidates(slices, &port.name, port.protocol, name.is_v4, node);
        self.drop_forbidden(service, &mut found);
        let mut wanted = dialled.wanted(port);
        self.drop_impossible(service, &mut wanted, &found);
        let mut frontends = self.take(service, wanted);
        if frontends.is_empty() {
            return;
        }
        if found.values().any(Candidate::is_usable) {
            for spec in frontends.values_mut() {
                spec.flags |= flags::HAS_ENDPOINTS;
            }
        }
        self.vips(&frontends);
        let id = self.ids.port(&name, frontends.keys());

        let mut entry = Port {
            backends: BTreeMap::new(),
            cluster: Members::new(),
            local: Members::new(),
            source_ranges: dialled.filter.keys(id, &frontends),
            frontends,
            name,
        };
        match self.fill(id, &mut entry, &found) {
            Ok(()) => {
                self.tables.ports.insert(id, entry);
            }
            Err(Full) => {
                let reason = "the map BACKENDS is full: raise --backends-max".to_owned();
                self.reject(&entry.name.service, "", Cause::ServiceMapFull, reason);
                self.tables.kept.insert(id);
            }
        }
    }

    /// Leaves out what the programs cannot translate: an unknown protocol, and the port of SCTP,
    /// whose checksum (CRC32c) covers the whole packet.
    fn drop_impossible(
        &mut self,
        service: &ObjectName,
        wanted: &mut Vec<(FrontendKey, FrontendSpec)>,
        found: &Candidates<'_>,
    ) {
        let usable = found.iter().filter(|(_, candidate)| candidate.is_usable());
        let ports: BTreeSet<u16> = usable.map(|((_, port), _)| *port).collect();
        wanted.retain(|(key, _)| {
            let proto = protocol::name(key.protocol);
            let reason = match key.protocol {
                protocol::TCP | protocol::UDP => return true,
                protocol::SCTP => {
                    let Some(other) = ports.iter().find(|port| **port != key.port) else {
                        return true;
                    };
                    format!("endpoints serve port {other}, and {proto} needs the same everywhere")
                }
                _ => "the protocol is not served".to_owned(),
            };
            let number = key.port;
            let reason = format!("{number}/{proto}: {reason}");
            self.reject(service, "spec.ports", Cause::UnsupportedFeature, reason);
            false
        });
    }

    /// Puts endpoints into a port's sets. A set that no client uses stays empty (item 15).
    fn fill(&mut self, id: u32, port: &mut Port, found: &Candidates<'_>) -> Result<(), Full> {
        let specs = port.frontends.values();
        let used: BTreeSet<Scope> = specs.flat_map(|spec| [spec.outside, spec.inside]).collect();
        let members = memberships(found, &used, self.node);
        let any_serves = found.values().any(|candidate| candidate.endpoint.serving);
        for (key, candidate) in found {
            let (addr, number) = (Addr::from(key.0), key.1);
            let reference = self.ids.backend(id, addr, number)?;
            let member_of = members.get(key).copied().unwrap_or(0);
            if member_of & sets::CLUSTER != 0 {
                port.cluster.insert(reference);
            }
            if member_of & sets::LOCAL != 0 {
                port.local.insert(reference);
            }
            // A flow of UDP leaves an endpoint that does not serve, if another one does (item 59).
            let serves = candidate.endpoint.serving || !any_serves;
            let leaves = port.name.protocol == protocol::UDP && !serves;
            let state = match (member_of, leaves) {
                (0, true) => BackendState::Gone,
                (0, false) => BackendState::Terminating,
                _ => BackendState::Active,
            };
            let backend = Backend {
                addr,
                service: id,
                port: number,
                generation: reference.generation(),
                state: state as u8,
                // Policies go by the endpoint's node name alone (item 9); this is about the way of
                // packets.
                local: (candidate.local || self.node.is_on_this_node(key.0)).into(),
                protocol: port.name.protocol,
                sets: member_of,
                pad: 0,
            };
            port.backends.insert(reference.index(), backend);
        }
        Ok(())
    }

    fn drop_forbidden(&mut self, service: &ObjectName, found: &mut Candidates<'_>) {
        found.retain(|(addr, _), _| {
            let allowed = is_allowed(*addr);
            if !allowed {
                let reason = format!("endpoint {addr}: an address that no Service may reach");
                self.reject(service, "", Cause::InvalidEndpointAddress, reason);
            }
            allowed
        });
    }

    /// Those of the frontends that no other Service port has.
    fn take(
        &mut self,
        name: &ObjectName,
        wanted: Vec<(FrontendKey, FrontendSpec)>,
    ) -> BTreeMap<FrontendKey, FrontendSpec> {
        let mut frontends = BTreeMap::new();
        for (key, spec) in wanted {
            match self.taken.get(&key) {
                Some(owner) if !frontends.contains_key(&key) => {
                    let (addr, number) = (key.addr, key.port);
                    let proto = protocol::name(key.protocol);
                    let reason = format!("{addr}:{number}/{proto} is taken by {owner}");
                    self.reject(name, "", Cause::ConflictingFrontend, reason);
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

    /// Notes the addresses that clients dial.
    fn vips(&mut self, frontends: &BTreeMap<FrontendKey, FrontendSpec>) {
        for (key, spec) in frontends {
            let has = |flag| spec.flags & flag != 0;
            if !has(flags::NODE_PORT) {
                let served = if has(flags::HAS_ENDPOINTS) {
                    vip::flags::SERVED
                } else {
                    0
                };
                self.vip(key.addr.to_ip(), served);
            }
        }
    }

    fn vip(&mut self, addr: IpAddr, flags: u32) {
        if !self.node.has(addr) {
            let vip: &mut Vip = self.tables.vips.entry(addr.into()).or_default();
            vip.flags |= flags;
        }
    }

    fn reject(&mut self, service: &ObjectName, field: &str, cause: Cause, reason: String) {
        self.rejections.insert(Rejection {
            field: field.to_owned(),
            ..Rejection::of_service(service, cause, reason)
        });
    }
}

#[cfg(test)]
mod tests;
