//! Marks of connections that go on.

use core::{hint::black_box, ptr};

use lb_common::flow::{Mark, Marks};

use crate::maps::ESTABLISHED;

/// Those of an element.
#[inline(always)]
pub(crate) fn get(index: u32) -> [u32; Marks::WAYS] {
    ESTABLISHED.get_ptr(index).map_or([0; Marks::WAYS], words)
}

/// Puts it there.
#[inline(always)]
pub(crate) fn leave(mark: Mark) {
    if let Some(marks) = ESTABLISHED.get_ptr_mut(mark.index) {
        let way = mark.way(words(marks));
        // Hidden from the optimiser, which knows that it is small: so must the verifier.
        write(marks, black_box(way) % Marks::WAYS, mark.word);
    }
}

/// Removes all of an element.
#[inline(always)]
pub(crate) fn remove(index: u32) {
    if let Some(marks) = ESTABLISHED.get_ptr_mut(index) {
        for way in 0..Marks::WAYS {
            write(marks, way, 0);
        }
    }
}

/// The words as they are now: other CPUs may exchange them at any time.
#[inline(always)]
fn words(marks: *const Marks) -> [u32; Marks::WAYS] {
    let word = |at| {
        // SAFETY: the pointer was checked, map memory outlives the program's run, and there are so many words.
        unsafe { ptr::read_volatile((&raw const (*marks).words).cast::<u32>().add(at)) }
    };
    [word(0), word(1), word(2), word(3)]
}

#[inline(always)]
fn write(marks: *mut Marks, at: usize, word: u32) {
    // SAFETY: as for `words`; `at` is less than `WAYS`.
    unsafe { ptr::write_volatile((&raw mut (*marks).words).cast::<u32>().add(at), word) }
}
