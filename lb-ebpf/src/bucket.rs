//! The words of a bucket (`lb_common::ways`) in the memory of their map, as other processors change them.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg},
    ptr,
};

use aya_ebpf::Global;
use lb_common::{
    flow::opening::Line,
    ways::{Word, Words},
};

/// 1 if every processor sees what another one writes in the order in which that writes it, as x86 does: whoever loads the
/// programs knows. Programs have no other barrier than an exchange.
#[unsafe(no_mangle)]
pub(crate) static STORES_IN_ORDER: Global<u32> = Global::new(0);

/// Records of a bucket.
pub(crate) const WAYS: usize = lb_common::flow::opening::WAYS;

/// Those of one bucket.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut Line);

impl Shared {
    /// Those that a map's look-up has returned.
    #[inline(always)]
    pub(crate) fn new(words: *mut Line) -> Self {
        Self(words)
    }

    #[inline(always)]
    fn word_at(&self, way: usize) -> *mut u64 {
        // SAFETY: the pointer was checked, and there are so many words.
        unsafe { self.0.cast::<u64>().add(way % WAYS) }
    }
}

impl Words<WAYS> for Shared {
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
    fn store(&self, way: usize, from: Word, to: Word) -> bool {
        if STORES_IN_ORDER.load() == 0 {
            return self.exchange(way, from, to);
        }
        // SAFETY: no instruction. The compiler moves nothing across it.
        unsafe { asm!("", options(nostack, preserves_flags)) };
        // SAFETY: as for `word_at`.
        unsafe { ptr::write_volatile(self.word_at(way), to.0) };
        true
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
