//! A bucket of records (`lb_common::ways`) in the memory of its map, as other processors change it.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg},
    ptr,
};

use lb_common::ways::{Bucket, Word, Words};

/// Records of a bucket.
pub(crate) const WAYS: usize = lb_common::flow::opening::WAYS;

/// A bucket of a map.
pub(crate) struct Shared<R>(*mut Bucket<R, WAYS>);

impl<R> Clone for Shared<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Shared<R> {}

impl<R> Shared<R> {
    /// The one that a map's look-up has returned.
    #[inline(always)]
    pub(crate) fn new(bucket: *mut Bucket<R, WAYS>) -> Self {
        Self(bucket)
    }

    #[inline(always)]
    fn word_at(&self, way: usize) -> *mut u64 {
        // SAFETY: the pointer was checked, and there are so many words.
        unsafe { (&raw mut (*self.0).words).cast::<u64>().add(way % WAYS) }
    }

    /// The record of a way.
    #[inline(always)]
    pub(crate) fn record(&self, way: usize) -> *mut R {
        // SAFETY: as for `word_at`.
        unsafe { (&raw mut (*self.0).records).cast::<R>().add(way % WAYS) }
    }
}

impl<R> Words<WAYS> for Shared<R> {
    #[inline(always)]
    fn word(&self, way: usize) -> Word {
        // SAFETY: as for `word_at`.
        Word(unsafe { ptr::read_volatile(self.word_at(way)) })
    }

    #[inline(always)]
    fn exchange(&self, way: usize, from: Word, to: Word) -> bool {
        let word = self.word_at(way);
        // SAFETY: as for `word_at`; words are aligned.
        let (_, done) = unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, from.0, to.0) };
        done
    }

    #[inline(always)]
    fn hide(mut bits: u64) -> u64 {
        // SAFETY: it changes nothing. Without an instruction, two lines would be told of one.
        unsafe {
            asm!("{0} = {0}", inout(reg) bits, options(pure, nomem, nostack, preserves_flags))
        };
        bits
    }
}
