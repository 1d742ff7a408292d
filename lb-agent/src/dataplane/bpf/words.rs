//! Arrays that the agent shares with the programs, mapped into its memory.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64},
};

/// The words of 64 bits of an mmap-able array, shared with the kernel programs.
///
/// Every word is read and written as one here, and by the programs where it is an element by itself: then no reader
/// sees half of one.
pub(super) struct Words {
    first: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed atomically.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first `len` words of the array `fd` (`BPF_F_MMAPABLE`, values of whole words).
    pub(super) fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
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

    /// All halves of them, each read and written as one: of elements that nobody reads whole.
    pub(super) fn halves(&self) -> &[AtomicU32] {
        // SAFETY: as for `as_slice`; a half has half the size, and needs no more alignment.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr().cast(), 2 * self.len) }
    }

    /// All elements.
    pub(super) fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins page-aligned, has `len` words, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl Drop for Words {
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

    use super::*;

    #[test]
    fn mapping_something_else_fails() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert!(Words::new(reader.as_fd(), 1).is_err());
    }
}
