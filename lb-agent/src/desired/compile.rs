//! From the model to tables, Service by Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{Addr, FrontendKey, Vip, vip};

use super::{
    Ids, NodeView, PortName, Rejection, Tables,
    index::{Index, Notes},
    nets::service_nets,
    service::{Output, Subject},
};
use crate::model::{Model, ObjectName, Service, ServiceKind};

/// The tables that serve a model on this node, kept in step with it.
///
/// A Service is compiled again if it or its slices have changed, or what other Services have that
/// it wants, too. The tables are those of a compilation of everything, whatever the history: of
/// several Services that want a frontend the first by name has it.
#[derive(Debug)]
pub struct Compiler {
    ids: Ids,
    node: NodeView,
    /// What was compiled last.
    model: Model,
    services: BTreeMap<ObjectName, Entry>,
    /// Who has which cluster address.
    holders: Index<IpAddr>,
    /// Who names which address as one of its own from outside.
    claimants: Index<IpAddr>,
    /// Who wants which frontend.
    wanted: Index<FrontendKey>,
    /// What Services say of their addresses.
    noted: Notes,
    /// Services for whose backends there was no room: tried again each time.
    crowded: BTreeSet<ObjectName>,
    tables: Tables,
    rejections: BTreeSet<Rejection>,
    /// Why the Services' networks cannot be told.
    nets_rejection: Option<Rejection>,
    /// Whether nothing has been compiled yet.
    first: bool,
}

/// What may have changed in the tables. Devices and networks always may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Service ports that are new, different, or gone.
    pub ports: BTreeSet<u32>,
    /// Addresses that are.
    pub vips: BTreeSet<Addr>,
}

/// What became of a Service when it was compiled last.
#[derive(Debug, Default)]
struct Entry {
    /// The frontends that it has if nobody is before it, in order.
    wants: Box<[FrontendKey]>,
    ports: Box<[(u32, Arc<PortName>)]>,
    vips: Box<[Addr]>,
    rejections: BTreeSet<Rejection>,
}

/// Numbers that are given back once everybody has got theirs.
#[derive(Debug, Default)]
struct Turnover {
    settled: Vec<u32>,
    released: Vec<(u32, Arc<PortName>)>,
}

impl Compiler {
    /// Nothing is compiled yet; `ids` knows the numbers that are in use.
    #[must_use]
    pub fn new(ids: Ids) -> Self {
        Self {
            ids,
            node: NodeView::default(),
            model: Model::default(),
            services: BTreeMap::new(),
            holders: Index::default(),
            claimants: Index::default(),
            wanted: Index::default(),
            noted: Notes::default(),
            crowded: BTreeSet::new(),
            tables: Tables::default(),
            rejections: BTreeSet::new(),
            nets_rejection: None,
            first: true,
        }
    }

    /// What the maps ought to hold.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What cannot be served.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.rejections.iter().chain(&self.nets_rejection)
    }

    /// Brings the tables in step with `model` on `node`.
    pub fn update(&mut self, model: &Model, node: &NodeView) -> Changes {
        let (mut changes, mut turnover) = (Changes::default(), Turnover::default());
        let before = std::mem::replace(&mut self.model, model.clone());
        let mut dirty = std::mem::take(&mut self.crowded);
        dirty.extend(self.differences(&before));
        if self.tables.interfaces != node.interfaces {
            self.tables.interfaces.clone_from(&node.interfaces);
        }
        let is_succeeded = self.node.has_predecessor != node.has_predecessor;
        self.node.has_predecessor = node.has_predecessor;
        if self.first || self.is_moved(node) {
            let before = std::mem::replace(&mut self.node, node.clone());
            // The devices are in the tables.
            self.node.interfaces.clear();
            dirty.extend(self.services.keys().cloned());
            let addrs = &before.node_port_addresses ^ &node.node_port_addresses;
            for addr in addrs {
                self.settle_vip(addr.into(), &mut changes);
            }
        }
        if self.first || is_succeeded || before.service_cidrs != model.service_cidrs {
            (self.tables.service_nets, self.nets_rejection) = service_nets(&model.service_cidrs);
            if node.has_predecessor {
                self.tables.service_nets = self.tables.service_nets.with_predecessors();
            }
        }
        let mut disputed = self.spread_by_address(&before, &mut dirty);
        disputed.extend(self.spread_by_frontend(&mut dirty));
        self.spread_by_endpoint(&disputed, &mut dirty);

        for name in dirty {
            let Some(mut entry) = self.services.remove(&name) else {
                continue;
            };
            let subject = subject(&name, &self.model, &self.node, &self.holders);
            let lives = subject.is_some();
            let output = match subject {
                Some(subject) => subject.compile(&self.wanted, &mut self.ids),
                None => Output::default(),
            };
            self.place(&name, &mut entry, output, &mut changes, &mut turnover);
            if lives {
                self.services.insert(name, entry);
            }
        }
        self.turn_over(turnover);
        changes
    }

    /// Whether the node is another one to its Services. Its devices, which come and go with every pod,
    /// are nothing to them.
    fn is_moved(&self, node: &NodeView) -> bool {
        let NodeView {
            name,
            zone,
            own_addresses,
            local_addresses,
            node_port_addresses,
            pod_networks,
            localhost_node_ports,
            answers_echo,
            source_ranges_everywhere,
            external_ips,
            interfaces: _,
            has_predecessor: _,
        } = node;
        let known = &self.node;
        let addresses = (own_addresses, local_addresses, node_port_addresses);
        let known_addresses = (
            &known.own_addresses,
            &known.local_addresses,
            &known.node_port_addresses,
        );
        (name, zone, pod_networks) != (&known.name, &known.zone, &known.pod_networks)
            || addresses != known_addresses
            || *localhost_node_ports != known.localhost_node_ports
            || *answers_echo != known.answers_echo
            || *source_ranges_everywhere != known.source_ranges_everywhere
            || *external_ips != known.external_ips
    }

    /// Services whose objects are not those that were compiled; those that are new have a place
    /// then.
    fn differences(&mut self, before: &Model) -> BTreeSet<ObjectName> {
        let mut changed = before.changed_services(&self.model);
        for name in &changed {
            if self.model.services.contains_key(name) {
                self.services.entry(name.clone()).or_default();
            }
        }
        // Slices of no Service are nobody's.
        changed.retain(|name| self.services.contains_key(name));
        changed
    }

    /// Adds the Services whose external addresses others have as cluster addresses, or had. Returns
    /// these cluster addresses.
    fn spread_by_address(
        &mut self,
        before: &Model,
        dirty: &mut BTreeSet<ObjectName>,
    ) -> BTreeSet<IpAddr> {
        let mut addrs = Vec::new();
        for name in dirty.iter() {
            let (old_cluster, old_external) = addresses(before.services.get(name));
            let (cluster, external) = addresses(self.model.services.get(name));
            addrs.extend(self.holders.replace(name, &old_cluster, &cluster));
            self.claimants.replace(name, &old_external, &external);
        }
        for addr in &addrs {
            dirty.extend(self.claimants.of(*addr).cloned());
        }
        addrs.into_iter().collect()
    }

    /// Adds the Services that want a frontend that a Service newly wants, or no longer. Returns these
    /// frontends' addresses.
    fn spread_by_frontend(&mut self, dirty: &mut BTreeSet<ObjectName>) -> BTreeSet<IpAddr> {
        let mut keys = Vec::new();
        for name in dirty.iter() {
            let Some(entry) = self.services.get_mut(name) else {
                continue;
            };
            let subject = subject(name, &self.model, &self.node, &self.holders);
            let wants = subject.map(|subject| subject.wants()).unwrap_or_default();
            let wants: Box<[_]> = wants.into_iter().collect();
            keys.extend(self.wanted.replace(name, &entry.wants, &wants));
            entry.wants = wants;
        }
        for key in &keys {
            dirty.extend(self.wanted.of(*key).cloned());
        }
        let addrs = keys.into_iter().map(|key| key.addr.to_ip());
        addrs.filter(|addr| !self.node.has(*addr)).collect()
    }

    /// Adds the Services that have endpoints at `addrs`. A search through all of them: who may write
    /// a slice may name any address, and an index would be as large as the model.
    fn spread_by_endpoint(&self, addrs: &BTreeSet<IpAddr>, dirty: &mut BTreeSet<ObjectName>) {
        if addrs.is_empty() || self.first {
            return;
        }
        for (name, slices) in &self.model.slices {
            let mut endpoints = slices.values().flat_map(|slice| &slice.endpoints);
            if !dirty.contains(name) && endpoints.any(|endpoint| addrs.contains(&endpoint.addr)) {
                dirty.insert(name.clone());
            }
        }
    }

    /// Puts what has become of a Service in the place of what was.
    fn place(
        &mut self,
        name: &ObjectName,
        entry: &mut Entry,
        output: Output,
        changes: &mut Changes,
        turnover: &mut Turnover,
    ) {
        let Output {
            ports,
            kept,
            vips,
            rejections,
        } = output;
        for rejection in &entry.rejections {
            self.rejections.remove(rejection);
        }
        self.rejections.extend(rejections.iter().cloned());
        entry.rejections = rejections;
        self.place_vips(name, entry, &vips, changes);

        let mut before: BTreeMap<_, _> = std::mem::take(&mut entry.ports).into_iter().collect();
        let mut now = Vec::with_capacity(kept.len() + ports.len());
        for (id, port_name) in kept {
            before.remove(&id);
            self.crowded.insert(name.clone());
            self.tables.ports.remove(&id);
            self.tables.kept.insert(id);
            now.push((id, port_name));
        }
        for (id, port) in ports {
            before.remove(&id);
            now.push((id, port.name.clone()));
            self.tables.kept.remove(&id);
            if self.tables.ports.get(&id) != Some(&port) {
                self.tables.ports.insert(id, port);
                changes.ports.insert(id);
            }
            turnover.settled.push(id);
        }
        entry.ports = now.into();
        for (id, port_name) in before {
            self.tables.kept.remove(&id);
            self.tables.ports.remove(&id);
            changes.ports.insert(id);
            turnover.released.push((id, port_name));
        }
    }

    fn place_vips(
        &mut self,
        name: &ObjectName,
        entry: &mut Entry,
        vips: &BTreeMap<Addr, Vip>,
        changes: &mut Changes,
    ) {
        let before = std::mem::take(&mut entry.vips);
        let gone = before.iter().filter(|addr| !vips.contains_key(addr));
        for addr in gone.chain(vips.keys()) {
            self.noted.note(*addr, name, vips.get(addr).copied());
            self.settle_vip(*addr, changes);
        }
        entry.vips = vips.keys().copied().collect();
    }

    /// Puts into the table what Services say of an address, and that it is the node's own.
    fn settle_vip(&mut self, addr: Addr, changes: &mut Changes) {
        let noted = self.noted.of(addr);
        let is_own = self.node.node_port_addresses.contains(&addr.to_ip());
        let own = is_own.then_some(vip::flags::NODE);
        let flags = noted.map(|vip| vip.flags).chain(own).reduce(|a, b| a | b);
        let vip = flags.map(|flags| Vip { flags });
        let before = match vip {
            Some(vip) => self.tables.vips.insert(addr, vip),
            None => self.tables.vips.remove(&addr),
        };
        if before != vip {
            changes.vips.insert(addr);
        }
    }

    /// Gives back the numbers that nobody uses any more. Not before everybody has got his: what is
    /// in the tables that are programmed must not be somebody else's in those that will be.
    fn turn_over(&mut self, turnover: Turnover) {
        for id in turnover.settled {
            let port = self.tables.ports.get(&id);
            let is_used = |index| port.is_some_and(|port| port.backends.contains_key(&index));
            self.ids.settle(id, is_used);
        }
        for (id, name) in turnover.released {
            self.ids.release(id, &name);
        }
        if std::mem::take(&mut self.first) {
            let Tables { ports, kept, .. } = &self.tables;
            self.ids
                .forget_unclaimed(|id| ports.contains_key(&id) || kept.contains(&id));
        }
    }
}

fn subject<'a>(
    name: &'a ObjectName,
    model: &'a Model,
    node: &'a NodeView,
    holders: &'a Index<IpAddr>,
) -> Option<Subject<'a>> {
    Some(Subject {
        name,
        service: model.services.get(name)?,
        slices: model.slices.get(name),
        node,
        holders,
    })
}

/// Cluster addresses, and those from outside.
fn addresses(service: Option<&Arc<Service>>) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let Some(service) = service.filter(|service| service.kind != ServiceKind::ExternalName) else {
        return Default::default();
    };
    let external = service.external_ips.iter();
    let external = external.chain(&service.load_balancer_ips);
    (service.cluster_ips.clone(), external.copied().collect())
}

#[cfg(test)]
mod tests;
