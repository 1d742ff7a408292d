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
    known,
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
    find(key)
}

/// The same, or [`ELSEWHERE`] if `FLOWS` may have it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_find_alone(key: *const FlowKey) -> u64 {
    // SAFETY: as for `opening_find`.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return NONE;
    };
    if known::may_have_flow(key) {
        return ELSEWHERE;
    }
    find(key)
}

#[inline(always)]
fn find(key: &FlowKey) -> u64 {
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

/// What came of an insertion: the record is there; it is, and `FLOWS` may have one, too; it is not, for want of room; or
/// somebody else has, or inserts, that key.
const INSERTED: u64 = 0;
const UNSURE: u64 = 1;
const NO_ROOM: u64 = 2;
const RIVALLED: u64 = 3;

/// Inserts a record unless its key is there. As [`opening_find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_insert(key: *const FlowKey, flow: *const Flow) -> u64 {
    // SAFETY: as for `opening_find`.
    let (Some(key), Some(flow)) = (unsafe { (key.as_ref(), flow.as_ref()) }) else {
        return NO_ROOM;
    };
    let hash = hash(key);
    let way = match Claim(opening_begin(hash) as u32).result() {
        Ok(way) => way as u64,
        Err(Refused::There) => return RIVALLED,
        Err(Refused::NoRoom) => return NO_ROOM,
    };
    let Some(record) = record(hash, way) else {
        return NO_ROOM;
    };
    // SAFETY: the pointer was checked, and the way is this program's until it is published.
    unsafe { (*record).write(key, flow) };
    if !publish(hash, way) {
        return RIVALLED;
    }
    // Since its claim is firm, nobody else inserts the key, and who had promoted a record of it before is seen. Who promotes one at
    // this moment that was displaced under him may not be: then `FLOWS` has the key, too, and goes first.
    if known::may_have_flow(key) {
        UNSURE
    } else {
        INSERTED
    }
}

#[inline(always)]
fn publish(hash: u64, way: u64) -> bool {
    let Some((bucket, place)) = bucket(hash) else {
        return false;
    };
    ways::publish(&bucket, place.tag, way as usize % WAYS)
}

/// [`ways::begin`], as [`opening_find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_begin(hash: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return Claim::NONE.0.into();
    };
    let claim = || ways::claim(&bucket, place.tag, tick(), Displace::First);
    ways::begin_by(&bucket, place.tag, claim).0.into()
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

/// No element, either: `FLOWS` is to be asked first.
pub(crate) const ELSEWHERE: u64 = NONE - 1;

/// The record of a key.
#[inline(always)]
pub(crate) fn get(key: &FlowKey) -> Option<*mut Flow> {
    at(opening_find(key))
}

/// Which element the record of a key is, or [`ELSEWHERE`] if `FLOWS` may have it; for [`at`].
#[inline(always)]
pub(crate) fn find_alone(key: &FlowKey) -> u64 {
    opening_find_alone(key)
}

/// The record that was found, if one was.
#[inline(always)]
pub(crate) fn at(found: u64) -> Option<*mut Flow> {
    if found == NONE {
        return None;
    }
    let record = OPENING.get_ptr_mut(found as u32)?;
    // SAFETY: the pointer was checked.
    Some(unsafe { &raw mut (*record).flow })
}

/// What came of an insertion.
#[derive(PartialEq, Eq)]
pub(crate) enum Inserted {
    Yes,
    /// `FLOWS` may have a record of that key, too.
    Unsure,
    /// The key is there, or too many want its bucket.
    No,
}

/// Inserts a record unless its key is there.
#[inline(always)]
pub(crate) fn insert(key: &FlowKey, flow: &Flow) -> Inserted {
    match opening_insert(key, flow) {
        INSERTED => Inserted::Yes,
        UNSURE => Inserted::Unsure,
        RIVALLED => {
            opening_wait(key);
            Inserted::No
        }
        _ => Inserted::No,
    }
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
