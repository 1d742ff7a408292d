//! Elements of the old maps, on their way into the new ones.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    io,
};

use lb_common::{
    ServiceNets, Slot,
    maps::{FLOWS, MMAPABLE, OPENING},
};

use tracing::debug;

use super::{
    plan::{Carried, Way},
    records::{is_closed, is_reserved, reserve, shares_ports},
};
use crate::dataplane::bpf::{
    arena::Arena,
    error::Error,
    layout::Convert,
    pins::Pins,
    raw::{Put, RawMap, is_per_cpu},
    words::Words,
};

/// Key of the only element of an array.
const FIRST: [u8; 4] = 0_u32.to_ne_bytes();

/// Whether the new programs may have written the new maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The old programs see all packets.
    Before,
    /// The new ones do, and leave to the old ones what they do not know.
    After,
}

/// The maps that are filled.
pub(super) struct Copies {
    pub(super) copies: Vec<Copy>,
    pub(super) hasher: RandomState,
    /// Whether the new programs leave to the old ones what they do not know.
    pub(super) defers: bool,
}

/// An old map and the new one in its place.
pub(super) struct Copy {
    pub(super) from: RawMap,
    pub(super) to: RawMap,
    way: Way,
    convert: Option<Convert>,
    /// Hashes of the keys that were copied, with those of their values: as they are in the new map,
    /// if no new program has changed them.
    pub(super) copied: HashMap<u64, u64>,
    /// Counts as they were when they were copied.
    counts: HashMap<Vec<u8>, Vec<u8>>,
    /// Of `FLOWS` the new `OPENING`, and the other way round, where what new programs know is newer than
    /// what old ones do: a key has one record.
    pub(super) beside: Option<RawMap>,
    /// Records of connections that both ends have closed. While old and new programs run, the old
    /// ones alone know them: what begins on the ports of such a connection takes its record's place, and
    /// a new program that still had that would take one for the other.
    pub(super) closed: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Copies {
    /// Opens the maps.
    pub(super) fn open(from_pins: &Pins, to_pins: &Pins, maps: &[Carried]) -> Result<Self, Error> {
        let mut copies = Vec::new();
        for map in maps {
            let name = map.spec.name;
            if matches!(map.way, Way::Share | Way::Fresh) {
                continue;
            }
            let open = |pins: &Pins| RawMap::open(name, &pins.map(name));
            if let (Some(from), Some(to)) = (open(from_pins)?, open(to_pins)?) {
                copies.push(Copy {
                    from,
                    to,
                    beside: None,
                    way: map.way,
                    convert: map.convert,
                    copied: HashMap::new(),
                    counts: HashMap::new(),
                    closed: Vec::new(),
                });
            }
        }
        // Old programs move records from `OPENING` to `FLOWS` all the while: whoever looks there last
        // meets each of them at least once.
        copies.sort_by_key(|copy| copy.to.spec.name == FLOWS);
        let last = copies.iter().find(|copy| copy.way == Way::CopyLast);
        let is_deferring = match last {
            Some(copy) => copy.is_deferring().map_err(|source| copy.failed(source))?,
            None => false,
        };
        let mut copies = Self {
            copies,
            hasher: RandomState::new(),
            defers: false,
        };
        if is_deferring {
            copies.trust_new_ones(to_pins)?;
        }
        Ok(copies)
    }

    /// Fills the new maps, which nobody else writes yet.
    pub(super) fn fill(&mut self) -> Result<(), Error> {
        for copy in &mut self.copies {
            let filled = match copy.way {
                Way::Copy => copy.copy(),
                Way::Follow => copy.catch_up(&self.hasher, Phase::Before, self.defers),
                Way::Count => copy.begin_counts(),
                Way::CopyLast | Way::Share | Way::Fresh => Ok(()),
            };
            filled.map_err(|source| copy.failed(source))?;
        }
        Ok(())
    }

    /// Fills in what is missing in new maps that a process which is no more has filled, and that the
    /// new programs have been writing since.
    pub(super) fn fill_in(&mut self, phase: Phase) -> Result<(), Error> {
        for copy in &mut self.copies {
            // What old programs look after changes until they are not needed any more.
            if self.defers && phase == Phase::Before && copy.has_records() {
                continue;
            }
            let filled = match copy.way {
                Way::Copy => copy.copy(),
                Way::Follow => copy.fill_in(),
                // What was counted before is there.
                Way::Count | Way::CopyLast | Way::Share | Way::Fresh => Ok(()),
            };
            filled.map_err(|source| copy.failed(source))?;
        }
        if phase == Phase::After {
            self.settle()?;
            self.add_closed()?;
        }
        Ok(())
    }

    /// Carries over what the old programs have changed since the last time.
    pub(super) fn catch_up(&mut self, phase: Phase) -> Result<(), Error> {
        for copy in &mut self.copies {
            let caught_up = match copy.way {
                Way::Follow => copy.catch_up(&self.hasher, phase, self.defers),
                Way::Count if phase == Phase::After => copy.add_counts(),
                Way::Count | Way::Copy | Way::CopyLast | Way::Share | Way::Fresh => Ok(()),
            };
            caught_up.map_err(|source| copy.failed(source))?;
        }
        if phase == Phase::After {
            self.settle()?;
            self.add_closed()?;
        }
        Ok(())
    }

    /// Lets the new programs leave to the old ones behind them what they do not know, until
    /// [`finish`](Self::finish). Until then, what is copied only says which ports are taken.
    pub(super) fn defer(&mut self, to_pins: &Pins) -> Result<(), Error> {
        let last = self.copies.iter().find(|copy| copy.way == Way::CopyLast);
        let Some(copy) = last else {
            return Ok(());
        };
        let nets = bytemuck::bytes_of(&ServiceNets::PREDECESSORS);
        let put = copy.to.put(&FIRST, nets, Put::Any);
        put.map_err(|source| copy.failed(source))?;
        self.trust_new_ones(to_pins)
    }

    /// Copies what is copied last: from now on the new programs decide about all packets.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        for copy in &self.copies {
            if copy.way == Way::CopyLast {
                let copied = copy.copy_all(|_| true);
                copied.map_err(|source| copy.failed(source))?;
            }
        }
        Ok(())
    }
}

impl Copy {
    pub(super) fn convert(&self, key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let Some(convert) = self.convert else {
            return Some((key.to_vec(), value.to_vec()));
        };
        if !is_per_cpu(&self.to.spec) {
            let (key, value) = convert(key, value)?;
            return Some((self.to.own_key(key), value));
        }
        let (mut new_key, mut values) = (None, Vec::new());
        for of_cpu in value.chunks_exact(size_of::<u64>()) {
            let (key, value) = convert(key, of_cpu)?;
            new_key = Some(key);
            values.extend(value);
        }
        Some((new_key?, values))
    }

    fn copy(&self) -> io::Result<()> {
        if self.is_arena() {
            return self.copy_arena();
        }
        // What was never written is zero in the new map, too.
        self.copy_all(|value| value.iter().any(|byte| *byte != 0))
    }

    fn copy_all(&self, of: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        self.from.for_each(|key, value| {
            if of(value)
                && let Some((key, value)) = self.convert(key, value)
            {
                self.to.put(&key, &value, Put::Any)?;
            }
            Ok(())
        })
    }

    fn is_arena(&self) -> bool {
        self.convert.is_none() && self.to.spec.flags & MMAPABLE != 0
    }

    fn copy_arena(&self) -> io::Result<()> {
        let words = |map: &RawMap| Words::new(map.as_fd(), map.spec.max_entries as usize);
        let open = |map: &RawMap| words(map).map(Arena::new);
        let (from, mut to) = (open(&self.from)?, open(&self.to)?);
        let slots: &[Slot] = from.as_slice();
        let len = slots.len().min(to.len());
        let taken = slots.get(..len).and_then(|slots| to.write(0, slots));
        taken.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    pub(super) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        self.to.for_each(|key, _| {
            keys.push(key.to_vec());
            Ok(())
        })?;
        Ok(keys)
    }

    fn fill_in(&mut self) -> io::Result<()> {
        let (mut closed, mut now) = (Vec::new(), Vec::new());
        self.from.for_each(|key, value| {
            match self.convert(key, value) {
                Some((key, value)) if self.is_closed(&value) => closed.push((key, value)),
                Some((key, value)) => {
                    let is_there = self.to.get(&key, &mut now)?;
                    if is_there && self.has_records() && is_reserved(&key, &now) {
                        self.to.put(&key, &value, Put::Any)?;
                    } else if !is_there {
                        self.add(&key, &value)?;
                    }
                }
                None => {}
            }
            Ok(())
        })?;
        self.closed = closed;
        Ok(())
    }

    /// Whether the map in which they are told to has new programs leave to the old ones what they do not know.
    fn is_deferring(&self) -> io::Result<bool> {
        let mut nets = Vec::new();
        let is_there = self.to.get(&FIRST, &mut nets)?;
        Ok(is_there && nets == bytemuck::bytes_of(&ServiceNets::PREDECESSORS))
    }

    /// Whether its elements are records of connections.
    pub(super) fn has_records(&self) -> bool {
        matches!(self.to.spec.name, FLOWS | OPENING)
    }

    /// Whether both ends have closed the connection whose record this is.
    pub(super) fn is_closed(&self, value: &[u8]) -> bool {
        self.to.spec.name == FLOWS && is_closed(value)
    }

    /// Adds an element while the new programs run. There was room for what there was; what has come
    /// since may find none, as it would at any time.
    pub(super) fn add(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        Ok(!self.is_taken_beside(key, value)? && self.put(key, value, Put::IfAbsent)?)
    }

    /// False if it is there, and must not be, or if there is no room.
    fn put(&self, key: &[u8], value: &[u8], mode: Put) -> io::Result<bool> {
        match self.to.put(key, value, mode) {
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {
                debug!(
                    map = self.to.spec.name,
                    "no room for what has come meanwhile"
                );
                Ok(false)
            }
            result => result,
        }
    }

    /// Carries over what has come and what has changed; before the new programs run, what has gone
    /// goes here, too. Afterwards the old programs forget what the new ones look after.
    fn catch_up(
        &mut self,
        hasher: &RandomState,
        phase: Phase,
        is_deferred: bool,
    ) -> io::Result<()> {
        let mut copied = std::mem::take(&mut self.copied);
        let (mut there, mut closed) = (HashSet::new(), Vec::new());
        let mut now = Vec::new();
        self.from.for_each(|key, value| {
            let Some((key, mut value)) = self.convert(key, value) else {
                return Ok(());
            };
            let is_closed = is_deferred && self.is_closed(&value);
            if is_closed && phase == Phase::Before {
                return Ok(());
            }
            if is_deferred && phase == Phase::Before && self.has_records() {
                reserve(&key, &mut value);
            }
            let (id, hash) = (hasher.hash_one(&key), hasher.hash_one(&value));
            there.insert(id);
            match copied.insert(id, hash) {
                Some(before) if before == hash => {}
                // What a new program has changed or removed is newer.
                Some(before) if phase == Phase::After => {
                    let is_there = self.to.get(&key, &mut now)?;
                    if is_there && hasher.hash_one(&now) == before {
                        self.to.put(&key, &value, Put::Any)?;
                    } else if !is_there && is_deferred && self.has_records() && shares_ports(&key) {
                        // Only a place was kept, which the map may have forgotten.
                        self.add(&key, &value)?;
                    }
                }
                None if is_closed => closed.push((key, value)),
                None if phase == Phase::After => drop(self.add(&key, &value)?),
                _ => {
                    if !self.put(&key, &value, Put::Any)? {
                        copied.remove(&id);
                    }
                }
            }
            Ok(())
        })?;
        if phase == Phase::Before && copied.keys().any(|id| !there.contains(id)) {
            for key in self.keys()? {
                if !there.contains(&hasher.hash_one(&key)) {
                    self.to.remove(&key)?;
                }
            }
            copied.retain(|id, _| there.contains(id));
        }
        (self.copied, self.closed) = (copied, closed);
        Ok(())
    }

    fn begin_counts(&mut self) -> io::Result<()> {
        let mut counts = HashMap::new();
        self.from.for_each(|key, value| {
            if let Some((key, value)) = self.convert(key, value) {
                self.to.put(&key, &value, Put::Any)?;
                counts.insert(key, value);
            }
            Ok(())
        })?;
        self.counts = counts;
        Ok(())
    }

    /// Adds what the old programs have counted since. What the new ones count between the look and
    /// the change is lost: a packet or two.
    fn add_counts(&self) -> io::Result<()> {
        let mut now = Vec::new();
        self.from.for_each(|key, value| {
            let Some((key, value)) = self.convert(key, value) else {
                return Ok(());
            };
            let before = self.counts.get(&key).map_or(&[][..], Vec::as_slice);
            if value == before {
                return Ok(());
            }
            if !self.to.get(&key, &mut now)? {
                now.fill(0);
            }
            let sum: Vec<u8> = words(&now)
                .zip(words(&value))
                .zip(words(before).chain(std::iter::repeat(0)))
                .flat_map(|((now, value), before)| {
                    now.wrapping_add(value.wrapping_sub(before)).to_ne_bytes()
                })
                .collect();
            self.to.put(&key, &sum, Put::Any)?;
            Ok(())
        })
    }

    pub(super) fn failed(&self, source: io::Error) -> Error {
        Error::Carry {
            map: self.to.spec.name,
            source,
        }
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes
        .chunks_exact(size_of::<u64>())
        .map(bytemuck::pod_read_unaligned)
}
