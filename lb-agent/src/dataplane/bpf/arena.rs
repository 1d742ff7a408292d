//! The arena `SLOTS`, mapped into memory.

use std::sync::atomic::{Ordering, fence};

use lb_common::Slot;

use super::words::Words;

/// The look-up tables of all Service ports.
pub(super) struct Arena(Words);

impl Arena {
    /// The arena in the words of its map.
    pub(super) fn new(words: Words) -> Self {
        Self(words)
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.0.as_slice().len()
    }

    /// Copies `slots` to the elements from `offset` on; `None` if they do not fit.
    ///
    /// A later system call that commits them is ordered after these stores.
    #[must_use]
    pub(super) fn write(&mut self, offset: u32, slots: &[Slot]) -> Option<()> {
        let start = offset as usize;
        let words = self.0.as_slice();
        let elements = words.get(start..start.checked_add(slots.len())?)?;
        for (element, slot) in elements.iter().zip(slots) {
            element.store(bytemuck::cast(*slot), Ordering::Relaxed);
        }
        fence(Ordering::Release);
        Some(())
    }

    /// All elements.
    pub(super) fn as_slice(&self) -> &[Slot] {
        let words = self.0.as_slice();
        // SAFETY: a slot has a word's size, and any bits are a value of it. Programs only read them;
        // the agent writes them through `&mut self`.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use lb_common::BackendRef;

    use super::*;

    fn mapped(file: &std::fs::File, len: u32) -> Arena {
        Arena::new(Words::new(file.as_fd(), len as usize).unwrap())
    }

    /// An arena in a plain file, which can be mapped just so.
    fn arena(len: u32) -> (Arena, std::fs::File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(u64::from(len) * 8).unwrap();
        (mapped(&file, len), file)
    }

    fn slot(index: u32) -> Slot {
        Slot {
            current: BackendRef::new(index, 1),
            previous: BackendRef::NONE,
        }
    }

    #[test]
    fn slots_are_written_in_place_and_shared() {
        let (mut arena, file) = arena(1024);
        arena.write(1000, &[slot(1), slot(2)]).unwrap();
        let read = arena.as_slice();
        assert_eq!(read.len(), arena.len());
        assert_eq!(
            &read[999..1003],
            &[Slot::default(), slot(1), slot(2), Slot::default()]
        );
        assert_eq!(mapped(&file, 1024).as_slice(), read);
    }

    #[test]
    fn slots_beyond_the_end_are_refused_and_nothing_is_written() {
        let (mut arena, _file) = arena(1024);
        assert_eq!(arena.write(1023, &[slot(1), slot(2)]), None);
        assert_eq!(arena.write(u32::MAX, &[slot(1)]), None);
        assert_eq!(arena.as_slice(), vec![Slot::default(); 1024]);
        assert_eq!(arena.write(1023, &[slot(1)]), Some(()));
    }
}
