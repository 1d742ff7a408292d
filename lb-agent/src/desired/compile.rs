//! From the model to tables, Service by Service.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::{Addr, FrontendKey, Vip};

use super::{
    Ids, NodeView, PortName, Rejection, Tables,
    index::Index,
    nets::service_nets,
    service::{Output, Subject},
};
use crate::model::{Model, ObjectName, Service, ServiceKind, Slice};

/// The tables that serve a model on this node, kept in step with it.
///
/// A Service is compiled again if it or its slices have changed, or what other Services have that
/// it wants, too. The tables are those of a compilation of everything, whatever the history: of
/// several Services that want a frontend the first by name has it.
#[derive(Debug)]
pub struct Compiler {
    ids: Ids,
    node: NodeView,
    service_cidrs: BTreeSet<IpNet>,
    services: BTreeMap<ObjectName, Entry>,
    /// Who has which cluster address.
    holders: Index<IpAddr>,
    /// Who names which address as one of its own from outside.
    claimants: Index<IpAddr>,
    /// Who wants which frontend.
    wanted: Index<FrontendKey>,
    /// What Services say of their addresses.
    noted: HashMap<Addr, BTreeMap<ObjectName, Vip>>,
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

/// A Service as it was compiled last.
#[derive(Debug, Default)]
struct Entry {
    /// None if it is gone.
    inputs: Option<Inputs>,
    cluster_ips: BTreeSet<IpAddr>,
    external_ips: BTreeSet<IpAddr>,
    wants: BTreeSet<FrontendKey>,
    ports: BTreeMap<u32, PortName>,
    vips: BTreeSet<Addr>,
    rejections: BTreeSet<Rejection>,
}

/// What a Service's tables follow from.
#[derive(Debug)]
struct Inputs {
    service: Arc<Service>,
    slices: Vec<Arc<Slice>>,
}

/// Numbers that are given back once everybody has got theirs.
#[derive(Debug, Default)]
struct Turnover {
    settled: Vec<u32>,
    released: Vec<(u32, PortName)>,
}

impl Compiler {
    /// Nothing is compiled yet; `ids` knows the numbers that are in use.
    #[must_use]
    pub fn new(ids: Ids) -> Self {
        Self {
            ids,
            node: NodeView::default(),
            service_cidrs: BTreeSet::new(),
            services: BTreeMap::new(),
            holders: Index::default(),
            claimants: Index::default(),
            wanted: Index::default(),
            noted: HashMap::new(),
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
        let mut dirty = std::mem::take(&mut self.crowded);
        for (name, inputs) in self.differences(model) {
            self.services.entry(name.clone()).or_default().inputs = inputs;
            dirty.insert(name);
        }
        if self.first || self.node != *node {
            self.node = node.clone();
            self.tables.interfaces.clone_from(&node.interfaces);
            dirty.extend(self.services.keys().cloned());
        }
        if self.first || self.service_cidrs != model.service_cidrs {
            self.service_cidrs.clone_from(&model.service_cidrs);
            (self.tables.service_nets, self.nets_rejection) = service_nets(&self.service_cidrs);
        }
        self.spread_by_address(&mut dirty);
        self.spread_by_frontend(&mut dirty);

        let (mut changes, mut turnover) = (Changes::default(), Turnover::default());
        for name in dirty {
            let Some(mut entry) = self.services.remove(&name) else {
                continue;
            };
            let output = match subject(&name, &entry, &self.node, &self.holders) {
                Some(subject) => subject.compile(&self.wanted, &mut self.ids),
                None => Output::default(),
            };
            self.place(&name, &mut entry, output, &mut changes, &mut turnover);
            if entry.inputs.is_some() {
                self.services.insert(name, entry);
            }
        }
        self.turn_over(turnover);
        changes
    }

    /// Services whose objects are not those that were compiled, with those that are now.
    fn differences(&self, model: &Model) -> Vec<(ObjectName, Option<Inputs>)> {
        let mut found = Vec::new();
        // All are in the order of names.
        let mut known = self.services.iter().peekable();
        let mut slices = model.slices.iter().peekable();
        for (name, service) in &model.services {
            while let Some((gone, _)) = known.next_if(|(known, _)| *known < name) {
                found.push((gone.clone(), None));
            }
            while slices.next_if(|(owner, _)| *owner < name).is_some() {}
            let slices = slices.next_if(|(owner, _)| *owner == name);
            let slices = || slices.into_iter().flat_map(|(_, slices)| slices.values());
            let entry = known.next_if(|(known, _)| *known == name);
            let inputs = entry.and_then(|(_, entry)| entry.inputs.as_ref());
            if !inputs.is_some_and(|inputs| inputs.are(service, slices())) {
                let inputs = Inputs {
                    service: service.clone(),
                    slices: slices().cloned().collect(),
                };
                found.push((name.clone(), Some(inputs)));
            }
        }
        found.extend(known.map(|(gone, _)| (gone.clone(), None)));
        found
    }

    /// Adds the Services whose external addresses others have as cluster addresses, or had.
    fn spread_by_address(&mut self, dirty: &mut BTreeSet<ObjectName>) {
        let mut addrs = Vec::new();
        for name in dirty.iter() {
            let Some(entry) = self.services.get_mut(name) else {
                continue;
            };
            let (cluster_ips, external_ips) = addresses(entry.inputs.as_ref());
            addrs.extend(self.holders.replace(name, &entry.cluster_ips, &cluster_ips));
            self.claimants
                .replace(name, &entry.external_ips, &external_ips);
            (entry.cluster_ips, entry.external_ips) = (cluster_ips, external_ips);
        }
        for addr in addrs {
            dirty.extend(self.claimants.of(addr).cloned());
        }
    }

    /// Adds the Services that want a frontend that a Service newly wants, or no longer.
    fn spread_by_frontend(&mut self, dirty: &mut BTreeSet<ObjectName>) {
        let mut keys = Vec::new();
        for name in dirty.iter() {
            let Some(entry) = self.services.get_mut(name) else {
                continue;
            };
            let subject = subject(name, entry, &self.node, &self.holders);
            let wants = subject.map(|subject| subject.wants()).unwrap_or_default();
            keys.extend(self.wanted.replace(name, &entry.wants, &wants));
            entry.wants = wants;
        }
        for key in keys {
            dirty.extend(self.wanted.of(key).cloned());
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

        let mut before = std::mem::take(&mut entry.ports);
        for (id, port_name) in kept {
            before.remove(&id);
            self.crowded.insert(name.clone());
            self.tables.ports.remove(&id);
            self.tables.kept.insert(id);
            entry.ports.insert(id, port_name);
        }
        for (id, port) in ports {
            before.remove(&id);
            entry.ports.insert(id, port.name.clone());
            self.tables.kept.remove(&id);
            if self.tables.ports.get(&id) != Some(&port) {
                self.tables.ports.insert(id, port);
                changes.ports.insert(id);
            }
            turnover.settled.push(id);
        }
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
        let now: BTreeSet<Addr> = vips.keys().copied().collect();
        for addr in entry.vips.union(&now) {
            let noted = self.noted.entry(*addr).or_default();
            match vips.get(addr) {
                Some(vip) => noted.insert(name.clone(), *vip),
                None => noted.remove(name),
            };
            let flags = noted.values().fold(0, |flags, vip| flags | vip.flags);
            let vip = (!noted.is_empty()).then_some(Vip { flags });
            if noted.is_empty() {
                self.noted.remove(addr);
            }
            let before = match vip {
                Some(vip) => self.tables.vips.insert(*addr, vip),
                None => self.tables.vips.remove(addr),
            };
            if before != vip {
                changes.vips.insert(*addr);
            }
        }
        entry.vips = now;
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

impl Inputs {
    fn are<'a>(
        &self,
        service: &Arc<Service>,
        mut slices: impl Iterator<Item = &'a Arc<Slice>>,
    ) -> bool {
        let mut ours = self.slices.iter();
        let same = |one| slices.next().is_some_and(|other| is_same(one, other));
        is_same(&self.service, service) && ours.all(same) && slices.next().is_none()
    }
}

/// Whether two objects are equal; sources share those that are.
fn is_same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

fn subject<'a>(
    name: &'a ObjectName,
    entry: &'a Entry,
    node: &'a NodeView,
    holders: &'a Index<IpAddr>,
) -> Option<Subject<'a>> {
    let Inputs { service, slices } = entry.inputs.as_ref()?;
    Some(Subject {
        name,
        service,
        slices,
        node,
        holders,
    })
}

/// Cluster addresses, and those from outside.
fn addresses(inputs: Option<&Inputs>) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
    let service = inputs.map(|inputs| &inputs.service);
    let Some(service) = service.filter(|service| service.kind != ServiceKind::ExternalName) else {
        return Default::default();
    };
    let external = service.external_ips.iter();
    let external = external.chain(&service.load_balancer_ips);
    (
        service.cluster_ips.iter().copied().collect(),
        external.copied().collect(),
    )
}

#[cfg(test)]
mod tests;
