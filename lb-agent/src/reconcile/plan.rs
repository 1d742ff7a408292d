//! The difference between what is programmed and what is desired, as ordered operations.

use std::time::Instant;

use lb_common::{
    Addr, Backend, BackendState, Extent, Frontend, FrontendKey, Slot, SourceRange, maglev,
};

use super::{
    programmed::{PortState, PortTables, Programmed},
    steps::{Op, Steps},
    tables::{NewTable, frontend, slots_of, wanted_sets},
};
use crate::{
    dataplane::{Element, Key},
    desired::{Changes, Members, Port, Rejection, Tables},
    model::Cause,
};

/// What is to be done, in an order of which every prefix is safe.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The operations, by what they are. They are not put together: there may be a million.
    pub phases: Vec<Vec<Op>>,
    /// What there is no room for; what was there before stays.
    pub rejections: Vec<Rejection>,
    /// The changes that were rejected.
    pub pending: Changes,
}

/// Plans the way from `programmed` to `desired`, where these differ at most in `changes`. `slots`
/// is the arena.
///
/// `programmed` becomes what it is once all operations are done.
#[must_use]
pub fn plan(
    programmed: &mut Programmed,
    slots: &[Slot],
    desired: &Tables,
    changes: &Changes,
    now: Instant,
) -> Plan {
    let mut planner = Planner {
        programmed,
        slots,
        now,
        steps: Steps::default(),
        rejections: Vec::new(),
        pending: Changes::default(),
        leaving: Vec::new(),
        retiring: Vec::new(),
    };
    planner.devices(desired);
    for id in &changes.ports {
        match desired.ports.get(id) {
            Some(port) => planner.port(*id, port),
            None if desired.kept.contains(id) => {}
            None => planner.remove_port(*id),
        }
    }
    planner.remove_frontends();
    planner.retire_backends();
    planner.vips(desired, changes);
    planner.service_nets(desired);
    Plan {
        phases: planner.steps.in_order(),
        rejections: planner.rejections,
        pending: planner.pending,
    }
}

struct Planner<'a> {
    /// What is programmed; of the ports that are planned already, what will be.
    programmed: &'a mut Programmed,
    slots: &'a [Slot],
    now: Instant,
    steps: Steps,
    rejections: Vec<Rejection>,
    pending: Changes,
    /// Frontends that Service ports no longer have; another one may take them yet.
    leaving: Vec<(u32, FrontendKey)>,
    /// Backends that Service ports no longer have; their elements may be used again yet.
    retiring: Vec<(u32, u32)>,
}

impl Planner<'_> {
    fn devices(&mut self, desired: &Tables) {
        let before = &mut self.programmed.interfaces;
        for (ifindex, interface) in &desired.interfaces {
            if before.get(ifindex) != Some(interface) {
                let op = Op::Put(Element::Interface(*ifindex, *interface));
                self.steps.interfaces_in.push(op);
            }
        }
        for ifindex in before.keys() {
            if !desired.interfaces.contains_key(ifindex) {
                let op = Op::Remove(Key::Interface(*ifindex));
                self.steps.interfaces_out.push(op);
            }
        }
        if *before != desired.interfaces {
            before.clone_from(&desired.interfaces);
        }
    }

    fn vips(&mut self, desired: &Tables, changes: &Changes) {
        let mut gone = Vec::new();
        for addr in &changes.vips {
            let before = self.programmed.vips.get(addr);
            match desired.vips.get(addr) {
                Some(vip) if before == Some(vip) => {}
                Some(_) if before.is_none() && self.is_full_of_vips() => self.reject_vip(*addr),
                Some(vip) => {
                    self.programmed.vips.insert(*addr, *vip);
                    let op = Op::Put(Element::Vip(*addr, *vip));
                    self.steps.vips_in.push(op);
                }
                None if before.is_none() => {}
                None => gone.push(*addr),
            }
        }
        for addr in gone {
            self.programmed.vips.remove(&addr);
            self.steps.vips_out.push(Op::Remove(Key::Vip(addr)));
        }
    }

    fn is_full_of_vips(&self) -> bool {
        self.programmed.vips.len() >= self.programmed.vips_max as usize
    }

    fn reject_vip(&mut self, addr: Addr) {
        self.pending.vips.insert(addr);
        self.rejections.push(Rejection {
            object: format!("address {addr}"),
            field: String::new(),
            reason: "the map VIPS is full: nothing but its ports is known of it".to_owned(),
            cause: Cause::ServiceMapFull,
            regarding: None,
        });
    }

    fn service_nets(&mut self, desired: &Tables) {
        let have = self.programmed.service_nets;
        if have != desired.service_nets {
            if desired.service_nets.has_predecessors() && !have.has_predecessors() {
                let nets = have.with_predecessors();
                let op = Op::Put(Element::ServiceNets(nets.into()));
                self.steps.predecessors_in.push(op);
            }
            self.programmed.service_nets = desired.service_nets;
            let op = Op::Put(Element::ServiceNets(desired.service_nets.into()));
            self.steps.service_nets.push(op);
        }
    }

    fn port(&mut self, id: u32, port: &Port) {
        let have = self.programmed.ports.get(&id).cloned();
        let is_new = |key: &&FrontendKey| !self.programmed.frontends.contains_key(key);
        let new = port.frontends.keys().filter(is_new).count();
        if self.programmed.frontends.len() + new > self.programmed.frontends_max as usize {
            self.reject(id, port, "the map FRONTENDS is full: raise --frontends-max");
            return;
        }
        let ranges: Vec<SourceRange> = match &have {
            Some(have) => port
                .source_ranges
                .difference(&have.source_ranges)
                .copied()
                .collect(),
            None => port.source_ranges.iter().copied().collect(),
        };
        if self.programmed.source_ranges + ranges.len() > self.programmed.source_ranges_max as usize
        {
            self.reject(
                id,
                port,
                "the map SOURCE_RANGES is full: use fewer networks",
            );
            return;
        }
        let Some(tables) = self.tables(port, have.as_ref().map(|have| &have.tables)) else {
            self.reject(id, port, "the arena SLOTS is full: raise --slots-max");
            return;
        };
        let have = have.unwrap_or_default();
        self.write_tables(id, port, &tables, &have.tables);
        self.put_source_ranges(port, ranges, &have);
        for (index, backend) in port.backends.iter() {
            self.put_backend(*index, backend);
        }
        let unused = have
            .backends
            .iter()
            .filter(|index| !port.backends.contains_key(index));
        self.retiring.extend(unused.map(|index| (id, *index)));
        self.put_frontends(id, port, &tables, &have);
        let state = PortState {
            tables,
            frontends: port.frontends.keys().copied().collect(),
            backends: port.backends.keys().copied().collect(),
            source_ranges: port.source_ranges.clone(),
        };
        self.programmed.ports.insert(id, state);
    }

    /// There is no room for what is desired: the port goes on with what it has.
    fn reject(&mut self, id: u32, port: &Port, reason: &str) {
        self.pending.ports.insert(id);
        self.rejections.push(Rejection {
            object: port.name.to_string(),
            ..Rejection::of_service(&port.name.service, Cause::ServiceMapFull, reason)
        });
    }

    fn remove_port(&mut self, id: u32) {
        let Some(state) = self.programmed.ports.remove(&id) else {
            return;
        };
        let PortState {
            tables,
            frontends,
            backends,
            source_ranges,
        } = state;
        self.leaving
            .extend(frontends.into_iter().map(|key| (id, key)));
        self.retiring
            .extend(backends.into_iter().map(|index| (id, index)));
        for range in source_ranges {
            self.remove_source_range(range);
        }
        for (_, extent) in tables.tables {
            self.programmed.arena.release(extent, self.now);
        }
    }

    /// The tables of a port: those it has, if they hold the desired sets, else places for new
    /// ones. Nothing if there is no room.
    fn tables(&mut self, port: &Port, have: Option<&PortTables>) -> Option<PortTables> {
        let wanted = wanted_sets(port);
        if let Some(have) = have
            && wanted.iter().all(|set| have.tables.contains_key(*set))
        {
            return Some(have.clone());
        }
        let mut tables = Vec::new();
        for set in wanted {
            // A table does not shrink while there are backends in it: slots that were joined
            // could not say which backend had served their flows.
            let old = self.predecessor(port, set).map_or(0, |extent| extent.bits);
            let bits = maglev::bits_for(set.len()).max(old);
            let Some(extent) = self.programmed.arena.allocate(bits, self.now) else {
                for (_, extent) in tables {
                    self.programmed.arena.give_back(extent);
                }
                return None;
            };
            tables.push((set.clone(), extent));
        }
        Some(PortTables {
            generation: have.map_or(1, |have| have.generation.wrapping_add(1).max(1)),
            tables: tables.into_iter().collect(),
        })
    }

    /// The table that a set's clients have used so far.
    fn predecessor(&self, port: &Port, set: &Members) -> Option<Extent> {
        port.frontends.iter().find_map(|(key, spec)| {
            let old = self.programmed.frontends.get(key)?;
            let sides = [(spec.inside, old.inside), (spec.outside, old.outside)];
            sides
                .into_iter()
                .find(|(scope, extent)| port.members(*scope) == set && !extent.is_empty())
                .map(|(_, extent)| extent)
        })
    }

    fn write_tables(&mut self, id: u32, port: &Port, tables: &PortTables, have: &PortTables) {
        if have == tables {
            return;
        }
        for (set, extent) in tables.tables.iter() {
            let header = Slot::header(id, tables.generation);
            let table = NewTable::new(header, *extent, port, set, self.predecessor(port, set));
            self.steps.tables.push(Op::WriteTable(table.into()));
        }
        for extent in have.tables.values() {
            self.programmed.arena.release(*extent, self.now);
        }
    }

    fn put_source_ranges(&mut self, port: &Port, new: Vec<SourceRange>, have: &PortState) {
        self.programmed.source_ranges += new.len();
        let put = |range| Op::Put(Element::SourceRange(range));
        self.steps.source_ranges_in.extend(new.into_iter().map(put));
        for range in have.source_ranges.difference(&port.source_ranges) {
            self.remove_source_range(*range);
        }
    }

    fn remove_source_range(&mut self, range: SourceRange) {
        self.programmed.source_ranges -= 1;
        let op = Op::Remove(Key::SourceRange(range));
        self.steps.source_ranges_out.push(op);
    }

    fn put_frontends(&mut self, id: u32, port: &Port, tables: &PortTables, have: &PortState) {
        let written = have.tables.generation != tables.generation;
        let frontends: Vec<(FrontendKey, Frontend)> = port
            .frontends
            .iter()
            .map(|(key, spec)| (*key, frontend(id, port, spec, tables)))
            .collect();
        // What a table's clients have used so far is read off the frontends.
        let forgetful = frontends
            .iter()
            .filter(|(key, new)| self.forgets(port, key, new, written));
        let forgetful: Vec<_> = forgetful.copied().collect();
        self.steps.pinned.extend(forgetful);
        for (key, frontend) in frontends {
            let before = self.programmed.frontends.insert(key, frontend);
            if before != Some(frontend) {
                let op = Op::Put(Element::Frontend(key, frontend));
                self.steps.frontends_in.push(op);
            }
            if let Some(before) = before.filter(|before| before.service != id)
                && let Some(loser) = self.programmed.ports.get_mut(&before.service)
            {
                loser.frontends.remove(&key);
            }
        }
        let gone = have
            .frontends
            .iter()
            .filter(|key| !port.frontends.contains_key(key));
        self.leaving.extend(gone.map(|key| (id, *key)));
    }

    /// Whether a frontend's new tables may know nothing of the backends of its flows. A table that
    /// is written now knows its predecessor; what that one knew of its own is lost, and so is all
    /// if the clients came from another table.
    fn forgets(&self, port: &Port, key: &FrontendKey, new: &Frontend, written: bool) -> bool {
        let Some(old) = self.programmed.frontends.get(key) else {
            return false;
        };
        let Some(spec) = port.frontends.get(key) else {
            return false;
        };
        let sides = [
            (old.inside, new.inside, spec.inside),
            (old.outside, new.outside, spec.outside),
        ];
        sides.into_iter().any(|(old_table, new_table, scope)| {
            let unchanged = old_table == new_table && old.generation == new.generation;
            if old_table.is_empty() || unchanged {
                return false;
            }
            let follows = written
                && !new_table.is_empty()
                && self.predecessor(port, port.members(scope)) == Some(old_table);
            let has_past = self
                .table_at(old_table)
                .is_none_or(|slots| slots.iter().any(|slot| !slot.previous.is_none()));
            !follows || has_past
        })
    }

    /// The slots of a table, without its header.
    fn table_at(&self, extent: Extent) -> Option<&[Slot]> {
        slots_of(extent, self.slots)
    }

    /// What a backend takes more than before, it takes before the tables lead to it; what it takes
    /// less, after.
    fn put_backend(&mut self, index: u32, backend: &Backend) {
        let before = self.programmed.put_backend(index, *backend);
        let same = before.filter(|before| before.generation == backend.generation);
        let between = same.map_or(*backend, |before| Backend {
            state: more_alive(&before, backend).state,
            sets: before.sets | backend.sets,
            ..*backend
        });
        if before != Some(between) {
            let op = Op::Put(Element::Backend(index, between));
            self.steps.backends_in.push(op);
        }
        if between != *backend {
            let op = Op::Put(Element::Backend(index, *backend));
            self.steps.backends_out.push(op);
        }
    }

    fn remove_frontends(&mut self) {
        for (id, key) in std::mem::take(&mut self.leaving) {
            let owner = self.programmed.frontends.get(&key).map(|f| f.service);
            if owner == Some(id) {
                if let Some(frontend) = self.programmed.frontends.remove(&key) {
                    // Connections outlive their frontend, as long as anybody can tell whose they
                    // are (item 58).
                    let nobody = Frontend {
                        inside: Extent::EMPTY,
                        outside: Extent::EMPTY,
                        ..frontend
                    };
                    self.steps.pinned.insert(key, nobody);
                }
                let op = Op::Remove(Key::Frontend(key));
                self.steps.frontends_out.push(op);
            }
        }
    }

    /// Backends that no slice names any more serve no new flow; their elements stay, for the
    /// flows that they have.
    fn retire_backends(&mut self) {
        for (id, index) in std::mem::take(&mut self.retiring) {
            let known = self.programmed.backends.get(&index).copied();
            let leaves = |known: &Backend| known.service == id && known.serves();
            let Some(known) = known.filter(leaves) else {
                continue;
            };
            let backend = Backend {
                state: BackendState::Gone as u8,
                sets: 0,
                ..known
            };
            self.programmed.put_backend(index, backend);
            let op = Op::Put(Element::Backend(index, backend));
            self.steps.backends_out.push(op);
        }
    }
}

/// Of two states of a backend the one in which it takes more.
fn more_alive<'a>(one: &'a Backend, other: &'a Backend) -> &'a Backend {
    if one.is_active() || !other.serves() {
        one
    } else {
        other
    }
}
