//! The difference between what is programmed and what is desired, as ordered operations.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use lb_common::{
    Addr, Backend, BackendRef, BackendState, Extent, Frontend, FrontendKey, Slot, SourceRange,
    maglev,
};

use super::programmed::{PortTables, Programmed};
use crate::{
    dataplane::{Element, Key},
    desired::{FrontendSpec, Members, Port, Rejection, Tables},
    model::Cause,
};

/// One operation on the maps.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// An element appears, or changes.
    Put(Element),
    /// An element goes.
    Remove(Key),
    /// A table is written where nobody looks yet: its header, then its slots.
    WriteSlots(u32, Vec<Slot>),
    /// Flows that these frontends' new tables lead elsewhere are pinned to where they are.
    PinFlows(BTreeMap<FrontendKey, Frontend>),
}

/// What is to be done, in an order of which every prefix is safe.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The operations.
    pub ops: Vec<Op>,
    /// Service ports for which there is no room; what they had before stays.
    pub rejections: Vec<Rejection>,
    /// What is programmed once all operations are done.
    pub next: Programmed,
}

/// Plans the way from `programmed` to `desired`. `slots` is the arena.
///
/// Devices, backends and source ranges come first, then tables (and pins for the flows that these
/// would lead elsewhere), then the frontends that lead to them, which are what a Service port is
/// committed by. Then addresses come: an address without its frontends would reject everybody. On
/// the way out the order is the reverse. So while a port exchanges its source ranges, clients of
/// either are served, and never one that is in neither.
#[must_use]
pub fn plan(programmed: &Programmed, slots: &[Slot], desired: &Tables, now: Instant) -> Plan {
    let mut planner = Planner {
        before: programmed,
        slots,
        now,
        next: programmed.clone(),
        steps: Steps::default(),
        rejections: Vec::new(),
        kept: BTreeMap::new(),
        unchanged: BTreeSet::new(),
    };
    planner.elements(desired);
    for id in &desired.kept {
        planner.keep_as_it_is(*id);
    }
    for (id, port) in &desired.ports {
        planner.port(*id, port);
    }
    planner.remove_frontends();
    planner.retire_backends(desired);
    planner.source_ranges(desired);
    Plan {
        ops: planner.steps.in_order(),
        rejections: planner.rejections,
        next: planner.next,
    }
}

#[derive(Default)]
struct Steps {
    interfaces_in: Vec<Op>,
    backends_in: Vec<Op>,
    source_ranges_in: Vec<Op>,
    tables: Vec<Op>,
    pinned: BTreeMap<FrontendKey, Frontend>,
    frontends_in: Vec<Op>,
    vips_in: Vec<Op>,
    service_nets: Vec<Op>,
    vips_out: Vec<Op>,
    frontends_out: Vec<Op>,
    source_ranges_out: Vec<Op>,
    backends_out: Vec<Op>,
    interfaces_out: Vec<Op>,
}

impl Steps {
    fn in_order(self) -> Vec<Op> {
        let Self {
            interfaces_in,
            backends_in,
            source_ranges_in,
            tables,
            pinned,
            frontends_in,
            vips_in,
            service_nets,
            vips_out,
            frontends_out,
            source_ranges_out,
            backends_out,
            interfaces_out,
        } = self;
        let pin_flows = if pinned.is_empty() {
            Vec::new()
        } else {
            vec![Op::PinFlows(pinned)]
        };
        [
            interfaces_in,
            backends_in,
            source_ranges_in,
            tables,
            pin_flows,
            frontends_in,
            vips_in,
            service_nets,
            vips_out,
            frontends_out,
            source_ranges_out,
            backends_out,
            interfaces_out,
        ]
        .concat()
    }
}

struct Planner<'a> {
    before: &'a Programmed,
    slots: &'a [Slot],
    now: Instant,
    next: Programmed,
    steps: Steps,
    rejections: Vec<Rejection>,
    /// Frontends that are there in the end, by the Service port that has them.
    kept: BTreeMap<FrontendKey, u32>,
    /// Service ports that go on with what they have.
    unchanged: BTreeSet<u32>,
}

impl Planner<'_> {
    /// What is there whatever the ports are.
    fn elements(&mut self, desired: &Tables) {
        let (before, next) = (self.before, &mut self.next);
        let interfaces = Difference::new(&before.interfaces, &desired.interfaces);
        next.interfaces.clone_from(&desired.interfaces);
        let put = |(ifindex, interface)| Op::Put(Element::Interface(ifindex, interface));
        self.steps.interfaces_in = interfaces.put.into_iter().map(put).collect();
        let remove = |ifindex| Op::Remove(Key::Interface(ifindex));
        self.steps.interfaces_out = interfaces.remove.into_iter().map(remove).collect();

        let room = before.vips_max as usize;
        let fit: BTreeMap<_, _> = desired
            .vips
            .iter()
            .take(room)
            .map(|(a, v)| (*a, *v))
            .collect();
        let vips = Difference::new(&before.vips, &fit);
        next.vips = fit;
        let put = |(addr, vip)| Op::Put(Element::Vip(addr, vip));
        self.steps.vips_in = vips.put.into_iter().map(put).collect();
        let remove = |addr| Op::Remove(Key::Vip(addr));
        self.steps.vips_out = vips.remove.into_iter().map(remove).collect();

        if before.service_nets != desired.service_nets {
            next.service_nets = desired.service_nets;
            let op = Op::Put(Element::ServiceNets(desired.service_nets.into()));
            self.steps.service_nets.push(op);
        }
    }

    /// Source ranges of ports: those of a port that goes on as it is stay.
    fn source_ranges(&mut self, desired: &Tables) {
        let wanted = |range: &SourceRange| {
            let port = desired.ports.get(&range.service);
            port.is_some_and(|port| port.source_ranges.contains(range))
        };
        let stays = |range: &SourceRange| self.unchanged.contains(&range.service) || wanted(range);
        for range in &self.before.source_ranges {
            if !stays(range) {
                let op = Op::Remove(Key::SourceRange(*range));
                self.steps.source_ranges_out.push(op);
                self.next.source_ranges.remove(range);
            }
        }
    }

    fn port(&mut self, id: u32, port: &Port) {
        let new = port
            .frontends
            .keys()
            .filter(|key| !self.next.frontends.contains_key(key))
            .count();
        if self.next.frontends.len() + new > self.next.frontends_max as usize {
            self.reject(id, port, "the map FRONTENDS is full: raise --frontends-max");
            return;
        }
        let ranges: Vec<SourceRange> = port
            .source_ranges
            .difference(&self.before.source_ranges)
            .copied()
            .collect();
        if self.next.source_ranges.len() + ranges.len() > self.next.source_ranges_max as usize {
            self.reject(
                id,
                port,
                "the map SOURCE_RANGES is full: use fewer networks",
            );
            return;
        }
        let Some(tables) = self.tables(id, port) else {
            self.reject(id, port, "the arena SLOTS is full: raise --slots-max");
            return;
        };
        let frontends: BTreeMap<FrontendKey, Frontend> = port
            .frontends
            .iter()
            .map(|(key, spec)| (*key, frontend(id, port, spec, &tables)))
            .collect();
        self.write_tables(id, port, tables);
        for range in ranges {
            let op = Op::Put(Element::SourceRange(range));
            self.steps.source_ranges_in.push(op);
            self.next.source_ranges.insert(range);
        }
        for (index, backend) in &port.backends {
            self.put_backend(*index, backend);
        }
        for (key, frontend) in frontends {
            self.kept.insert(key, id);
            if self.forgets(port, &key, &frontend) {
                self.steps.pinned.insert(key, frontend);
            }
            if self.before.frontends.get(&key) != Some(&frontend) {
                let op = Op::Put(Element::Frontend(key, frontend));
                self.steps.frontends_in.push(op);
                self.next.frontends.insert(key, frontend);
            }
        }
    }

    /// There is no room for what is desired.
    fn reject(&mut self, id: u32, port: &Port, reason: &str) {
        self.keep_as_it_is(id);
        self.rejections.push(Rejection {
            object: port.name.to_string(),
            ..Rejection::of_service(&port.name.service, Cause::ServiceMapFull, reason)
        });
    }

    /// The port goes on with what it has.
    fn keep_as_it_is(&mut self, id: u32) {
        self.unchanged.insert(id);
        for (key, frontend) in &self.before.frontends {
            if frontend.service == id {
                self.kept.insert(*key, id);
            }
        }
    }

    /// The tables of a port: those it has, if they hold the desired sets, else places for new
    /// ones. Nothing if there is no room.
    fn tables(&mut self, id: u32, port: &Port) -> Option<PortTables> {
        let wanted = wanted_sets(port);
        let have = self.before.ports.get(&id);
        if let Some(have) = have
            && wanted.iter().all(|set| have.tables.contains_key(*set))
        {
            return Some(have.clone());
        }
        let mut arena = self.next.arena.clone();
        let mut tables = BTreeMap::new();
        for set in wanted {
            // A table does not shrink while there are backends in it: slots that were joined
            // could not say which backend had served their flows.
            let old = self.predecessor(port, set).map_or(0, |extent| extent.bits);
            let bits = maglev::bits_for(set.len()).max(old);
            tables.insert(set.clone(), arena.allocate(bits, self.now)?);
        }
        self.next.arena = arena;
        Some(PortTables {
            generation: have.map_or(1, |have| have.generation.wrapping_add(1).max(1)),
            tables,
        })
    }

    /// The table that a set's clients have used so far.
    fn predecessor(&self, port: &Port, set: &Members) -> Option<Extent> {
        port.frontends.iter().find_map(|(key, spec)| {
            let old = self.before.frontends.get(key)?;
            let sides = [(spec.inside, old.inside), (spec.outside, old.outside)];
            sides
                .into_iter()
                .find(|(scope, extent)| port.members(*scope) == set && !extent.is_empty())
                .map(|(_, extent)| extent)
        })
    }

    fn write_tables(&mut self, id: u32, port: &Port, tables: PortTables) {
        let have = self.before.ports.get(&id);
        if have == Some(&tables) {
            return;
        }
        for (set, extent) in &tables.tables {
            let old = self
                .predecessor(port, set)
                .and_then(|old| Some((old, self.table_at(old)?)));
            let mut content = vec![Slot::header(id, tables.generation)];
            content.extend(table(port, set, extent.bits, old));
            let op = Op::WriteSlots(extent.offset, content);
            self.steps.tables.push(op);
        }
        for extent in have.iter().flat_map(|have| have.tables.values()) {
            self.next.arena.release(*extent, self.now);
        }
        self.next.ports.insert(id, tables);
    }

    /// Whether a frontend's new tables may know nothing of the backends of its flows. A table that
    /// is written now knows its predecessor; what that one knew of its own is lost, and so is all
    /// if the clients came from another table.
    fn forgets(&self, port: &Port, key: &FrontendKey, new: &Frontend) -> bool {
        let Some(old) = self.before.frontends.get(key) else {
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
            let written_now = self
                .before
                .ports
                .get(&new.service)
                .is_none_or(|have| have.generation != new.generation);
            let follows = written_now
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
        let start = extent.offset as usize + 1;
        self.slots.get(start..start + extent.slots() as usize)
    }

    /// What a backend takes more than before, it takes before the tables lead to it; what it takes
    /// less, after.
    fn put_backend(&mut self, index: u32, backend: &Backend) {
        let before = self.before.backends.get(&index);
        let same = before.filter(|b| b.generation == backend.generation);
        let between = same.map_or(*backend, |before| Backend {
            state: more_alive(before, backend).state,
            sets: before.sets | backend.sets,
            ..*backend
        });
        if before != Some(&between) {
            let op = Op::Put(Element::Backend(index, between));
            self.steps.backends_in.push(op);
        }
        if between != *backend {
            let op = Op::Put(Element::Backend(index, *backend));
            self.steps.backends_out.push(op);
        }
        self.next.backends.insert(index, *backend);
    }

    fn remove_frontends(&mut self) {
        for key in self.before.frontends.keys() {
            if !self.kept.contains_key(key) {
                let op = Op::Remove(Key::Frontend(*key));
                self.steps.frontends_out.push(op);
                self.next.frontends.remove(key);
            }
        }
        let (kept, arena, now) = (&self.kept, &mut self.next.arena, self.now);
        let live: BTreeSet<u32> = kept.values().copied().collect();
        self.next.ports.retain(|id, port| {
            let stays = live.contains(id);
            if !stays {
                for extent in port.tables.values() {
                    arena.release(*extent, now);
                }
            }
            stays
        });
    }

    /// Backends that no slice names any more serve no new flow; their elements stay, for the
    /// flows that they have.
    fn retire_backends(&mut self, desired: &Tables) {
        let mut gone = Vec::new();
        for (index, backend) in &self.before.backends {
            let named = desired
                .ports
                .get(&backend.service)
                .is_some_and(|port| port.backends.contains_key(index));
            let reused = self.next.backends.get(index).map(|b| b.generation);
            if !named
                && reused == Some(backend.generation)
                && backend.serves()
                && !self.unchanged.contains(&backend.service)
            {
                let state = BackendState::Gone as u8;
                gone.push((
                    *index,
                    Backend {
                        state,
                        sets: 0,
                        ..*backend
                    },
                ));
            }
        }
        for (index, backend) in gone {
            let op = Op::Put(Element::Backend(index, backend));
            self.steps.backends_out.push(op);
            self.next.backends.insert(index, backend);
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

/// What changes in a map.
struct Difference<K, V> {
    put: Vec<(K, V)>,
    remove: Vec<K>,
}

impl<K: Ord + Copy, V: PartialEq + Copy> Difference<K, V> {
    fn new(before: &BTreeMap<K, V>, after: &BTreeMap<K, V>) -> Self {
        let put = after
            .iter()
            .filter(|(key, value)| before.get(key) != Some(value));
        let remove = before.keys().filter(|key| !after.contains_key(key));
        Self {
            put: put.map(|(key, value)| (*key, *value)).collect(),
            remove: remove.copied().collect(),
        }
    }
}

/// The sets of backends that a port's frontends use; an empty set needs no table.
fn wanted_sets(port: &Port) -> BTreeSet<&Members> {
    port.frontends
        .values()
        .flat_map(|spec| [spec.outside, spec.inside])
        .map(|scope| port.members(scope))
        .filter(|members| !members.is_empty())
        .collect()
}

fn frontend(id: u32, port: &Port, spec: &FrontendSpec, tables: &PortTables) -> Frontend {
    let extent = |scope| {
        tables
            .tables
            .get(port.members(scope))
            .copied()
            .unwrap_or(Extent::EMPTY)
    };
    Frontend {
        service: id,
        generation: tables.generation,
        outside: extent(spec.outside),
        inside: extent(spec.inside),
        affinity_timeout_s: spec.affinity_timeout_s,
        flags: spec.flags,
    }
}

/// The slots of a table, each with the backend that had it before.
fn table(port: &Port, set: &Members, bits: u32, old: Option<(Extent, &[Slot])>) -> Vec<Slot> {
    let (references, identities): (Vec<BackendRef>, Vec<maglev::Identity>) = set
        .iter()
        .filter_map(|reference| {
            let backend = port.backends.get(&reference.index())?;
            let (addr, port): (Addr, u16) = (backend.addr, backend.port);
            Some((*reference, maglev::Identity { addr, port }))
        })
        .unzip();
    let previous = |index: usize, current: BackendRef| -> BackendRef {
        let Some((extent, slots)) = old else {
            return BackendRef::NONE;
        };
        match slots.get(index >> bits.saturating_sub(extent.bits)) {
            Some(slot) if slot.current == current => slot.previous,
            Some(slot) => slot.current,
            None => BackendRef::NONE,
        }
    };
    maglev::populate(&identities, bits)
        .into_iter()
        .enumerate()
        .map(|(index, owner)| {
            let current = references
                .get(owner as usize)
                .copied()
                .unwrap_or(BackendRef::NONE);
            Slot {
                current,
                previous: previous(index, current),
            }
        })
        .collect()
}
