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
    maps::{OPENING_PINS, OPENING_SEED, PINS},
};

/// Buckets of `OPENING_PINS`, which whoever loads the programs knows.
#[unsafe(no_mangle)]
static PIN_BUCKETS: Global<u32> = Global::new(0);

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
fn bucket(place: Place) -> Option<Shared> {
    OPENING_PINS.get_ptr_mut(place.bucket).map(Shared)
}

/// The tags of a bucket.
#[inline(always)]
fn tags(place: Place) -> Option<*mut u32> {
    let line = OPENING_PINS.get_ptr_mut(place.tags)?;
    // SAFETY: the pointer was checked, and there are so many of them in an element.
    Some(unsafe { line.cast::<u32>().add(place.at as usize % TAGS) })
}

#[inline(always)]
fn hash(key: &PinKey) -> u64 {
    opening_pins::hash(key, OPENING_SEED.load())
}

/// The pin of a key with this hash, or 0: no pin here is [`Pin::ELSEWHERE`]. The verifier follows it once, as `opening_find`. It takes no key:
/// what a function like this gets by address, Linux before 6.2 lets no hash map be asked for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pin_find(hash: u64) -> u64 {
    find(hash).map_or(0, Pin::word)
}

#[inline(always)]
fn find(hash: u64) -> Option<Pin> {
    let place = place(hash);
    // SAFETY: the pointer was checked, map memory outlives the program's run, and tags are aligned.
    let tags = Tags(unsafe { ptr::read_volatile(tags(place)?) });
    if !tags.have(hash) {
        return None;
    }
    opening_pins::find(&bucket(place)?, hash)
}

/// Puts a pin into `OPENING_PINS`. Returns 0. As [`pin_find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pin_put(hash: u64, pin: u64) -> u64 {
    put(hash, Pin::from_word(pin));
    0
}

#[inline(always)]
fn put(hash: u64, pin: Pin) -> Option<()> {
    let place = place(hash);
    let after = opening_pins::put(&bucket(place)?, hash, pin);
    // SAFETY: as in `find`.
    unsafe { ptr::write_volatile(tags(place)?, after.0) };
    Some(())
}

/// The pin that `PINS` has of a key.
#[inline(always)]
pub(crate) fn kept(key: &PinKey) -> Option<Pin> {
    if !known::may_have_pin(key) {
        return None;
    }
    // SAFETY: copied at once. An element recycled meanwhile names another client's backend,
    // whose flow the owner check refuses.
    unsafe { PINS.get(key) }.copied()
}

/// The pin that `OPENING_PINS` has of a key.
#[inline(always)]
pub(crate) fn opening(key: &PinKey) -> Option<Pin> {
    let pin = Pin::from_word(pin_find(hash(key)));
    (!pin.is_elsewhere()).then_some(pin)
}

/// Notes the pin of a flow that no client has confirmed.
#[inline(always)]
pub(crate) fn note(key: &PinKey, pin: &Pin) {
    // An earlier flow's, which would be found before this one's.
    if known::may_have_pin(key)
        && let Some(kept) = PINS.get_ptr_mut(key)
    {
        // SAFETY: the pointer was checked, and map memory outlives the program's run. Whoever reads half
        // of it, or another flow's element that was recycled meanwhile, is refused by the owner check.
        unsafe { *kept = *pin };
    } else {
        pin_put(hash(key), pin.word());
    }
}

/// The same for one that a client has confirmed. Best effort, too: without its pin, a flow is looked up where the table says.
/// What `OPENING_PINS` has of it, it forgets by itself.
#[inline(always)]
pub(crate) fn keep(key: &PinKey, pin: &Pin) {
    known::note_pin(key);
    let _ = PINS.insert(key, pin, 0);
}
