//! Arrays of programs, mapped into the memory of whoever tests them.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
};

use bytemuck::Pod;

/// The elements of an array with `BPF_F_MMAPABLE`, whose values are as long as a `T`, or as several of them.
#[derive(Debug)]
pub(crate) struct Mapped<T> {
    first: NonNull<u8>,
    len: usize,
    elements: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl<T: Send> Send for Mapped<T> {}
// SAFETY: as above; through a shared reference, it is accessed atomically only.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Maps the first `len` of them, once: two mappings of one array would be two exclusive references.
    ///
    /// # Errors
    /// When the kernel refuses: it is no such map, or is smaller, in pages.
    pub(crate) fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping where the kernel likes, which touches no other memory.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(first) if address != libc::MAP_FAILED => Ok(Self {
                first,
                len,
                elements: PhantomData,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// All of them. No program may run meanwhile: whoever runs them borrows what this belongs to.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: the mapping begins page-aligned, has `len` elements, for which any bits are a
        // value, and lives as long as `self`, which is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr().cast(), self.len) }
    }
}

impl Mapped<u64> {
    /// All words, while programs exchange them.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins page-aligned, has `len` words, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr().cast(), self.len) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping of `new`, and no reference to it outlives `self`.
        let _ = unsafe { libc::munmap(self.first.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}
