//! The index of frontends, which programs look up without a call of the kernel.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytemuck::{cast, pod_read_unaligned};
use lb_common::{
    Frontend, FrontendKey,
    frontend::index::{Bucket, Listed, Place, Reference, flags},
    maps::{FRONTEND_COPIES, FRONTEND_INDEX, FRONTENDS},
};

use super::{error::Error, pins::Pins, raw::RawMap, words::Words};

/// How long a copy that is referred to no more stays as it is: longer than any program runs that has found
/// the reference. To start an agent takes longer than that, too: what another process has given up need not rest.
const REST: Duration = Duration::from_secs(1);

/// Words of a copy.
const COPY: usize = size_of::<Listed>() / size_of::<u64>();

/// The index, and the copies that it refers to.
pub(super) struct Index {
    buckets: Words,
    copies: Words,
    /// Which copies are referred to, or rest.
    taken: Vec<bool>,
    /// Where a free copy is looked for first: so each of them rests for as long as it can.
    next: usize,
    resting: VecDeque<(Instant, u32)>,
}

/// A word of the index that refers to a frontend.
#[derive(Clone, Copy)]
struct Found {
    at: usize,
    copy: u32,
    listed: Listed,
}

impl Index {
    /// Opens the index that is pinned, and makes it say what `FRONTENDS` says: another version of the agent
    /// may have changed that alone, or a process that was killed between the two.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if a map cannot be read, [`Error::Mmap`] if one cannot be mapped.
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        let mut index = Self::new(
            map(pins, FRONTEND_INDEX, Bucket::WORDS)?,
            map(pins, FRONTEND_COPIES, COPY)?,
        );
        let mut frontends = BTreeMap::new();
        let read = RawMap::pinned(FRONTENDS, pins)?.for_each(|key, value| {
            frontends.insert(pod_read_unaligned(key), pod_read_unaligned(value));
            Ok(())
        });
        read.map_err(|source| Error::of_map("read", FRONTENDS, source))?;
        index.sync(&frontends);
        Ok(index)
    }

    fn new(buckets: Words, copies: Words) -> Self {
        Self {
            taken: vec![false; copies.as_slice().len() / COPY],
            buckets,
            copies,
            next: 0,
            resting: VecDeque::new(),
        }
    }

    /// Makes it say this. Programs may be looking: what is right stays as it is.
    pub(super) fn sync(&mut self, frontends: &BTreeMap<FrontendKey, Frontend>) {
        self.taken.fill(false);
        for (_, copy) in self.resting.clone() {
            self.mark_taken(copy);
        }
        for at in 0..self.buckets.as_slice().len() {
            if at % Bucket::WORDS == 0 || self.word(at) == 0 {
                continue;
            }
            let reference = Reference(self.word(at));
            let (copy, listed) = (reference.index(), self.listed(reference.index()));
            let was_taken = self.mark_taken(copy);
            let is_right = listed.is_some_and(|listed| {
                self.is_in_place(at, reference, &listed.key)
                    && self.find(&listed.key).is_some_and(|found| found.at == at)
                    && frontends.contains_key(&listed.key)
            });
            if was_taken || !is_right {
                self.set(at, 0);
            }
            if !was_taken && !is_right && listed.is_some() {
                self.resting.push_back((Instant::now(), copy));
            }
        }
        // Whoever has seen a bucket without what is put there now has to see that it has spilled.
        let mut spilled = self.missing(frontends);
        for (key, frontend) in frontends {
            self.put(key, frontend);
        }
        spilled.append(&mut self.missing(frontends));
        for bucket in 0..self.len() {
            let at = bucket as usize * Bucket::WORDS;
            if self.word(at) != 0 && !spilled.contains(&bucket) {
                self.set(at, 0);
            }
        }
    }

    /// The buckets that lack one of these.
    fn missing(&self, frontends: &BTreeMap<FrontendKey, Frontend>) -> BTreeSet<u32> {
        let missing = frontends.keys().filter(|key| self.find(key).is_none());
        missing
            .map(|key| Place::of(key, self.len()).bucket)
            .collect()
    }

    /// Lets programs find what `FRONTENDS` says about `key`, which is `frontend`.
    pub(super) fn put(&mut self, key: &FrontendKey, frontend: &Frontend) {
        let found = self.find(key);
        if found.is_some_and(|found| found.listed.frontend == *frontend) {
            return;
        }
        let place = Place::of(key, self.len());
        let at = found.map(|found| found.at).or_else(|| self.room(place));
        match at.and_then(|at| Some((at, self.take()?))) {
            Some((at, copy)) => {
                let listed = Listed {
                    key: *key,
                    frontend: *frontend,
                    pad: [0; 3],
                };
                self.write(copy, &listed);
                self.set(at, Reference::new(place.tag, copy).0);
            }
            None => {
                let first = place.bucket as usize * Bucket::WORDS;
                self.set(first, self.word(first) | flags::SPILLED);
                if let Some(found) = found {
                    self.set(found.at, 0);
                }
            }
        }
        if let Some(found) = found {
            self.resting.push_back((Instant::now(), found.copy));
        }
    }

    /// Lets programs find `key` no more, unless `FRONTENDS` has it and its bucket has spilled.
    pub(super) fn remove(&mut self, key: &FrontendKey) {
        if let Some(found) = self.find(key) {
            self.set(found.at, 0);
            self.resting.push_back((Instant::now(), found.copy));
        }
    }

    /// Whether the copy was so already.
    fn mark_taken(&mut self, copy: u32) -> bool {
        let taken = self.taken.get_mut(copy as usize);
        taken.is_some_and(|taken| std::mem::replace(taken, true))
    }

    fn len(&self) -> u32 {
        (self.buckets.as_slice().len() / Bucket::WORDS) as u32
    }

    /// The words of ways of a bucket.
    fn ways(place: Place) -> impl Iterator<Item = usize> {
        let first = place.bucket as usize * Bucket::WORDS;
        first + 1..first + Bucket::WORDS
    }

    fn find(&self, key: &FrontendKey) -> Option<Found> {
        let place = Place::of(key, self.len());
        Self::ways(place).find_map(|at| {
            let reference = Reference(self.word(at));
            let copy = reference.index();
            let listed = self.listed(copy).filter(|_| reference.has(place.tag))?;
            (listed.key == *key).then_some(Found { at, copy, listed })
        })
    }

    /// A way that is free, unless another frontend has the same tag: a program asks for the first of them
    /// only.
    fn room(&self, place: Place) -> Option<usize> {
        let has_tag = |at| Reference(self.word(at)).has(place.tag);
        if Self::ways(place).any(has_tag) {
            return None;
        }
        Self::ways(place).find(|at| self.word(*at) == 0)
    }

    fn is_in_place(&self, at: usize, reference: Reference, key: &FrontendKey) -> bool {
        let place = Place::of(key, self.len());
        reference.has(place.tag) && at / Bucket::WORDS == place.bucket as usize
    }

    /// Takes a copy that nobody can be reading.
    fn take(&mut self) -> Option<u32> {
        while let Some((since, copy)) = self.resting.front().copied()
            && since.elapsed() >= REST
        {
            self.resting.pop_front();
            if let Some(taken) = self.taken.get_mut(copy as usize) {
                *taken = false;
            }
        }
        let count = self.taken.len();
        let mut all = (self.next..count).chain(0..self.next);
        let free = all.find(|copy| self.taken.get(*copy) == Some(&false))?;
        self.next = free + 1;
        *self.taken.get_mut(free)? = true;
        u32::try_from(free).ok()
    }

    fn word(&self, at: usize) -> u64 {
        let word = self.buckets.as_slice().get(at);
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// After all that was written before.
    fn set(&self, at: usize, value: u64) {
        if let Some(word) = self.buckets.as_slice().get(at) {
            word.store(value, Ordering::Release);
        }
    }

    fn listed(&self, copy: u32) -> Option<Listed> {
        let first = copy as usize * COPY;
        let words = self.copies.as_slice().get(first..first + COPY)?;
        let mut listed = [0; COPY];
        for (to, from) in listed.iter_mut().zip(words) {
            *to = from.load(Ordering::Relaxed);
        }
        Some(cast(listed))
    }

    fn write(&self, copy: u32, listed: &Listed) {
        let listed: [u64; COPY] = cast(*listed);
        let words = self.copies.as_slice().iter().skip(copy as usize * COPY);
        for (to, from) in words.zip(listed) {
            to.store(from, Ordering::Relaxed);
        }
    }
}

fn map(pins: &Pins, name: &'static str, words: usize) -> Result<Words, Error> {
    let map = RawMap::pinned(name, pins)?;
    let words = (map.spec.max_entries as usize).saturating_mul(words);
    Words::new(map.as_fd(), words).map_err(|source| Error::Mmap { map: name, source })
}

#[cfg(test)]
mod tests;
