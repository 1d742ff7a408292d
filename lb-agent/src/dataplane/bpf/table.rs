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

use bytemuck::{Pod, Zeroable, cast};
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
        let words = Words::new(fd, buckets * BUCKET as u32)?;
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

    /// Replaces the record of a key if there is one; whether there was.
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

    /// Inserts the record of a key; whether it is there now.
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

/// A record by its words.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw(Record);

// SAFETY: all fields may have any bits, and there is no padding: the sum of their sizes is asserted.
unsafe impl Zeroable for Raw {}
// SAFETY: as above.
unsafe impl Pod for Raw {}

const _: () = assert!(size_of::<Record>() == size_of::<FlowKey>() + 4 + size_of::<Flow>());

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
        let Raw(Record { key, flow, .. }) = cast(words);
        is_one.then_some((key, flow, after.is_kept()))
    }

    fn write(&self, way: usize, key: &FlowKey, flow: &Flow) {
        let words: [u64; RECORD] = cast(Raw(Record {
            key: *key,
            pad: 0,
            flow: *flow,
        }));
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
