//! Records of flows that are opening (`lb_common::flow::opening`).

use core::hint::black_box;

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use lb_common::{
    Flow, FlowKey,
    flow::opening::{self, Record},
    ways::{self, Claim, Displace, Place, Refused, Words as _},
};

use crate::{
    bucket::{Shared, WAYS},
    maps::{OPENING, OPENING_BUCKETS, OPENING_SEED, OPENING_WORDS},
};

/// A record is noted to be in use at most once in so many ticks: 4 ms to 40 ms, as many as there are in a second. So many
/// newcomers that its bucket is full of them do not come in between.
const TOUCH_TICKS: u64 = 4;

/// So often somebody is looked for who inserts the same at this moment. He needs a hundred nanoseconds, and longer where
/// his processor is taken from him, as a virtual machine's can be: all in all it is about a millisecond.
const WAITS: u32 = 64;
/// Readings of the clock in between, 30 nanoseconds each: at first, and at most.
const READINGS: (u32, u32) = (16, 512);
/// Nobody waits longer, in nanoseconds: where the clock is no register, a reading takes some microseconds.
const PATIENCE_NS: u64 = 1_000_000;

#[inline(always)]
fn hash(key: &FlowKey) -> u64 {
    opening::hash(key, OPENING_SEED.load())
}

#[inline(always)]
fn place(hash: u64) -> Place {
    Place::of(hash, OPENING_BUCKETS.load())
}

/// The words of its bucket, and what stands for it there.
#[inline(always)]
fn bucket(hash: u64) -> Option<(Shared, Place)> {
    let place = place(hash);
    let words = OPENING_WORDS.get_ptr_mut(opening::line(place.bucket))?;
    Some((Shared::new(words), place))
}

/// The record of a way.
#[inline(always)]
fn record(hash: u64, way: u64) -> Option<*mut Record> {
    OPENING.get_ptr_mut(index(hash, way))
}

/// Which element of `OPENING` it is.
#[inline(always)]
fn index(hash: u64, way: u64) -> u32 {
    opening::record(place(hash).bucket, way as usize % WAYS)
}

#[inline(always)]
fn tick() -> u64 {
    // SAFETY: takes no argument and has no effect.
    unsafe { bpf_jiffies64() }
}

/// Which element of `OPENING` the record of a key is, or [`NONE`]. The verifier follows it once, and not once for each
/// call: its name is seen from outside, and it takes pointers to what it knows the size of, and returns a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_find(key: *const FlowKey) -> u64 {
    // SAFETY: callers have a reference; the verifier believes that only where it is asked for.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return NONE;
    };
    let hash = hash(key);
    let way = way(hash);
    if way == NONE || !is_of(key, hash, way) {
        return NONE;
    }
    index(hash, way).into()
}

/// The way of a key with this hash, or [`NONE`].
#[inline(always)]
fn way(hash: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return NONE;
    };
    let Some((way, word)) = ways::find(&bucket, place.tag) else {
        return NONE;
    };
    if word.is_older(tick(), TOUCH_TICKS) {
        ways::touch(&bucket, way, word, tick());
    }
    way as u64
}

/// Whether the record of a way is of the key.
#[inline(always)]
fn is_of(key: &FlowKey, hash: u64, way: u64) -> bool {
    // SAFETY: the pointer was checked. Others may write it at any time: see `kernel::in_place`.
    record(hash, way).is_some_and(|record| unsafe { (*record).is_of(key) })
}

/// What came of an insertion: the record is there; it is not, for want of room; or somebody else has, or inserts, that key.
const INSERTED: u64 = 0;
const NO_ROOM: u64 = 1;
const RIVALLED: u64 = 2;

/// Inserts a record unless its key is there. As [`opening_find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_insert(key: *const FlowKey, flow: *const Flow) -> u64 {
    // SAFETY: as for `opening_find`.
    let (Some(key), Some(flow)) = (unsafe { (key.as_ref(), flow.as_ref()) }) else {
        return NO_ROOM;
    };
    let hash = hash(key);
    let way = match begin(hash).result() {
        Ok(way) => way as u64,
        Err(Refused::There) => return RIVALLED,
        Err(Refused::NoRoom) => return NO_ROOM,
    };
    let Some(record) = record(hash, way) else {
        return NO_ROOM;
    };
    // SAFETY: the pointer was checked, and the way is this program's until it is published.
    unsafe { (*record).write(key, flow) };
    if publish(hash, way) == 0 {
        return RIVALLED;
    }
    INSERTED
}

/// A way for a key with this hash, which nobody else has: a `ways::Claim`.
#[inline(always)]
fn begin(hash: u64) -> Claim {
    ways::begin_by(
        || Claim(opening_claim(hash) as u32),
        |way| opening_confirm(hash, way as u64) != 0,
    )
}

/// [`ways::claim`], as [`opening_find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_claim(hash: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return Claim::NONE.0.into();
    };
    ways::claim(&bucket, place.tag, tick(), Displace::First)
        .0
        .into()
}

/// [`ways::confirm`], as [`opening_find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_confirm(hash: u64, way: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return 0;
    };
    ways::confirm(&bucket, place.tag, way as usize % WAYS).into()
}

/// Publishes it: 1, or 0 if it had to give way to somebody else.
#[inline(always)]
fn publish(hash: u64, way: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return 0;
    };
    ways::publish(&bucket, place.tag, way as usize % WAYS).into()
}

/// Waits until nobody inserts the same tag any more, so that the packet can go on by what he has published, or until that takes
/// too long. Returns 0. As [`opening_find`], and so is what its loop calls.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_wait(key: *const FlowKey) -> u64 {
    // SAFETY: as for `opening_find`.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return 0;
    };
    let hash = hash(key);
    let (mut readings, most) = READINGS;
    let deadline = time_ns().wrapping_add(PATIENCE_NS);
    for _ in 0..WAITS {
        if opening_is_claimed(hash) == 0 || time_ns() > deadline {
            break;
        }
        opening_pause(readings);
        readings = (2 * readings).min(most);
    }
    0
}

/// Whether somebody inserts a key with this hash just now: 1, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_is_claimed(hash: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return 0;
    };
    ways::is_claimed(&bucket, place.tag).into()
}

/// Reads the clock so often. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_pause(readings: u32) -> u64 {
    for reading in 0..READINGS.1 {
        if reading >= readings {
            break;
        }
        black_box(time_ns());
    }
    0
}

/// Removes a record; one that is not there is no error. Returns 0. As [`opening_find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_remove(key: *const FlowKey) -> u64 {
    // SAFETY: as for `opening_find`.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return 0;
    };
    let hash = hash(key);
    let way = way(hash);
    if way == NONE || !is_of(key, hash, way) {
        return 0;
    }
    // Somebody may have touched it at this moment.
    if opening_free(hash, way) != 0 {
        opening_free(hash, way);
    }
    0
}

/// Frees a way, if its record is published: 1 if it was, and was touched at this moment.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_free(hash: u64, way: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return 0;
    };
    let way = way as usize % WAYS;
    let word = bucket.word(way);
    (word.has(place.tag) && !ways::remove(&bucket, way, word)).into()
}

/// No way, and no element.
const NONE: u64 = u32::MAX as u64;

/// The record of a key.
#[inline(always)]
pub(crate) fn get(key: &FlowKey) -> Option<*mut Flow> {
    let found = opening_find(key);
    if found == NONE {
        return None;
    }
    let record = OPENING.get_ptr_mut(found as u32)?;
    // SAFETY: the pointer was checked.
    Some(unsafe { &raw mut (*record).flow })
}

/// Inserts a record unless its key is there. False if it is, or if too many want its bucket.
#[inline(always)]
pub(crate) fn insert(key: &FlowKey, flow: &Flow) -> bool {
    let inserted = opening_insert(key, flow);
    if inserted == RIVALLED {
        opening_wait(key);
    }
    inserted == INSERTED
}

/// Removes a record; one that is not there is no error.
#[inline(always)]
pub(crate) fn remove(key: &FlowKey) {
    opening_remove(key);
}

#[inline(always)]
fn time_ns() -> u64 {
    // SAFETY: takes no argument and has no effect.
    unsafe { bpf_ktime_get_ns() }
}
