//! A table of flows in one array (`lb_common::ways`): what an operation costs beside those of hash maps with the
//! same keys and values, and what becomes of the table where processors do not spare each other.

use core::ptr;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_TX},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    helpers::generated::bpf_jiffies64,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    flow::opening::{self, Line},
    ways::{self, Displace, Place, Refused, Words as _},
};

use crate::bucket::{Shared, WAYS};

/// Words of a record: as long as key and value of a flow.
const RECORD: usize = 21;
/// Words of it that are the key.
const KEY: usize = 6;

/// `BPF_F_MMAPABLE`.
const MMAPABLE: usize = 1 << 10;

/// Whoever loads it says how many there are: `Hammer::buckets`.
#[btf_map]
static WAYS_WORDS: Array<Line, 1, MMAPABLE> = Array::new();
/// Their records.
#[btf_map]
static WAYS_TABLE: Array<[u64; RECORD], 1, MMAPABLE> = Array::new();

#[repr(C)]
#[derive(Clone, Copy)]
struct Key([u64; KEY]);

#[repr(C)]
#[derive(Clone, Copy)]
struct Value([u64; RECORD - KEY]);

/// What the table is held against.
#[btf_map]
static WAYS_HASH: HashMap<Key, Value, 1> = HashMap::new();
#[btf_map]
static WAYS_LRU: LruHashMap<Key, Value, 1> = LruHashMap::new();

/// What a processor does to the table, and what it has met: `lb_tests::ways::Hammer`.
#[repr(C)]
struct Hammer {
    /// Chance.
    state: u64,
    /// Keys are at most this: a power of two, less one.
    mask: u64,
    /// How many buckets there are.
    buckets: u32,
    pad: u32,
    /// Records that were published, displaced, and removed.
    published: u64,
    displaced: u64,
    removed: u64,
    /// Insertions of a key that was there, and without room.
    there: u64,
    no_room: u64,
    /// Insertions that were refused when their way was claimed already: somebody else was at the same.
    raced: u64,
    /// Records that were read as a whole, and those of them that were not of one piece.
    read: u64,
    torn: u64,
}

#[btf_map]
static WAYS_HAMMER: PerCpuArray<Hammer, 1> = PerCpuArray::new();

/// The words of a bucket.
#[inline(always)]
fn bucket(place: Place) -> Option<Shared> {
    WAYS_WORDS.get_ptr_mut(place.bucket).map(Shared::new)
}

/// The words of a record.
#[inline(always)]
fn words(place: Place, way: usize) -> Option<*mut u64> {
    let record = WAYS_TABLE.get_ptr_mut(opening::record(place.bucket, way % WAYS))?;
    Some(record.cast())
}

/// Makes a record that of a key; `number` tells it from others of the same.
#[inline(always)]
fn write(place: Place, way: usize, key: u64, number: u64) {
    let Some(record) = words(place, way) else {
        return;
    };
    for at in 0..RECORD {
        // SAFETY: the pointer was checked, and there are so many words.
        unsafe { ptr::write_volatile(record.add(at), content(key, number, at)) };
    }
}

/// Whether a record is that of a key.
#[inline(always)]
fn is_of(place: Place, way: usize, key: u64) -> bool {
    let Some(record) = words(place, way) else {
        return false;
    };
    let mut differ = 0;
    for at in 0..KEY {
        // SAFETY: as for `write`.
        differ |= unsafe { ptr::read_volatile(record.add(at)) } ^ content(key, 0, at);
    }
    differ == 0
}

/// Whether all of a record belongs together.
#[inline(always)]
fn is_whole(place: Place, way: usize, key: u64) -> bool {
    let Some(record) = words(place, way) else {
        return false;
    };
    // SAFETY: as for `write`.
    let number = unsafe { ptr::read_volatile(record.add(KEY)) };
    let mut differ = 0;
    for at in 0..RECORD {
        // SAFETY: as for `write`.
        differ |= unsafe { ptr::read_volatile(record.add(at)) } ^ content(key, number, at);
    }
    differ == 0
}

/// A word of a record: the key at first, then its number.
#[inline(always)]
fn content(key: u64, number: u64, at: usize) -> u64 {
    if at < KEY { key + at as u64 } else { number }
}

/// One round of splitmix64's kind, as `lb_common::hash` mixes.
#[inline(always)]
fn hash(key: u64) -> u64 {
    let product = (key ^ key >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (product ^ product >> 32).wrapping_mul(0x94d0_49bb_1331_11eb)
}

#[inline(always)]
fn tick() -> u64 {
    // SAFETY: takes no argument and has no effect.
    unsafe { bpf_jiffies64() }
}

/// This processor's part.
#[inline(always)]
fn hammer() -> Option<&'static mut Hammer> {
    let hammer = WAYS_HAMMER.get_ptr_mut(0)?;
    // SAFETY: the element is this CPU's own, and the lab does not write it while programs run.
    Some(unsafe { &mut *hammer })
}

/// Does something by chance to a key by chance.
#[xdp(frags)]
fn lab_xdp_ways_hammer(_: XdpContext) -> u32 {
    hammer().and_then(strike).map_or(XDP_ABORTED, |()| XDP_TX)
}

#[inline(always)]
fn strike(hammer: &mut Hammer) -> Option<()> {
    let mut state = hammer.state;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    hammer.state = state;
    let key = (state >> 8) & hammer.mask;
    let place = Place::of(hash(key), hammer.buckets);
    let bucket = bucket(place)?;
    if state & 8 != 0 {
        insert(hammer, &bucket, place, key, state);
        return Some(());
    }
    let Some((way, word)) = ways::find(&bucket, place.tag) else {
        return Some(());
    };
    if state & 4 != 0 {
        hammer.removed += u64::from(ways::remove(&bucket, way, word));
    } else if state & 3 == 0 {
        ways::touch(&bucket, way, word, tick());
    } else {
        let is_whole = is_whole(place, way, key);
        // What was read while it was exchanged does not count.
        if bucket.word(way) == word {
            hammer.read += 1;
            hammer.torn += u64::from(!is_whole);
        }
    }
    Some(())
}

#[inline(always)]
fn insert(hammer: &mut Hammer, bucket: &Shared, place: Place, key: u64, number: u64) {
    let displace = if number & 1 == 0 {
        Displace::First
    } else {
        Displace::Nobody
    };
    let write = |way| write(place, way, key, number);
    // Who comes at another time prefers another way: else all who insert the same choose the same.
    let insertion = ways::insert(bucket, place.tag, number >> 16, displace, write);
    hammer.displaced += u64::from(insertion.has_displaced);
    hammer.raced += u64::from(insertion.has_displaced && insertion.result.is_err());
    match insertion.result {
        Ok(_) => hammer.published += 1,
        Err(Refused::There) => hammer.there += 1,
        Err(Refused::NoRoom) => hammer.no_room += 1,
    }
}

/// One look-up in the table, by the flow.
#[xdp(frags)]
fn lab_xdp_ways_find(ctx: XdpContext) -> u32 {
    let find = |key| {
        let hammer = hammer()?;
        let place = Place::of(hash(key), hammer.buckets);
        let bucket = bucket(place)?;
        let found = ways::find(&bucket, place.tag);
        // One of a hundred has been displaced.
        let is_there = found.is_some_and(|(way, _)| is_of(place, way, key));
        hammer.read += u64::from(is_there);
        hammer.no_room += u64::from(!is_there);
        Some(())
    };
    done(super::reference::key(&ctx).and_then(find))
}

/// One insertion into the table, by the flow.
#[xdp(frags)]
fn lab_xdp_ways_insert(ctx: XdpContext) -> u32 {
    let insert = |key| {
        let place = Place::of(hash(key), hammer()?.buckets);
        let bucket = bucket(place)?;
        let write = |way| write(place, way, key, key);
        let insertion = ways::insert(&bucket, place.tag, tick(), Displace::First, write);
        // Whoever is there already has been inserted.
        (insertion.result != Err(Refused::NoRoom)).then_some(())
    };
    done(super::reference::key(&ctx).and_then(insert))
}

/// One look-up in a hash map with keys and values as long.
#[xdp(frags)]
fn lab_xdp_record_hash(ctx: XdpContext) -> u32 {
    let find = |key| WAYS_HASH.get_ptr(&long(key)).map(|_| ());
    done(super::reference::key(&ctx).and_then(find))
}

/// One insertion into such a hash map.
#[xdp(frags)]
fn lab_xdp_record_insert(ctx: XdpContext) -> u32 {
    let insert = |key| WAYS_HASH.insert(&long(key), &value(key), 0).ok();
    done(super::reference::key(&ctx).and_then(insert))
}

/// One insertion into an LRU hash map with keys and values as long.
#[xdp(frags)]
fn lab_xdp_record_lru(ctx: XdpContext) -> u32 {
    let insert = |key| WAYS_LRU.insert(&long(key), &value(key), 0).ok();
    done(super::reference::key(&ctx).and_then(insert))
}

#[inline(always)]
fn done(result: Option<()>) -> u32 {
    result.map_or(XDP_ABORTED, |()| XDP_TX)
}

#[inline(always)]
fn long(key: u64) -> Key {
    Key([key, key + 1, key + 2, key + 3, key + 4, key + 5])
}

#[inline(always)]
fn value(key: u64) -> Value {
    Value([key; RECORD - KEY])
}
