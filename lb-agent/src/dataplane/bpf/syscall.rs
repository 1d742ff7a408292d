//! The system call bpf(2), for what aya has no function.

use bytemuck::{Pod, Zeroable};
use nix::errno::Errno;

/// Elements of a batch. The kernel refuses one that has no room for the elements of a single
/// bucket; there are as many buckets as elements.
pub(super) const BATCH: usize = 4096;

/// Commands of `enum bpf_cmd`.
pub(super) mod command {
    pub(in crate::dataplane::bpf) const LOOKUP: libc::c_long = 1;
    pub(in crate::dataplane::bpf) const UPDATE: libc::c_long = 2;
    pub(in crate::dataplane::bpf) const DELETE: libc::c_long = 3;
    pub(in crate::dataplane::bpf) const NEXT_KEY: libc::c_long = 4;
    pub(in crate::dataplane::bpf) const OBJ_GET: libc::c_long = 7;
    pub(in crate::dataplane::bpf) const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    pub(in crate::dataplane::bpf) const PROG_QUERY: libc::c_long = 16;
    /// Linux 5.6, as the next one.
    pub(in crate::dataplane::bpf) const LOOKUP_BATCH: libc::c_long = 24;
    pub(in crate::dataplane::bpf) const UPDATE_BATCH: libc::c_long = 26;
    pub(in crate::dataplane::bpf) const LINK_UPDATE: libc::c_long = 29;
}

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Batch {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) elem_flags: u64,
    pub(super) flags: u64,
}

const _: () = assert!(size_of::<Batch>() == 56);

/// Carries out a command, and returns what it does: a descriptor, or 0. The kernel may write to
/// `attributes`.
///
/// # Safety
///
/// Addresses in `attributes` must be what `command` takes them for.
pub(super) unsafe fn bpf<T: Pod>(command: libc::c_long, attributes: &mut T) -> nix::Result<i32> {
    let attributes: *mut T = attributes;
    // SAFETY: `attributes` is as long as we say; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    // It is an `int` in the kernel.
    Errno::result(result).map(|result| result as i32)
}
