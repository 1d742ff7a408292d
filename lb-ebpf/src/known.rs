//! Which keys the maps of connections can have.

use core::{
    hint::black_box,
    intrinsics::{AtomicOrdering::SeqCst, atomic_or},
    ptr,
};

use lb_common::{
    FlowKey, PinKey,
    known::{ASKED, Point, Side},
};

use crate::maps::{KNOWN, KNOWN_WORDS};

/// Whether `FLOWS` can have a key.
#[inline(always)]
pub(crate) fn may_have_flow(key: &FlowKey) -> bool {
    let words = KNOWN_WORDS.load();
    may_have(Point::of_flow(key, words), words)
}

/// Whether `PINS` can have a key.
#[inline(always)]
pub(crate) fn may_have_pin(key: &PinKey) -> bool {
    let words = KNOWN_WORDS.load();
    may_have(Point::of_pin(key, words), words)
}

/// Notes that `FLOWS` is to have a key. To be called before it has it.
#[inline(always)]
pub(crate) fn note_flow(key: &FlowKey) {
    let words = KNOWN_WORDS.load();
    note(Point::of_flow(key, words), words);
}

/// Notes that `PINS` is to have a key. To be called before it has it.
#[inline(always)]
pub(crate) fn note_pin(key: &PinKey) {
    let words = KNOWN_WORDS.load();
    note(Point::of_pin(key, words), words);
}

#[inline(always)]
fn may_have(point: Point, words: u32) -> bool {
    // Before the first word is read: what it is made of takes more of the small stack.
    let point = black_box(point);
    let Some(side) = word(ASKED).and_then(|name| Side::named_by(read(name))) else {
        return true;
    };
    word(point.index(side, words)).is_none_or(|word| read(word) & point.mask != 0)
}

#[inline(always)]
fn note(point: Point, words: u32) {
    set(point.index(Side::Left, words), point.mask);
    set(point.index(Side::Right, words), point.mask);
}

#[inline(always)]
fn set(index: u32, mask: u64) {
    if let Some(word) = word(index)
        // The line is other CPUs', too.
        && read(word) & mask == 0
    {
        // SAFETY: the pointer was checked, map memory outlives the program's run, and words are aligned.
        unsafe { atomic_or::<u64, u64, { SeqCst }>(word, mask) };
    }
}

#[inline(always)]
fn word(index: u32) -> Option<*mut u64> {
    KNOWN.get_ptr_mut(index)
}

/// The word as it is now: other CPUs and the agent change it at any time.
#[inline(always)]
fn read(word: *mut u64) -> u64 {
    // SAFETY: the pointer was checked, and map memory outlives the program's run.
    unsafe { ptr::read_volatile(word) }
}
