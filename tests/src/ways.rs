//! A table of the lab's programs (`lb-ebpf/src/lab/ways.rs`), and all who change it at once.

use std::{
    array,
    collections::BTreeSet,
    os::fd::AsFd as _,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Map, PerCpuArray, PerCpuValues},
    programs::Xdp,
};
use bytemuck::{Pod, Zeroable};
use lb_agent::object;
use lb_common::ways::{self, Displace, Place, Word, Words};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::mapped::Mapped;

/// Records of a bucket.
const WAYS: usize = 8;
/// Words of a record.
const RECORD: usize = 21;
/// Words of it that are the key.
const KEY: usize = 6;
/// What each processor is told.
pub(crate) const HAMMERS: &str = "WAYS_HAMMER";
/// The program that does something by chance.
const HAMMER: &str = "lab_xdp_ways_hammer";
const XDP_TX: u32 = 3;
/// The shortest frame.
const FRAME: [u8; 14] = [0; 14];

/// What one of them does to the table, and has met; as the programs have it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Hammer {
    state: u64,
    mask: u64,
    buckets: u32,
    pad: u32,
    /// Records that it has published,
    pub published: u64,
    /// displaced,
    pub displaced: u64,
    /// and removed.
    pub removed: u64,
    /// Insertions of what was there,
    pub there: u64,
    /// and without room,
    pub no_room: u64,
    /// and those that were refused when they had displaced somebody already: another one was at the same.
    pub raced: u64,
    /// Records that were read as a whole,
    pub read: u64,
    /// and those of them that were not of one piece.
    pub torn: u64,
}

impl Hammer {
    fn new(seed: u64, buckets: u32, mask: u64) -> Self {
        Self {
            state: hash(seed) | 1,
            mask,
            buckets,
            ..Self::default()
        }
    }
}

/// Tells each processor how many buckets there are, and gives it its own chance.
pub(crate) fn tell_processors(map: &mut Map, buckets: u32, mask: u64) -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let hammers = (1..=cpus as u64).map(|seed| Raw(Hammer::new(seed, buckets, mask)));
    let all = PerCpuValues::try_from(hammers.collect::<Vec<Raw>>())?;
    let mut map: PerCpuArray<_, Raw> = map.try_into()?;
    map.set(0, all, 0).context("write WAYS_HAMMER")
}

/// What the processors have done.
pub(crate) fn processors(map: &mut Map) -> Result<Vec<Hammer>> {
    let hammers: PerCpuArray<_, Raw> = map.try_into()?;
    let all = hammers.get(&0, 0).context("read WAYS_HAMMER")?;
    Ok(all.iter().map(|raw| raw.0).collect())
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw(Hammer);

// SAFETY: `bytemuck::Pod` is all that is asked, and `Raw` has the layout of its only field.
unsafe impl aya::Pod for Raw {}

/// A bucket, as programs change it.
struct Bucket<'a> {
    words: &'a [AtomicU64],
    records: &'a [AtomicU64],
}

impl Bucket<'_> {
    fn record(&self, way: usize) -> &[AtomicU64] {
        &self.records[way * RECORD..][..RECORD]
    }

    fn write(&self, way: usize, key: u64, number: u64) {
        for (at, word) in self.record(way).iter().enumerate() {
            word.store(content(key, number, at), Relaxed);
        }
    }

    /// The key of a record, if all of it belongs together.
    fn key(&self, way: usize) -> Option<u64> {
        let record: [u64; RECORD] = array::from_fn(|at| self.record(way)[at].load(Relaxed));
        let (key, number) = (record[0], record[KEY]);
        let is_whole = (0..RECORD).all(|at| record[at] == content(key, number, at));
        is_whole.then_some(key)
    }
}

impl Words<WAYS> for Bucket<'_> {
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

/// The same as that of the programs.
fn content(key: u64, number: u64, at: usize) -> u64 {
    if at < KEY { key + at as u64 } else { number }
}

/// The same as that of the programs.
fn hash(key: u64) -> u64 {
    let product = (key ^ key >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (product ^ product >> 32).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// What a look at the whole table has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Records that are there.
    pub present: u64,
    /// Records that were not of one piece, or not where they belong, though nobody exchanged them meanwhile.
    pub torn: u64,
    /// Records whose tag stood in another way at the same moment.
    pub doubled: u64,
    /// Ways that were claimed.
    pub claimed: u64,
}

/// The table.
#[derive(Debug)]
pub struct Table {
    ebpf: Ebpf,
    words: Mapped<u64>,
    records: Mapped<u64>,
    mask: u64,
    buckets: u32,
}

impl Table {
    /// Loads the programs for a table of so many buckets, and for keys below a power of two. `stores_in_order` says whether
    /// they may rely on it that processors see each other's stores in order.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load(buckets: u32, keys: u64, stores_in_order: bool) -> Result<Self> {
        ensure!(keys.is_power_of_two(), "{keys} is no power of two");
        let stores_in_order = u32::from(stores_in_order);
        let mut ebpf = EbpfLoader::new()
            .override_global("STORES_IN_ORDER", &stores_in_order, true)
            .map_max_entries("WAYS_WORDS", buckets)
            .map_max_entries("WAYS_TABLE", buckets * WAYS as u32)
            .load(object::LAB)
            .context("load the lab's object")?;
        let program: &mut Xdp = ebpf.program_mut(HAMMER).context(HAMMER)?.try_into()?;
        program.load().context(HAMMER)?;
        let ways = buckets as usize * WAYS;
        let mut table = Self {
            words: mapped(&ebpf, "WAYS_WORDS", ways)?,
            records: mapped(&ebpf, "WAYS_TABLE", ways * RECORD)?,
            ebpf,
            mask: keys - 1,
            buckets,
        };
        tell_processors(table.map()?, buckets, keys - 1)?;
        Ok(table)
    }

    fn map(&mut self) -> Result<&mut Map> {
        self.ebpf.map_mut(HAMMERS).context("no WAYS_HAMMER")
    }

    /// One who begins at another point.
    #[must_use]
    pub fn hammer(&self, seed: u64) -> Hammer {
        Hammer::new(seed, self.buckets, self.mask)
    }

    /// What the processors have done.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn processors(&mut self) -> Result<Vec<Hammer>> {
        processors(self.map()?)
    }

    /// Does something by chance so many times, on one processor.
    ///
    /// # Errors
    /// When it is not ours, or the program fails.
    pub fn run_on(&self, cpu: usize, operations: u32) -> Result<()> {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &only)
            .with_context(|| format!("run on processor {cpu}"))?;
        let program: &Xdp = self.ebpf.program(HAMMER).context(HAMMER)?.try_into()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(&FRAME),
            repeat: operations,
            ..TestRunOptions::default()
        });
        let verdict = result.context(HAMMER)?.return_value;
        ensure!(verdict == XDP_TX, "{HAMMER}: verdict {verdict}");
        Ok(())
    }

    fn bucket(&self, index: u32) -> Bucket<'_> {
        let index = index as usize;
        Bucket {
            words: &self.words.words()[index * WAYS..][..WAYS],
            records: &self.records.words()[index * WAYS * RECORD..][..WAYS * RECORD],
        }
    }

    /// Inserts or removes a key by chance, by the same rules as the programs.
    pub fn strike(&self, hammer: &mut Hammer, random: &mut fastrand::Rng) {
        let key = random.u64(..) & hammer.mask;
        let place = Place::of(hash(key), hammer.buckets);
        let bucket = self.bucket(place.bucket);
        if random.bool() {
            let (number, tick) = (random.u64(..), random.u64(..));
            let write = |way| bucket.write(way, key, number);
            let insertion = ways::insert(&bucket, place.tag, tick, Displace::First, write);
            hammer.published += u64::from(insertion.result.is_ok());
            hammer.displaced += u64::from(insertion.has_displaced);
        } else if let Some((way, word)) = ways::find(&bucket, place.tag) {
            hammer.removed += u64::from(ways::remove(&bucket, way, word));
        }
    }

    /// Looks at all of it, while others change it.
    #[must_use]
    pub fn look(&self) -> Seen {
        let mut seen = Seen::default();
        for index in 0..self.buckets {
            self.look_at(index, &mut seen);
        }
        seen
    }

    fn look_at(&self, index: u32, seen: &mut Seen) {
        let bucket = self.bucket(index);
        let words: [Word; WAYS] = array::from_fn(|way| bucket.word(way));
        let mut tags = BTreeSet::new();
        for (way, word) in words.into_iter().enumerate() {
            seen.claimed += u64::from(word.is_claimed());
            if !word.is_published() {
                continue;
            }
            let key = bucket.key(way);
            fence(Acquire);
            if bucket.word(way) != word {
                continue;
            }
            seen.present += 1;
            let belongs_here = key.is_some_and(|key| {
                let place = Place::of(hash(key), self.buckets);
                place.bucket == index && word.has(place.tag)
            });
            seen.torn += u64::from(!belongs_here);
            // All that is compared here was there when this loop began.
            seen.doubled += u64::from(!tags.insert(word.tag()));
        }
    }
}

/// The words of an array.
fn mapped(ebpf: &Ebpf, name: &str, len: usize) -> Result<Mapped<u64>> {
    let Some(Map::Array(array)) = ebpf.map(name) else {
        return Err(anyhow!("{name} is no array"));
    };
    Mapped::new(array.fd().as_fd(), len).with_context(|| format!("map {name}"))
}
