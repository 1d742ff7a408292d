//! Records of flows that are opening (`lb_common::flow::opening`).

use core::{hint::black_box, ptr};

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
const WAITS: u32 = 1024;
/// Readings of the clock in between: about a microsecond.
const READINGS: u32 = 32;
/// Nobody waits longer, in nanoseconds: where the clock is no register, a reading takes some microseconds.
const PATIENCE_NS: u64 = 1_000_000;

/// Out of line: the stack of all calls together is small.
#[inline(never)]
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
    OPENING.get_ptr_mut(opening::record(place(hash).bucket, way as usize % WAYS))
}

#[inline(always)]
fn tick() -> u64 {
    // SAFETY: takes no argument and has no effect.
    unsafe { bpf_jiffies64() }
}

/// The way of a key with this hash, or [`NONE`]. The verifier follows it once, and not once for each call: its
/// name is seen from outside, and it takes and returns numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_way(hash: u64) -> u64 {
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

/// A way for a key with this hash, which nobody else has: a `ways::Claim`. As [`opening_way`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_claim(hash: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return NONE;
    };
    ways::begin(&bucket, place.tag, tick(), Displace::First)
        .0
        .into()
}

/// Publishes it: 1, or 0 if it had to give way to somebody else. As [`opening_way`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_publish(hash: u64, way: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return 0;
    };
    ways::publish(&bucket, place.tag, way as usize % WAYS).into()
}

/// Frees it, if its record is published: 1 if it was, and was touched at this moment. As [`opening_way`].
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

/// No way.
const NONE: u64 = u32::MAX as u64;

/// The record of a key. Its parts, too, are out of line: the stack of all calls together is small.
#[inline(always)]
pub(crate) fn get(key: &FlowKey) -> Option<*mut Flow> {
    let flow = at(key);
    (!flow.is_null()).then_some(flow)
}

#[inline(never)]
fn at(key: &FlowKey) -> *mut Flow {
    let hash = hash(key);
    let way = opening_way(hash);
    if way == NONE {
        return ptr::null_mut();
    }
    record_of(key, hash, way)
}

/// That of a way, if it is of the key.
#[inline(never)]
fn record_of(key: &FlowKey, hash: u64, way: u64) -> *mut Flow {
    let Some(record) = record(hash, way) else {
        return ptr::null_mut();
    };
    // SAFETY: the pointer was checked. Others may write it at any time: see `kernel::in_place`.
    let record = unsafe { &mut *record };
    if record.is_of(key) {
        &raw mut record.flow
    } else {
        ptr::null_mut()
    }
}

/// Inserts a record unless its key is there. False if it is, or if too many want its bucket.
#[inline(always)]
pub(crate) fn insert(key: &FlowKey, flow: &Flow) -> bool {
    let hash = hash(key);
    let claim = Claim(opening_claim(hash) as u32);
    let way = match claim.result() {
        Ok(way) => way,
        Err(Refused::There) => {
            opening_wait(hash);
            return false;
        }
        Err(Refused::NoRoom) => return false,
    };
    let Some(record) = record(hash, way as u64) else {
        return false;
    };
    // SAFETY: the pointer was checked, and the way is this program's until it is published.
    unsafe { (*record).write(key, flow) };
    let is_published = opening_publish(hash, way as u64) != 0;
    if !is_published {
        opening_wait(hash);
    }
    is_published
}

/// Whether somebody inserts a key with this hash just now: 1, or 0. As [`opening_way`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_is_claimed(hash: u64) -> u64 {
    let Some((bucket, place)) = bucket(hash) else {
        return 0;
    };
    ways::is_claimed(&bucket, place.tag).into()
}

/// Waits until nobody inserts the same tag any more, so that the packet can go on by what he has published; 0 if that takes
/// too long. As [`opening_way`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn opening_wait(hash: u64) -> u64 {
    let begin = time_ns();
    for _ in 0..WAITS {
        if opening_is_claimed(hash) == 0 {
            return 1;
        }
        for _ in 1..READINGS {
            black_box(time_ns());
        }
        if time_ns().wrapping_sub(begin) > PATIENCE_NS {
            break;
        }
    }
    0
}

#[inline(always)]
fn time_ns() -> u64 {
    // SAFETY: takes no argument and has no effect.
    unsafe { bpf_ktime_get_ns() }
}

/// Removes a record; one that is not there is no error.
#[inline(never)]
pub(crate) fn remove(key: &FlowKey) {
    let hash = hash(key);
    let way = opening_way(hash);
    if way == NONE || record_of(key, hash, way).is_null() {
        return;
    }
    if opening_free(hash, way) != 0 {
        opening_free(hash, way);
    }
}
