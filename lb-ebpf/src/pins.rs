//! Pins of flows: of those that a client has confirmed in a hash map, and of all others in an array
//! (`lb_common::flow::opening_pins`).

use core::ptr;

use aya_ebpf::Global;
use lb_common::{
    Pin, PinKey,
    flow::opening_pins::{self, Line, Place, TAGS, Tags, WORDS, Words},
};

use crate::{
    known,
    maps::{OPENING_PINS, PINS},
};

/// Buckets of `OPENING_PINS`, which whoever loads the programs knows.
#[unsafe(no_mangle)]
static PIN_BUCKETS: Global<u32> = Global::new(0);

/// Set in what [`pin_find`] returns of a pin that there is: a pin itself has zeros there.
const FOUND: u64 = 1 << 63;

/// The words of a bucket in the memory of its map.
struct Shared(*mut Line);

impl Shared {
    #[inline(always)]
    fn word(&self, at: usize) -> *mut u64 {
        // SAFETY: the pointer was checked, and there are so many words.
        unsafe { self.0.cast::<u64>().add(at % WORDS) }
    }
}

impl Words for Shared {
    #[inline(always)]
    fn read(&self, at: usize) -> u64 {
        // SAFETY: as for `word`; map memory outlives the program's run, and words are aligned.
        unsafe { ptr::read_volatile(self.word(at)) }
    }

    #[inline(always)]
    fn write(&self, at: usize, word: u64) {
        // SAFETY: as for `read`.
        unsafe { ptr::write_volatile(self.word(at), word) }
    }
}

#[inline(always)]
fn place(hash: u64) -> Place {
    Place::of(hash, PIN_BUCKETS.load())
}

#[inline(always)]
fn words(place: Place) -> Option<Shared> {
    OPENING_PINS.get_ptr_mut(place.words).map(Shared)
}

/// The tags of a bucket.
#[inline(always)]
fn tags(place: Place) -> Option<*mut u32> {
    let line = OPENING_PINS.get_ptr_mut(place.tags)?;
    // SAFETY: the pointer was checked, and there are so many of them in an element.
    Some(unsafe { line.cast::<u32>().add(place.at as usize % TAGS) })
}

/// The pin of a key with [`FOUND`], or 0. The verifier follows it once, as `opening_find`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pin_find(key: *const PinKey) -> u64 {
    // SAFETY: callers have a reference; the verifier believes that only where it is asked for.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return 0;
    };
    if known::may_have_pin(key)
        // SAFETY: copied at once. An element recycled meanwhile names another client's backend,
        // whose flow the owner check refuses.
        && let Some(pin) = unsafe { PINS.get(key) }
    {
        return pin.word() | FOUND;
    }
    find(opening_pins::hash(key)).map_or(0, |pin| pin.word() | FOUND)
}

#[inline(always)]
fn find(hash: u64) -> Option<Pin> {
    let place = place(hash);
    // SAFETY: the pointer was checked, map memory outlives the program's run, and tags are aligned.
    let tags = Tags(unsafe { ptr::read_volatile(tags(place)?) });
    if !tags.have(hash) {
        return None;
    }
    opening_pins::find(&words(place)?, hash)
}

#[inline(always)]
fn put(hash: u64, pin: Pin) -> Option<()> {
    let place = place(hash);
    let moved = opening_pins::put(&words(place)?, hash, pin);
    let tags = tags(place)?;
    // SAFETY: as in `find`.
    unsafe { ptr::write_volatile(tags, Tags(ptr::read_volatile(tags)).put(hash, moved).0) };
    Some(())
}

/// Notes the pin of a flow that no client has confirmed. Returns 0. As [`pin_find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pin_note(key: *const PinKey, pin: *const Pin) -> u64 {
    // SAFETY: as for `pin_find`.
    let (Some(key), Some(pin)) = (unsafe { (key.as_ref(), pin.as_ref()) }) else {
        return 0;
    };
    // An earlier flow's, which would be found before this one's.
    if known::may_have_pin(key)
        && let Some(kept) = PINS.get_ptr_mut(key)
    {
        // SAFETY: the pointer was checked, and map memory outlives the program's run. Whoever reads half
        // of it, or another flow's element that was recycled meanwhile, is refused by the owner check.
        unsafe { *kept = *pin };
        return 0;
    }
    put(opening_pins::hash(key), *pin);
    0
}

/// The pin of a key.
#[inline(always)]
pub(crate) fn get(key: &PinKey) -> Option<Pin> {
    let found = pin_find(key);
    (found & FOUND != 0).then(|| Pin::from_word(found))
}

/// Notes the pin of a flow that no client has confirmed.
#[inline(always)]
pub(crate) fn note(key: &PinKey, pin: &Pin) {
    pin_note(key, pin);
}

/// The same for one that a client has confirmed. Best effort, too: without its pin, a flow is looked up where the table says.
/// What `OPENING_PINS` has of it, it forgets by itself.
#[inline(always)]
pub(crate) fn keep(key: &PinKey, pin: &Pin) {
    known::note_pin(key);
    let _ = PINS.insert(key, pin, 0);
}
