//! `OPENING` by its records (`lb_common::flow::opening`), mapped.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    io, mem,
    ops::Range,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
    thread,
};

use aya::maps::MapData;
use lb_common::{
    Addr, Flow, FlowKey,
    flow::opening::{self, Line, WAYS},
    maps::{MapSpec, OPENING, OPENING_WORDS},
    ways::{self, Displace, Place, Refused, Word, Words as _},
};

use super::{
    error::{Error, is_absent},
    load::spec_of,
    pins::Pins,
    raw::Put,
    words::Words,
};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();
/// Bytes of a key.
const KEY: usize = size_of::<FlowKey>();
/// Words that a key takes in a record.
const KEY_WORDS: usize = KEY.div_ceil(WORD);
/// Words of a record that say whose it is.
const CLIENT: Range<usize> = {
    let first = KEY_WORDS + mem::offset_of!(Flow, client) / WORD;
    first..first + size_of::<Addr>() / WORD
};

/// So often is a record displaced for one that was seen later, and its way taken by somebody else at once.
const TRIES: usize = 3;

/// So often others may run while somebody writes a record.
const YIELDS: usize = 10_000;

/// `OPENING`, while programs change it. Values are bytes: those of another layout have other lengths.
pub struct Opening {
    /// `OPENING_WORDS`
    lines: Words,
    records: Words,
    buckets: u32,
    seed: u64,
    /// Words of a record.
    record: usize,
}

impl Opening {
    /// Maps the array `records`, which looks like this, and the array `lines` of so many elements beside it.
    ///
    /// # Errors
    ///
    /// If they are none of these, or cannot be mapped.
    fn new(
        records: BorrowedFd<'_>,
        spec: &MapSpec,
        lines: BorrowedFd<'_>,
        count: u32,
    ) -> io::Result<Self> {
        let buckets = opening::buckets(spec.max_entries);
        let record = spec.value_size as usize / WORD;
        if record <= KEY_WORDS || count != opening::lines(spec.max_entries) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let lines = Words::new(lines, count as usize * WAYS)?;
        let records = Words::new(records, buckets as usize * WAYS * record)?;
        let seed = lines
            .as_slice()
            .first()
            .map_or(0, |seed| seed.load(Acquire));
        Ok(Self {
            lines,
            records,
            buckets,
            seed,
            record,
        })
    }

    /// The one that is pinned at `path`, with its words beside it; none if either is not there, or if it is
    /// one of a layout without words.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if it cannot be opened, [`Error::Mmap`] if it cannot be mapped.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Map {
            action: "open the pin of",
            map: OPENING,
            source: Box::new(source),
        };
        let open = |path: &Path| match MapData::from_pin(path) {
            Ok(data) => Ok(Some(data)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(error)),
        };
        let (Some(records), Some(lines)) =
            (open(path)?, open(&path.with_file_name(OPENING_WORDS))?)
        else {
            return Ok(None);
        };
        let spec = spec_of(OPENING, &records.info().map_err(failed)?);
        if !spec.has_words() {
            return Ok(None);
        }
        let looks = spec_of(OPENING_WORDS, &lines.info().map_err(failed)?);
        if looks.value_size as usize != size_of::<Line>() {
            return Err(Error::of_map(
                "open",
                OPENING_WORDS,
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        let (fd, lines) = (records.fd().as_fd(), lines.fd().as_fd());
        let opening = Self::new(fd, &spec, lines, looks.max_entries);
        opening.map(Some).map_err(|source| Error::Mmap {
            map: OPENING,
            source,
        })
    }

    /// The one among these pins, which must be there.
    pub(super) fn pinned(pins: &Pins) -> Result<Self, Error> {
        let opening = Self::open(&pins.map(OPENING))?;
        opening.ok_or_else(|| Error::of_map("open", OPENING, io::ErrorKind::NotFound.into()))
    }

    /// Bytes of a value.
    pub(super) fn value_len(&self) -> usize {
        (self.record - KEY_WORDS) * WORD
    }

    /// How many records there are.
    pub(super) fn count(&self) -> usize {
        let words = self
            .all()
            .flat_map(|bucket| (0..WAYS).map(move |way| bucket.word(way)));
        words.filter(|word| word.is_published()).count()
    }

    /// Frees what was claimed more than so many ticks before `tick` by an agent that is no more, and lets what was not used
    /// for long stay old. Of two records of one tag, of which programs may find none, one goes: a program of a former
    /// version may have published it beside one of these.
    pub(super) fn tend(&self, tick: u64, ticks: u64) {
        for bucket in self.all() {
            ways::clear(&bucket, tick, ticks);
            for way in 0..WAYS {
                let word = bucket.word(way);
                let is_double = |other| {
                    let other = bucket.word(other);
                    other.is_published() && other.tag() == word.tag()
                };
                if word.is_published() && (0..way).any(is_double) {
                    bucket.exchange(way, word, word.freed());
                    continue;
                }
                let held = word.held_back(tick);
                if word.is_published() && word != held {
                    // It fails if a program has touched it.
                    bucket.exchange(way, word, held);
                }
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = Bucket<'_>> {
        (0..self.buckets).filter_map(|index| self.at(index))
    }

    fn at(&self, index: u32) -> Option<Bucket<'_>> {
        let mut words = self.lines.as_slice().chunks_exact(WAYS);
        let mut records = self.records.as_slice().chunks_exact(WAYS * self.record);
        Some(Bucket {
            words: words.nth(opening::line(index) as usize)?,
            records: records.nth(index as usize)?,
            record: self.record,
        })
    }

    /// Passes every record to `take`. Those that come and go meanwhile may be missed.
    pub(super) fn for_each(
        &self,
        mut take: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut record = Vec::new();
        for bucket in self.all() {
            for way in 0..WAYS {
                if bucket.read(way, &mut record) {
                    take(&record[..KEY], &record[KEY_WORDS * WORD..])?;
                }
            }
        }
        Ok(())
    }

    /// The same for records of this layout.
    pub(super) fn for_each_flow(&self, mut take: impl FnMut(FlowKey, Flow)) {
        let taken = self.for_each(|key, value| {
            let key = bytemuck::pod_read_unaligned(key);
            take(key, bytemuck::pod_read_unaligned(value));
            Ok(())
        });
        debug_assert!(taken.is_ok(), "nothing above fails");
    }

    /// All records of this layout.
    #[must_use]
    pub fn records(&self) -> Vec<(FlowKey, Flow)> {
        let mut records = Vec::new();
        self.for_each_flow(|key, flow| records.push((key, flow)));
        records
    }

    /// The record of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (bucket, place) = self.bucket(key)?;
        bucket.find(key, place).map(|found| found.value)
    }

    /// The same, of this layout.
    #[must_use]
    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        let value = self.get(bytemuck::bytes_of(key))?;
        Some(bytemuck::pod_read_unaligned(&value))
    }

    /// Inserts or replaces a record of this layout; false if there is no room.
    pub fn insert(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.put(bytemuck::bytes_of(key), bytemuck::bytes_of(flow), Put::Any)
    }

    /// Inserts or replaces the record of a key; false if it is there and is to be left alone, or if there is no room.
    pub(super) fn put(&self, key: &[u8], value: &[u8], put: Put) -> bool {
        let Some((bucket, place)) = self.bucket(key) else {
            return false;
        };
        let tick = seen_tick(value);
        for _ in 0..TRIES {
            let write = |way| bucket.write(way, key, value);
            let inserted = ways::insert(&bucket, place.tag, tick, Displace::Nobody, write);
            match inserted.result {
                Ok(_) => return true,
                Err(Refused::There) => return matches!(put, Put::Any) && self.replace(key, value),
                Err(Refused::NoRoom) => {}
            }
            // In whatever order they come: what was seen later stays.
            if !bucket.make_room(tick) {
                return false;
            }
        }
        false
    }

    /// Replaces the record of a key if there is one; whether there was. In place, so that packets find one all the while: a
    /// program may see some of both.
    pub(super) fn replace(&self, key: &[u8], value: &[u8]) -> bool {
        let Some((bucket, place)) = self.bucket(key) else {
            return false;
        };
        let Some(found) = bucket.find(key, place) else {
            return false;
        };
        bucket.write(found.way, key, value);
        // What follows must not be read before all of that is seen: who claims the way after it writes over it.
        fence(SeqCst);
        // Else it has been displaced meanwhile, by somebody who may have written before this did, or still writes, for
        // which no program takes so long. A record that is written over is better gone.
        for _ in 0..YIELDS {
            let after = bucket.word(found.way);
            if after.is_claimed() {
                thread::yield_now();
            } else if found.word.is_same(after) {
                return true;
            } else if after.is_free() || ways::remove(&bucket, found.way, after) {
                break;
            }
        }
        false
    }

    /// The same for a record of this layout.
    pub fn replace_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.replace(bytemuck::bytes_of(key), bytemuck::bytes_of(flow))
    }

    /// Removes the record of a key.
    pub(super) fn remove(&self, key: &[u8]) {
        let Some((bucket, place)) = self.bucket(key) else {
            return;
        };
        // Programs may touch it at the same moment.
        while let Some(found) = bucket.find(key, place) {
            if ways::remove(&bucket, found.way, found.word) {
                break;
            }
        }
    }

    /// Removes the record of a key if `is_over` says so, and no program meets it at that moment; false if it stays.
    pub(super) fn remove_if(&self, key: &FlowKey, is_over: impl Fn(&Flow) -> bool) -> bool {
        let key = bytemuck::bytes_of(key);
        let Some((bucket, place)) = self.bucket(key) else {
            return true;
        };
        let Some(found) = bucket.find(key, place) else {
            return true;
        };
        is_over(&bytemuck::pod_read_unaligned(&found.value))
            && ways::remove(&bucket, found.way, found.word)
    }

    /// Removes the record of a key of this layout.
    pub fn forget(&self, key: &FlowKey) {
        self.remove(bytemuck::bytes_of(key));
    }

    /// Forgets everything; no program may insert meanwhile.
    pub fn clear(&self) {
        for bucket in self.all() {
            for way in 0..WAYS {
                let word = bucket.word(way);
                if !word.is_free() {
                    bucket.exchange(way, word, word.freed());
                }
            }
        }
    }

    fn bucket(&self, key: &[u8]) -> Option<(Bucket<'_>, Place)> {
        let hash = opening::hash(&bytemuck::pod_read_unaligned(key), self.seed);
        let place = Place::of(hash, self.buckets);
        Some((self.at(place.bucket)?, place))
    }
}

/// Removes the pin of records that have no words, or of words without records, which a first start or an end has left that was
/// cut short: nobody knows whose records they are.
pub(super) fn settle(pins: &Pins) -> Result<(), Error> {
    let both = [OPENING, OPENING_WORDS].map(|map| pins.map(map));
    if both.iter().all(|path| path.exists()) {
        return Ok(());
    }
    for path in both {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File {
                    action: "remove",
                    path,
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What programs look keys up by in the map among `pins`; if there is none, or if it is new, in the one among `earlier` ones:
/// what had room there has room in a new map of the same size.
pub(super) fn seed(pins: &Pins, earlier: &Pins) -> Result<u64, Error> {
    for pins in [pins, earlier] {
        let there = Opening::open(&pins.map(OPENING))?;
        if let Some(seed) = there.map(|opening| opening.seed).filter(|seed| *seed != 0) {
            return Ok(seed);
        }
    }
    // Nobody is to know which keys have a bucket in common.
    Ok(RandomState::new().hash_one(0) | 1)
}

/// The same of the map that is pinned at `path`; 0 if there is none.
pub(super) fn pinned_seed(path: &Path) -> Result<u64, Error> {
    Ok(Opening::open(path)?.map_or(0, |opening| opening.seed))
}

/// Notes it there.
pub(super) fn set_seed(pins: &Pins, seed: u64) -> Result<(), Error> {
    if let Some(word) = Opening::pinned(pins)?.lines.as_slice().first() {
        word.store(seed, Release);
    }
    Ok(())
}

/// When a packet of the flow was seen last, whose record this is.
fn seen_tick(value: &[u8]) -> u64 {
    bytemuck::try_pod_read_unaligned(value).map_or(0, |flow: Flow| flow.seen_tick)
}

/// A record that was found.
struct Found {
    way: usize,
    /// What stood beside it before it was read.
    word: Word,
    value: Vec<u8>,
}

/// A bucket as programs change it.
struct Bucket<'a> {
    words: &'a [AtomicU64],
    records: &'a [AtomicU64],
    /// Words of a record.
    record: usize,
}

impl Bucket<'_> {
    fn record(&self, way: usize) -> &[AtomicU64] {
        &self.records[way * self.record..][..self.record]
    }

    /// Removes the record that was seen first, if that was before `tick`; false if none was.
    fn make_room(&self, tick: u64) -> bool {
        let mut record = Vec::new();
        let mut seen = |way| {
            let word = self.word(way);
            let is_there = self.read(way, &mut record);
            is_there.then(|| (seen_tick(&record[KEY_WORDS * WORD..]), way, word))
        };
        let first = (0..WAYS)
            .filter_map(&mut seen)
            .min_by_key(|(seen, ..)| *seen);
        first.is_some_and(|(seen, way, word)| seen < tick && ways::remove(self, way, word))
    }

    /// The record of a key.
    fn find(&self, key: &[u8], place: Place) -> Option<Found> {
        let (way, word) = ways::find(self, place.tag)?;
        let mut record = Vec::new();
        let is_it = self.read(way, &mut record) && record[..KEY] == *key;
        is_it.then(|| Found {
            way,
            word,
            value: record.split_off(KEY_WORDS * WORD),
        })
    }

    /// Reads what a way holds; false if it is nobody's, or changes its owner meanwhile.
    fn read(&self, way: usize, record: &mut Vec<u8>) -> bool {
        let before = self.word(way);
        if !before.is_published() {
            return false;
        }
        record.clear();
        for shared in self.record(way) {
            record.extend(shared.load(Relaxed).to_ne_bytes());
        }
        fence(Acquire);
        let after = self.word(way);
        after.is_published() && before.is_same(after)
    }

    fn write(&self, way: usize, key: &[u8], value: &[u8]) {
        let mut words = [0; KEY_WORDS * WORD];
        words[..KEY].copy_from_slice(key);
        let words = words.chunks_exact(WORD).chain(value.chunks_exact(WORD));
        let shared = self.record(way).iter().zip(words).enumerate();
        // Whose a record is comes last: one that only keeps a port is nobody's, until all the rest of it is there.
        for is_client in [false, true] {
            let part = shared.clone();
            for (_, (shared, word)) in part.filter(|(at, _)| CLIENT.contains(at) == is_client) {
                shared.store(bytemuck::pod_read_unaligned(word), Release);
            }
        }
    }
}

impl ways::Words<WAYS> for Bucket<'_> {
    fn word(&self, way: usize) -> Word {
        Word(self.words[way].load(Acquire))
    }

    fn exchange(&self, way: usize, from: Word, to: Word) -> bool {
        fence(SeqCst);
        let result = self.words[way].compare_exchange(from.0, to.0, SeqCst, SeqCst);
        fence(SeqCst);
        result.is_ok()
    }

    fn store(&self, way: usize, _: Word, to: Word) -> bool {
        self.words[way].store(to.0, Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr, os::fd::OwnedFd};

    use bytemuck::{Zeroable as _, bytes_of};
    use lb_common::{flow::opening::Record, maps::Kind};
    use nix::{
        sys::memfd::{MFdFlags, memfd_create},
        unistd::ftruncate,
    };

    use super::*;

    fn memory(len: usize) -> OwnedFd {
        let memory = memfd_create("opening", MFdFlags::empty()).unwrap();
        ftruncate(&memory, len.try_into().unwrap()).unwrap();
        memory
    }

    fn spec(records: u32) -> MapSpec {
        MapSpec::new::<u32, Record>(OPENING, Kind::Array, records as usize)
    }

    fn opening(buckets: u32) -> Opening {
        let spec = spec(buckets * WAYS as u32);
        let records = memory(spec.max_entries as usize * spec.value_size as usize);
        let count = opening::lines(spec.max_entries);
        let lines = memory(count as usize * size_of::<Line>());
        Opening::new(records.as_fd(), &spec, lines.as_fd(), count).unwrap()
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
            seen_tick: number.into(),
            ..Flow::zeroed()
        }
    }

    fn all(opening: &Opening) -> BTreeMap<FlowKey, Flow> {
        opening.records().into_iter().collect()
    }

    #[test]
    fn it_has_what_was_inserted_and_not_what_was_removed() {
        let opening = opening(64);
        let there: BTreeMap<_, _> = (1..=40).map(|number| (key(number), flow(number))).collect();
        for (key, flow) in &there {
            assert!(opening.insert(key, flow));
            assert_eq!(opening.flow(key), Some(*flow));
        }
        assert_eq!(all(&opening), there);
        assert_eq!(opening.count(), 40);
        let put = |put| opening.put(bytes_of(&key(1)), bytes_of(&flow(99)), put);
        assert!(!put(Put::IfAbsent));
        assert_eq!(opening.flow(&key(1)), Some(flow(1)));
        assert!(put(Put::Any));
        assert_eq!(opening.flow(&key(1)), Some(flow(99)));
        opening.forget(&key(1));
        opening.forget(&key(1));
        assert_eq!(opening.flow(&key(1)), None);
        assert!(!opening.replace_flow(&key(1), &flow(1)));
        assert_eq!(opening.count(), 39);
        opening.clear();
        assert_eq!(all(&opening).len(), 0);
    }

    #[test]
    fn those_that_were_seen_first_make_room_in_whatever_order_they_come() {
        let left = |numbers: Vec<u16>| {
            let opening = opening(2);
            let insert = |number: &&u16| opening.insert(&key(**number), &flow(**number));
            let inserted = numbers.iter().filter(insert).count();
            (inserted, all(&opening).into_keys().collect::<Vec<_>>())
        };
        let (forwards, there) = left((1..1000).collect());
        assert_eq!((forwards, there.len()), (999, 2 * WAYS));
        // Chance fills a bucket with eight newer ones before long.
        assert!(there.iter().all(|key| key.src_port > 900));
        assert_eq!(left((1..1000).rev().collect()), (2 * WAYS, there));
    }

    #[test]
    fn record_is_removed_only_if_it_is_over() {
        let opening = opening(1);
        assert!(opening.insert(&key(1), &flow(1)));
        assert!(!opening.remove_if(&key(1), |flow| flow.seen_tick > 1));
        assert_eq!(opening.count(), 1);
        assert!(opening.remove_if(&key(1), |flow| flow.seen_tick == 1));
        assert_eq!(opening.count(), 0);
        assert!(opening.remove_if(&key(1), |_| false), "it has gone");
    }

    /// The former version's programs revoke what these have made firm.
    #[test]
    fn of_two_records_of_one_tag_one_goes() {
        let opening = opening(1);
        assert!(opening.insert(&key(1), &flow(1)) && opening.insert(&key(2), &flow(2)));
        let bucket = opening.all().next().unwrap();
        let (_, place) = opening.bucket(bytes_of(&key(1))).unwrap();
        let (_, word) = ways::find(&bucket, place.tag).unwrap();
        let is_free = |way: &usize| bucket.word(*way).is_free();
        let double = (0..WAYS).find(is_free).unwrap();
        bucket.write(double, bytes_of(&key(1)), bytes_of(&flow(1)));
        assert!(bucket.exchange(double, Word::FREE, word));
        assert_eq!(opening.count(), 3);
        opening.tend(0, u64::MAX);
        assert_eq!(opening.count(), 2);
        assert_eq!(opening.flow(&key(1)), Some(flow(1)));
        assert_eq!(opening.flow(&key(2)), Some(flow(2)));
    }

    /// In an old one's stead, and not in that of one that was used half an hour later.
    #[test]
    fn what_was_not_used_for_long_goes_before_what_came_later_however_long_it_was() {
        let opening = opening(1);
        for number in 1..=WAYS as u16 {
            assert!(opening.insert(&key(number), &flow(number)));
        }
        let bucket = opening.all().next().unwrap();
        let (_, place) = opening.bucket(bytes_of(&key(7))).unwrap();
        // As a program does with each packet of this connection, but for the last minute.
        for tick in (0..2_000_000).step_by(30_000) {
            let (way, word) = ways::find(&bucket, place.tag).unwrap();
            ways::touch(&bucket, way, word, tick);
            opening.tend(tick + 60_000, u64::MAX);
        }
        for number in 20..27 {
            let (_, place) = opening.bucket(bytes_of(&key(number))).unwrap();
            let (first, write) = (Displace::First, |_| {});
            let inserted = ways::insert(&bucket, place.tag, 2_100_000, first, write);
            assert!(inserted.has_displaced);
        }
        assert!(opening.flow(&key(7)).is_some());
    }

    #[test]
    fn ports_that_are_reserved_become_whole_records_or_stay_reserved() {
        let opening = opening(1);
        let reserved = Flow {
            client: Addr::UNSPECIFIED,
            ..flow(1)
        };
        assert!(opening.insert(&key(1), &reserved));
        let whole = Flow {
            client: Ipv4Addr::LOCALHOST.into(),
            snat: Ipv4Addr::LOCALHOST.into(),
            ..flow(1)
        };
        assert!(opening.replace_flow(&key(1), &whole));
        assert_eq!(opening.flow(&key(1)), Some(whole));
        let record = bytes_of(&whole);
        let at = |word: usize| &record[(word - KEY_WORDS) * WORD..][..WORD];
        let client: Vec<u8> = CLIENT.flat_map(at).copied().collect();
        assert_eq!(client, whole.client.octets);
    }

    /// An agent was killed in the midst of an insertion.
    #[test]
    fn what_was_claimed_and_not_published_is_freed_later() {
        let opening = opening(1);
        let (bucket, place) = opening.bucket(bytes_of(&key(7))).unwrap();
        let claimed = Word::FREE.claimed(place.tag, 100);
        assert!(bucket.exchange(3, Word::FREE, claimed));
        assert!(!opening.insert(&key(7), &flow(7)));
        opening.tend(200, 100);
        assert!(
            !opening.insert(&key(7), &flow(7)),
            "it may be written still"
        );
        opening.tend(201, 100);
        assert!(opening.insert(&key(7), &flow(7)));
    }

    #[test]
    fn arrays_that_do_not_belong_together_are_refused() {
        let memory = memory(1 << 16);
        let open = |spec: &MapSpec, count| {
            Opening::new(memory.as_fd(), spec, memory.as_fd(), count).is_ok()
        };
        assert!(open(&spec(16), 3));
        assert!(!open(&spec(16), 2));
        let words = MapSpec::new::<u32, u64>(OPENING, Kind::Array, 16);
        assert!(!open(&words, 3));
    }
}
