//! `OPENING_PINS` by its pins (`lb_common::flow::opening_pins`), mapped.

use std::{
    io,
    os::fd::BorrowedFd,
    path::Path,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use lb_common::{
    Pin, PinKey,
    flow::opening_pins::{self, Line, Place, TAGS, Tags, WORDS},
    maps::{LAYOUT_VERSION, MapSpec, OPENING, OPENING_PINS},
};

use super::{
    error::Error,
    opening,
    pins::Pins,
    raw::{Put, RawMap},
    words::Words,
};

/// Bytes of what stands for a key: its hash.
pub(super) const KEY: usize = size_of::<u64>();

/// `OPENING_PINS`, while programs change it.
pub struct OpeningPins {
    words: Words,
    buckets: u32,
    seed: u64,
}

impl OpeningPins {
    /// Maps the array, which looks like this, and whose pins are found by this seed.
    ///
    /// # Errors
    ///
    /// If it is something else, or cannot be mapped.
    pub(super) fn new(map: BorrowedFd<'_>, spec: &MapSpec, seed: u64) -> io::Result<Self> {
        if spec.value_size as usize != size_of::<Line>() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            words: Words::new(map, spec.max_entries as usize * WORDS)?,
            buckets: opening_pins::buckets_of(spec.max_entries),
            seed,
        })
    }

    /// The one that is pinned below `pin_dir`.
    ///
    /// # Errors
    ///
    /// [`Error`] if there is none, or it cannot be mapped.
    pub fn open(pin_dir: &Path) -> Result<Self, Error> {
        let pins = Pins::at(pin_dir, LAYOUT_VERSION);
        let map = RawMap::pinned(OPENING_PINS, &pins)?;
        let seed = opening::pinned_seed(&pins.map(OPENING))?;
        Self::new(map.as_fd(), &map.spec, seed).map_err(|source| Error::Mmap {
            map: OPENING_PINS,
            source,
        })
    }

    /// What stands for a key here.
    #[must_use]
    pub fn hash(&self, key: &PinKey) -> u64 {
        opening_pins::hash(key, self.seed)
    }

    /// All pins, with the hashes of their keys: of a bucket, the newest first.
    #[must_use]
    pub fn all(&self) -> Vec<(u64, Pin)> {
        let elements = self.words.as_slice().chunks_exact(WORDS);
        let tags = opening_pins::elements(self.buckets) - self.buckets;
        elements
            .skip(tags as usize)
            .flat_map(|words| opening_pins::all(&Bucket(words)).collect::<Vec<_>>())
            .collect()
    }

    /// The pin of a key.
    #[must_use]
    pub fn pin(&self, key: &PinKey) -> Option<Pin> {
        self.get(self.hash(key))
    }

    /// Notes the pin of a key.
    pub fn note(&self, key: &PinKey, pin: Pin) {
        self.put(self.hash(key), pin, Put::Any);
    }

    /// Forgets all; no program may run meanwhile.
    pub fn clear(&self) {
        for word in self.words.as_slice() {
            word.store(0, Relaxed);
        }
    }

    pub(super) fn get(&self, hash: u64) -> Option<Pin> {
        let (bucket, tags) = self.at(hash)?;
        let may_be = Tags(tags.load(Relaxed)).have(hash);
        may_be.then(|| opening_pins::find(&bucket, hash)).flatten()
    }

    /// Puts the pin of the key with this hash first in its bucket; false if it is there and is to be left alone.
    pub(super) fn put(&self, hash: u64, pin: Pin, put: Put) -> bool {
        let Some((bucket, tags)) = self.at(hash) else {
            return false;
        };
        if matches!(put, Put::IfAbsent) && self.get(hash).is_some() {
            return false;
        }
        tags.store(opening_pins::put(&bucket, hash, pin).0, Relaxed);
        true
    }

    pub(super) fn remove(&self, hash: u64) {
        if let Some((bucket, _)) = self.at(hash) {
            opening_pins::remove(&bucket, hash);
        }
    }

    /// The bucket of a key with this hash, and its tags.
    fn at(&self, hash: u64) -> Option<(Bucket<'_>, &AtomicU32)> {
        let place = Place::of(hash, self.buckets);
        let mut words = self.words.as_slice().chunks_exact(WORDS);
        let mut tags = self.words.halves().chunks_exact(TAGS);
        let bucket = Bucket(words.nth(place.bucket as usize)?);
        let tags = tags.nth(place.tags as usize)?;
        Some((bucket, tags.get(place.at as usize)?))
    }
}

/// A bucket as programs change it.
struct Bucket<'a>(&'a [AtomicU64]);

impl opening_pins::Words for Bucket<'_> {
    fn read(&self, at: usize) -> u64 {
        self.0[at].load(Relaxed)
    }

    fn write(&self, at: usize, word: u64) {
        self.0[at].store(word, Relaxed);
    }
}
