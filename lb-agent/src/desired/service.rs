//! One Service: from the object and its slices to ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{
    Addr, Backend, BackendState, FrontendKey, Protocol, Vip, backend::sets, frontend::flags,
    protocol, vip,
};

use super::{
    FrontendSpec, Full, Ids, Members, NodeView, Port, PortName, Rejection, Scope,
    endpoints::{Candidate, Candidates, candidates, is_allowed, memberships},
    frontends::{Dialled, Refusal},
    index::Index,
    ranges::Filter,
};
use crate::{
    flat::FlatMap,
    model::{Cause, ObjectName, Service, ServiceKind, ServicePort, Slices},
};

/// A Service, and what its tables follow from.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) name: &'a ObjectName,
    pub(super) service: &'a Service,
    /// None is as good as an empty set.
    pub(super) slices: Option<&'a Slices>,
    pub(super) node: &'a NodeView,
    /// Who has which cluster address.
    pub(super) holders: &'a Index<IpAddr>,
}

/// What becomes of a Service.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) ports: BTreeMap<u32, Port>,
    /// Ports for whose backends there is no room.
    pub(super) kept: BTreeMap<u32, Arc<PortName>>,
    pub(super) vips: BTreeMap<Addr, Vip>,
    pub(super) rejections: BTreeSet<Rejection>,
}

/// A port before it is known what other Services want.
struct Outline<'a> {
    name: Arc<PortName>,
    found: Candidates<'a>,
    wanted: Vec<(FrontendKey, FrontendSpec)>,
    filter: Filter,
}

impl<'a> Subject<'a> {
    /// The frontends that the Service has if nobody is before it.
    pub(super) fn wants(&self) -> BTreeSet<FrontendKey> {
        let (outlines, _) = self.outlines();
        let wanted = outlines.iter().flat_map(|outline| &outline.wanted);
        wanted.map(|(key, _)| *key).collect()
    }

    /// The Service's ports. `wanted` tells who wants which frontend.
    pub(super) fn compile(&self, wanted: &Index<FrontendKey>, ids: &mut Ids) -> Output {
        let (outlines, refusals) = self.outlines();
        let mut output = Output::default();
        for refusal in refusals {
            output.rejections.insert(rejection(self.name, refusal));
        }
        if self.is_served() {
            for addr in &self.service.cluster_ips {
                self.note(&mut output, *addr, vip::flags::CLUSTER_IP);
            }
        }
        let mut taken = BTreeSet::new();
        for outline in outlines {
            self.port(outline, wanted, &mut taken, ids, &mut output);
        }
        output
    }

    fn is_served(&self) -> bool {
        self.service.kind != ServiceKind::ExternalName
    }

    fn outlines(&self) -> (Vec<Outline<'a>>, Vec<Refusal>) {
        let (mut outlines, mut refusals) = (Vec::new(), Vec::new());
        if !self.is_served() {
            return (outlines, refusals);
        }
        for cluster_ip in &self.service.cluster_ips {
            let others = |addr| self.holders.of(addr).find(|holder| *holder != self.name);
            let (dialled, refused) = Dialled::new(self.service, self.node, *cluster_ip, others);
            refusals.extend(refused);
            let mut names = BTreeSet::new();
            for port in &self.service.ports {
                // Kubernetes does not allow it, but manifests may say so.
                if !names.insert((&port.name, port.protocol)) {
                    let reason = format!("{}: another port has this name", port.name);
                    refusals.push(("spec.ports", Cause::InvalidObject, reason));
                    continue;
                }
                outlines.push(self.outline(port, cluster_ip.is_ipv4(), &dialled, &mut refusals));
            }
        }
        (outlines, refusals)
    }

    fn outline(
        &self,
        port: &ServicePort,
        is_v4: bool,
        dialled: &Dialled<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> Outline<'a> {
        let slices = self.slices.into_iter().flat_map(Slices::values);
        let slices = slices.map(AsRef::as_ref);
        let node = &self.node.name;
        let mut found = candidates(slices, &port.name, port.protocol, is_v4, node);
        drop_forbidden(&mut found, refusals);
        let mut wanted = dialled.wanted(port);
        drop_impossible(&mut wanted, &found, refusals);
        Outline {
            name: Arc::new(PortName {
                service: self.name.clone(),
                port: port.name.clone(),
                protocol: port.protocol,
                is_v4,
            }),
            found,
            wanted,
            filter: dialled.filter.clone(),
        }
    }

    fn port(
        &self,
        outline: Outline<'_>,
        wanted: &Index<FrontendKey>,
        taken: &mut BTreeSet<FrontendKey>,
        ids: &mut Ids,
        output: &mut Output,
    ) {
        let Outline {
            name,
            mut found,
            wanted: specs,
            filter,
        } = outline;
        for refusal in self.drop_loops(&mut found, name.protocol, wanted) {
            output.rejections.insert(rejection(self.name, refusal));
        }
        let mut frontends = BTreeMap::new();
        for (key, spec) in specs {
            let owner = wanted.first(key).unwrap_or(self.name);
            if owner == self.name && taken.insert(key) {
                frontends.insert(key, spec);
            } else if !frontends.contains_key(&key) {
                output
                    .rejections
                    .insert(rejection(self.name, is_taken(&key, owner)));
            }
        }
        if frontends.is_empty() {
            return;
        }
        if found.values().any(Candidate::is_usable) {
            for spec in frontends.values_mut() {
                spec.flags |= flags::HAS_ENDPOINTS;
            }
        }
        let frontends: FlatMap<_, _> = frontends.into_iter().collect();
        self.note_frontends(output, &frontends);
        let id = ids.port(&name, frontends.keys());
        let mut port = Port {
            name,
            backends: FlatMap::default(),
            cluster: Members::default(),
            local: Members::default(),
            source_ranges: filter.keys(id, frontends.iter()),
            frontends,
        };
        match self.fill(id, &mut port, &found, ids) {
            Ok(()) => {
                output.ports.insert(id, port);
            }
            Err(Full) => {
                let reason = "the map BACKENDS is full: raise --backends-max".to_owned();
                let refusal = ("", Cause::ServiceMapFull, reason);
                output.rejections.insert(rejection(self.name, refusal));
                output.kept.insert(id, port.name);
            }
        }
    }

    /// Leaves out endpoints that are Services themselves: packets for them would come back to be
    /// translated again, and so on (CVE-2021-25737). An external address may be a node's, too, where
    /// the endpoint listens: whoever names that node means it.
    fn drop_loops(
        &self,
        found: &mut Candidates<'_>,
        protocol: Protocol,
        wanted: &Index<FrontendKey>,
    ) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        found.retain(|(addr, number), candidate| {
            let key = || FrontendKey::new((*addr).into(), *number, protocol);
            let is_elsewhere = candidate.endpoint.node.is_none() && !self.node.has(*addr);
            let service = self.holders.first(*addr);
            let service = service.or_else(|| wanted.first(key()).filter(|_| is_elsewhere));
            if let Some(service) = service {
                let reason = format!("endpoint {addr}:{number}: an address of {service}");
                refusals.push(("", Cause::InvalidEndpointAddress, reason));
            }
            service.is_none()
        });
        refusals
    }

    /// Puts endpoints into a port's sets. A set that no client uses stays empty (item 15).
    fn fill(
        &self,
        id: u32,
        port: &mut Port,
        found: &Candidates<'_>,
        ids: &mut Ids,
    ) -> Result<(), Full> {
        let specs = port.frontends.values();
        let used: BTreeSet<Scope> = specs.flat_map(|spec| [spec.outside, spec.inside]).collect();
        let members = memberships(found, &used, self.node);
        let any_serves = found.values().any(|candidate| candidate.endpoint.serving);
        let mut backends = Vec::with_capacity(found.len());
        let (mut cluster, mut local) = (Vec::new(), Vec::new());
        for (key, candidate) in found {
            let (addr, number) = (Addr::from(key.0), key.1);
            let reference = ids.backend(id, addr, number)?;
            let member_of = members.get(key).copied().unwrap_or(0);
            if member_of & sets::CLUSTER != 0 {
                cluster.push(reference);
            }
            if member_of & sets::LOCAL != 0 {
                local.push(reference);
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
            backends.push((reference.index(), backend));
        }
        port.backends = backends.into_iter().collect();
        (port.cluster, port.local) = (cluster.into_iter().collect(), local.into_iter().collect());
        Ok(())
    }

    /// Notes the addresses that clients dial.
    fn note_frontends(&self, output: &mut Output, frontends: &FlatMap<FrontendKey, FrontendSpec>) {
        for (key, spec) in frontends.iter() {
            let has = |flag| spec.flags & flag != 0;
            if !has(flags::NODE_PORT) {
                let served = if self.node.answers_echo && has(flags::HAS_ENDPOINTS) {
                    vip::flags::SERVED
                } else {
                    0
                };
                self.note(output, key.addr.to_ip(), served);
            }
        }
    }

    fn note(&self, output: &mut Output, addr: IpAddr, flags: u32) {
        if !self.node.has(addr) {
            output.vips.entry(addr.into()).or_default().flags |= flags;
        }
    }
}

/// Leaves out endpoints that a Service must not reach.
fn drop_forbidden(found: &mut Candidates<'_>, refusals: &mut Vec<Refusal>) {
    found.retain(|(addr, _), _| {
        let allowed = is_allowed(*addr);
        if !allowed {
            let reason = format!("endpoint {addr}: an address that no Service may reach");
            refusals.push(("", Cause::InvalidEndpointAddress, reason));
        }
        allowed
    });
}

/// Leaves out what the programs cannot translate: an unknown protocol, and the port of SCTP,
/// whose checksum (CRC32c) covers the whole packet.
fn drop_impossible(
    wanted: &mut Vec<(FrontendKey, FrontendSpec)>,
    found: &Candidates<'_>,
    refusals: &mut Vec<Refusal>,
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
        let reason = format!("{}/{proto}: {reason}", key.port);
        refusals.push(("spec.ports", Cause::UnsupportedFeature, reason));
        false
    });
}

fn is_taken(key: &FrontendKey, owner: &ObjectName) -> Refusal {
    let (addr, number, proto) = (key.addr, key.port, protocol::name(key.protocol));
    let reason = format!("{addr}:{number}/{proto} is taken by {owner}");
    ("", Cause::ConflictingFrontend, reason)
}

fn rejection(service: &ObjectName, (field, cause, reason): Refusal) -> Rejection {
    Rejection {
        field: field.to_owned(),
        ..Rejection::of_service(service, cause, reason)
    }
}

#[cfg(test)]
mod tests;
