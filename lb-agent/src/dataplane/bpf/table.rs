//! The table of flows in one array (`lb_common::flow::table`), mapped.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, SeqCst},
        fence,
    },
};

use bytemuck::cast;
use lb_common::{
    Flow, FlowKey,
    flow::table::{Bucket, Record, WAYS, buckets, hash},
    maps::FLOW_TABLE,
    ways::{self, Displace, Place, Word, Words as _},
};

use super::{error::Error, pins::Pins, raw::RawMap, words::Words};

/// Words of a record.
const RECORD: usize = size_of::<Record>() / size_of::<u64>();
/// Words of a bucket.
const BUCKET: usize = size_of::<Bucket>() / size_of::<u64>();

const _: () = assert!(BUCKET == WAYS + WAYS * RECORD);

/// `FLOW_TABLE`, while programs change it.
pub struct FlowTable {
    words: Words,
    buckets: u32,
    seed: u32,
}

impl FlowTable {
    /// Maps the array `fd` of so many buckets, in which keys are found by `seed`.
    ///
    /// # Errors
    ///
    /// If it cannot be mapped.
    pub fn new(fd: BorrowedFd<'_>, buckets: u32, seed: u32) -> io::Result<Self> {
        let words = buckets.checked_mul(BUCKET as u32);
        let words = Words::new(fd, words.ok_or(io::ErrorKind::InvalidInput)?)?;
        Ok(Self {
            words,
            buckets,
            seed,
        })
    }

    /// Maps the one that is pinned; none if flows are in `FLOWS` and `OPENING`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if there is no such map, [`Error::Mmap`] if it cannot be mapped.
    pub(super) fn open(pins: &Pins, seed: u32) -> Result<Option<Self>, Error> {
        let map = RawMap::pinned(FLOW_TABLE, pins)?;
        let buckets = buckets(map.spec.max_entries);
        if buckets == 0 {
            return Ok(None);
        }
        let table = Self::new(map.as_fd(), buckets, seed);
        table.map(Some).map_err(|source| Error::Mmap {
            map: FLOW_TABLE,
            source,
        })
    }

    /// All records, and whether they are kept from being displaced. Those that come and go meanwhile may be missed.
    pub fn records(&self) -> impl Iterator<Item = (FlowKey, Flow, bool)> {
        let buckets = self.words.as_slice().chunks_exact(BUCKET).map(Shared);
        buckets.flat_map(|bucket| (0..WAYS).filter_map(move |way| bucket.read(way)))
    }

    /// The record of a key.
    #[must_use]
    pub fn get(&self, key: &FlowKey) -> Option<Flow> {
        let (bucket, place) = self.bucket(key)?;
        let (way, _) = ways::find(&bucket, place.tag)?;
        let (found, flow, _) = bucket.read(way)?;
        (found == *key).then_some(flow)
    }

    /// Replaces the record of a key if there is one; whether there was. In place: no program may run meanwhile.
    pub fn replace(&self, key: &FlowKey, flow: &Flow) -> bool {
        let is_there = self.get(key).is_some();
        let Some((bucket, place)) = self.bucket(key).filter(|_| is_there) else {
            return false;
        };
        let found = ways::find(&bucket, place.tag);
        if let Some((way, _)) = found {
            bucket.write(way, key, flow);
        }
        found.is_some()
    }

    /// Inserts or [replaces](Self::replace) the record of a key; whether it is there now.
    pub fn insert(&self, key: &FlowKey, flow: &Flow) -> bool {
        let Some((bucket, place)) = self.bucket(key) else {
            return false;
        };
        let write = |way| bucket.write(way, key, flow);
        let inserted = ways::insert(&bucket, place.tag, flow.seen_tick, Displace::Nobody, write);
        inserted.result.is_ok() || self.replace(key, flow)
    }

    /// Takes records out: those that are kept from being displaced, or the others.
    #[must_use]
    pub fn take(&self, kept: bool) -> Vec<(FlowKey, Flow)> {
        let mut taken = Vec::new();
        for bucket in self.words.as_slice().chunks_exact(BUCKET).map(Shared) {
            for way in 0..WAYS {
                let (word, read) = (bucket.word(way), bucket.read(way));
                let wanted = read.filter(|(_, _, is_kept)| *is_kept == kept);
                if let Some((key, flow, _)) = wanted
                    && ways::remove(&bucket, way, word)
                {
                    taken.push((key, flow));
                }
            }
        }
        taken
    }

    /// Removes the record of a key.
    pub fn remove(&self, key: &FlowKey) {
        let Some((bucket, place)) = self.bucket(key) else {
            return;
        };
        // Programs may touch it at the same moment.
        while let Some((way, word)) = ways::find(&bucket, place.tag) {
            let is_it = bucket.read(way).is_some_and(|(found, _, _)| found == *key);
            if !is_it || ways::remove(&bucket, way, word) {
                break;
            }
        }
    }

    /// Forgets everything; no program may insert meanwhile.
    pub fn clear(&self) {
        for bucket in self.words.as_slice().chunks_exact(BUCKET).map(Shared) {
            for way in 0..WAYS {
                let word = bucket.word(way);
                if !word.is_free() {
                    bucket.exchange(way, word, word.freed());
                }
            }
        }
    }

    fn bucket(&self, key: &FlowKey) -> Option<(Shared<'_>, Place)> {
        let place = Place::of(hash(key, self.seed), self.buckets);
        let first = place.bucket as usize * BUCKET;
        let words = self.words.as_slice().get(first..first + BUCKET)?;
        Some((Shared(words), place))
    }
}

/// A bucket as programs change it.
struct Shared<'a>(&'a [AtomicU64]);

impl Shared<'_> {
    fn record(&self, way: usize) -> &[AtomicU64] {
        &self.0[WAYS + way * RECORD..][..RECORD]
    }

    /// What a way holds, unless it is nobody's, or changes its owner meanwhile.
    fn read(&self, way: usize) -> Option<(FlowKey, Flow, bool)> {
        let before = self.word(way);
        let mut words = [0; RECORD];
        for (word, shared) in words.iter_mut().zip(self.record(way)) {
            *word = shared.load(Relaxed);
        }
        fence(Acquire);
        let after = self.word(way);
        let is_one = before.is_published() && after.is_published() && before.is_same(after);
        let Record { key, flow, .. } = cast(words);
        is_one.then_some((key, flow, after.is_kept()))
    }

    fn write(&self, way: usize, key: &FlowKey, flow: &Flow) {
        let words: [u64; RECORD] = cast(Record {
            key: *key,
            pad: 0,
            flow: *flow,
        });
        for (shared, word) in self.record(way).iter().zip(words) {
            shared.store(word, Relaxed);
        }
    }
}

impl ways::Words<WAYS> for Shared<'_> {
    fn word(&self, way: usize) -> Word {
        Word(self.0[way].load(Acquire))
    }

    fn exchange(&self, way: usize, from: Word, to: Word) -> bool {
        fence(SeqCst);
        let result = self.0[way].compare_exchange(from.0, to.0, SeqCst, SeqCst);
        fence(SeqCst);
        result.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::fd::AsFd as _};

    use bytemuck::Zeroable as _;
    use nix::{
        sys::memfd::{MFdFlags, memfd_create},
        unistd::ftruncate,
    };

    use super::*;

    const BUCKETS: u32 = 16;

    fn table() -> FlowTable {
        let memory = memfd_create("table", MFdFlags::empty()).unwrap();
        let len = BUCKETS as usize * size_of::<Bucket>();
        ftruncate(&memory, len.try_into().unwrap()).unwrap();
        FlowTable::new(memory.as_fd(), BUCKETS, 1).unwrap()
    }

    fn key(number: u16) -> FlowKey {
        FlowKey {
            src_port: number,
            ..FlowKey::zeroed()
        }
    }

    fn flow(number: u16) -> Flow {
        Flow {
            client_port: number,
            ..Flow::zeroed()
        }
    }

    #[test]
    fn it_has_what_was_inserted_and_not_what_was_removed() {
        let table = table();
        let there: BTreeMap<_, _> = (1..=40).map(|number| (key(number), flow(number))).collect();
        for (key, flow) in &there {
            assert!(table.insert(key, flow));
            assert_eq!(table.get(key), Some(*flow));
        }
        let all = |table: &FlowTable| -> BTreeMap<_, _> {
            table.records().map(|(key, flow, _)| (key, flow)).collect()
        };
        assert_eq!(all(&table), there);
        assert!(table.replace(&key(1), &flow(99)));
        assert_eq!(table.get(&key(1)), Some(flow(99)));
        table.remove(&key(1));
        table.remove(&key(1));
        assert_eq!(table.get(&key(1)), None);
        assert!(!table.replace(&key(1), &flow(1)));
        assert_eq!(all(&table).len(), 39);
        assert_eq!(table.take(true), []);
        assert_eq!(table.take(false).len(), 39);
        assert_eq!(table.records().count(), 0);
    }

    #[test]
    fn no_more_is_inserted_than_there_is_room_for() {
        let table = table();
        let inserted = (1..1000).filter(|number| table.insert(&key(*number), &flow(*number)));
        let inserted = inserted.count();
        assert!(inserted <= BUCKETS as usize * WAYS);
        assert_eq!(table.records().count(), inserted);
        table.clear();
        assert_eq!(table.records().count(), 0);
    }

    #[test]
    fn table_that_no_memory_holds_is_refused() {
        let memory = memfd_create("table", MFdFlags::empty()).unwrap();
        assert!(FlowTable::new(memory.as_fd(), u32::MAX, 1).is_err());
    }
}
