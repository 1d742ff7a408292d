//! Frontends, without a call of the kernel where they are listed.

use core::ptr;

use lb_common::{
    Frontend, FrontendKey,
    frontend::index::{Bucket, Place, Reference, flags},
};

use crate::maps::{CONFIG, FRONTEND_COPIES, FRONTEND_INDEX, FRONTENDS};

/// What `FRONTENDS` says about `key`.
#[inline(always)]
pub(crate) fn frontend(key: &FrontendKey) -> Option<Frontend> {
    let buckets = CONFIG.load().frontend_buckets;
    if buckets == 0 {
        return ask(key);
    }
    let place = Place::of(key, buckets);
    let Some(bucket) = FRONTEND_INDEX.get_ptr(place.bucket) else {
        return ask(key);
    };
    match find(bucket, place.tag) {
        Some(reference) => match FRONTEND_COPIES.get(reference.index()) {
            // Never changed while it is referred to, nor in the second after that.
            Some(listed) if listed.is_of(key) => Some(listed.frontend),
            _ => ask(key),
        },
        None if word(bucket, 0) & flags::SPILLED != 0 => ask(key),
        None => None,
    }
}

/// The reference with this tag.
#[inline(always)]
fn find(bucket: *const Bucket, tag: u32) -> Option<Reference> {
    (1..Bucket::WORDS)
        .map(|at| Reference(word(bucket, at)))
        .find(|reference| reference.has(tag))
}

/// A word as it is now: the agent may exchange it at any time.
#[inline(always)]
fn word(bucket: *const Bucket, at: usize) -> u64 {
    // SAFETY: the pointer was checked, map memory outlives the program's run, and there are so many words.
    unsafe { ptr::read_volatile((&raw const (*bucket).words).cast::<u64>().add(at)) }
}

#[inline(always)]
fn ask(key: &FrontendKey) -> Option<Frontend> {
    // SAFETY: copied at once. An element recycled meanwhile is told by its table's header.
    unsafe { FRONTENDS.get(key) }.copied()
}
