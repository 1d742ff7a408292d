//! The arena `SLOTS`, mapped into memory.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering, fence},
};

use lb_common::Slot;

/// The elements of an mmap-able array, shared with the kernel programs.
///
/// Every element is read and written as one aligned 64-bit word, by the programs and here: no
/// reader sees half of one.
pub(super) struct Arena {
    first: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed atomically.
unsafe impl Send for Arena {}

impl Arena {
    /// Maps the `len` elements of the array `fd` (`BPF_F_MMAPABLE`, 8-byte values).
    pub(super) fn new(fd: BorrowedFd<'_>, len: u32) -> io::Result<Self> {
        let len = len as usize;
        // SAFETY: a new mapping where the kernel likes, which touches no other memory.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len * size_of::<u64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(first) if address != libc::MAP_FAILED => Ok(Self { first, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Copies `slots` to the elements from `offset` on; `None` if they do not fit.
    ///
    /// A later system call that commits them is ordered after these stores.
    #[must_use]
    pub(super) fn write(&mut self, offset: u32, slots: &[Slot]) -> Option<()> {
        let start = offset as usize;
        let elements = self
            .elements()
            .get(start..start.checked_add(slots.len())?)?;
        for (element, slot) in elements.iter().zip(slots) {
            element.store(bytemuck::cast(*slot), Ordering::Relaxed);
        }
        fence(Ordering::Release);
        Some(())
    }

    /// All elements.
    pub(super) fn as_slice(&self) -> &[Slot] {
        // SAFETY: the mapping begins page-aligned, has `len` elements of this size, for which any
        // bits are a value, and lives as long as `self`. Programs only read it; the agent writes
        // it through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr().cast(), self.len) }
    }

    fn elements(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins page-aligned, has `len` words, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping of `new`, and no reference to it outlives `self`.
        unsafe {
            libc::munmap(
                self.first.as_ptr().cast(),
                self.len * size_of::<AtomicU64>(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use lb_common::BackendRef;

    use super::*;

    /// An arena in a plain file, which can be mapped just so.
    fn arena(len: u32) -> (Arena, std::fs::File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(u64::from(len) * 8).unwrap();
        (Arena::new(file.as_fd(), len).unwrap(), file)
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
        assert_eq!(Arena::new(file.as_fd(), 1024).unwrap().as_slice(), read);
    }

    #[test]
    fn slots_beyond_the_end_are_refused_and_nothing_is_written() {
        let (mut arena, _file) = arena(1024);
        assert_eq!(arena.write(1023, &[slot(1), slot(2)]), None);
        assert_eq!(arena.write(u32::MAX, &[slot(1)]), None);
        assert_eq!(arena.as_slice(), vec![Slot::default(); 1024]);
        assert_eq!(arena.write(1023, &[slot(1)]), Some(()));
    }

    #[test]
    fn mapping_something_else_fails() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert!(Arena::new(reader.as_fd(), 1).is_err());
    }
}
