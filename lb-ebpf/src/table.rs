//! The store of flows in one array (`lb_common::flow::table`), instead of two hash maps.
//!
//! Whoever loads the programs says which it is. What is not used costs nothing: the verifier removes it.

use core::{hint::black_box, ptr};

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use lb_common::{
    Flow, FlowKey,
    flow::{
        confirmed,
        table::{Record, hash},
    },
    ways::{self, Displace, Place, Refused, Tag, Word},
};

use crate::{
    bucket::Shared,
    maps::{FLOW_BUCKETS, FLOW_SEED, FLOW_TABLE},
};

/// A record that may be displaced is noted to be in use once in so many ticks: 0.26 s to 2.6 s.
const TOUCH_TICKS: u64 = 256;

/// So often somebody is looked for who inserts the same at this moment. He needs a hundred nanoseconds, and longer where
/// something interrupts him.
const WAITS: u32 = 16;
/// Readings of the clock in between: half a microsecond.
const READINGS: u32 = 16;

/// What came of an exchange.
const DONE: u32 = 0;
const ABSENT: u32 = 1;
const AGAIN: u32 = 2;

/// Whether flows are here.
#[inline(always)]
pub(crate) fn is_used() -> bool {
    FLOW_BUCKETS.load() != 0
}

#[inline(always)]
fn bucket(key: &FlowKey) -> Option<(Shared<Record>, Tag)> {
    let place = Place::of(hash(key, FLOW_SEED.load()), FLOW_BUCKETS.load());
    let bucket = FLOW_TABLE.get_ptr_mut(place.bucket)?;
    Some((Shared::new(bucket), place.tag))
}

#[inline(always)]
fn find(key: &FlowKey) -> Option<(Shared<Record>, usize, Word)> {
    let (bucket, tag) = bucket(key)?;
    let (way, word) = ways::find(&bucket, tag)?;
    // SAFETY: the pointer was checked. A record that becomes another one's meanwhile is refused by the owner check.
    let record = unsafe { &*bucket.record(way) };
    record.is_of(key).then_some((bucket, way, word))
}

#[inline(always)]
fn tick() -> u64 {
    // SAFETY: takes no argument and has no effect.
    unsafe { bpf_jiffies64() }
}

/// The record of a key.
#[inline(always)]
pub(crate) fn look_up(key: &FlowKey) -> Option<*mut Flow> {
    let flow = at(key);
    (!flow.is_null()).then_some(flow)
}

/// Out of line, as all that follows: the stack of all calls together is small.
#[inline(never)]
fn at(key: &FlowKey) -> *mut Flow {
    let Some((bucket, way, word)) = find(key) else {
        return ptr::null_mut();
    };
    if !word.is_kept() && word.is_older(tick(), TOUCH_TICKS) {
        ways::touch(&bucket, way, word, tick());
    }
    // SAFETY: the pointer was checked.
    unsafe { &raw mut (*bucket.record(way)).flow }
}

/// Inserts the record of an opening flow unless its key is there. False if it is, or if there is no room.
#[inline(always)]
pub(crate) fn insert_if_absent(key: &FlowKey, flow: &Flow) -> bool {
    let Some((bucket, tag)) = bucket(key) else {
        return false;
    };
    let inserted = insert_into(bucket, tag, tick(), key, flow);
    if inserted == AGAIN {
        wait_for_another(bucket, tag);
    }
    inserted == DONE
}

#[inline(never)]
fn insert_into(bucket: Shared<Record>, tag: Tag, tick: u64, key: &FlowKey, flow: &Flow) -> u32 {
    let write = |way| write(bucket.record(way), key, flow);
    match ways::insert(&bucket, tag, tick, Displace::First, write).result {
        Ok(_) => DONE,
        Err(Refused::There) => AGAIN,
        Err(Refused::NoRoom) => ABSENT,
    }
}

#[inline(never)]
fn write(record: *mut Record, key: &FlowKey, flow: &Flow) {
    // SAFETY: the pointer was checked, and the way is this program's until it is published.
    unsafe { (*record).write(key, flow) };
}

/// Waits until whoever inserts the same tag has published it, so that the packet can go on by that.
#[inline(never)]
fn wait_for_another(bucket: Shared<Record>, tag: Tag) {
    for _ in 0..WAITS {
        if ways::find(&bucket, tag).is_some() {
            break;
        }
        for _ in 0..READINGS {
            // SAFETY: takes no argument and has no effect.
            black_box(unsafe { bpf_ktime_get_ns() });
        }
    }
}

/// Keeps a record from being displaced. False if there is none.
#[inline(always)]
pub(crate) fn promote(key: &FlowKey) -> bool {
    let done = keep(key);
    // Somebody has touched it, or removed it.
    done == DONE || done == AGAIN && keep(key) == DONE
}

#[inline(never)]
fn keep(key: &FlowKey) -> u32 {
    let Some((bucket, way, word)) = find(key) else {
        return ABSENT;
    };
    if !ways::keep(&bucket, way, word) {
        return AGAIN;
    }
    // SAFETY: the pointer was checked.
    unsafe { (*bucket.record(way)).flow.confirmed = confirmed::YES };
    DONE
}

/// Removes a record; one that is kept only if `may_be_kept`.
#[inline(always)]
pub(crate) fn remove(key: &FlowKey, may_be_kept: bool) {
    if remove_once(key, may_be_kept) == AGAIN {
        remove_once(key, may_be_kept);
    }
}

#[inline(never)]
fn remove_once(key: &FlowKey, may_be_kept: bool) -> u32 {
    let Some((bucket, way, word)) = find(key) else {
        return ABSENT;
    };
    let stays = word.is_kept() && !may_be_kept;
    if stays || ways::remove(&bucket, way, word) {
        return DONE;
    }
    AGAIN
}
