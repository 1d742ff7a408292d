//! What the kernel says about a pinned link. aya does not say what a link is attached to.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use bytemuck::{Pod, Zeroable};

/// `BPF_OBJ_GET` and `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd`.
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// The beginning of `struct bpf_link_info` of `linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct LinkInfo {
    kind: u32,
    id: u32,
    /// Id of the program that it runs.
    pub(super) program: u32,
    pad: u32,
    /// Of network devices, the interface index; of cgroups, the first half of their id. Zero once
    /// it is detached.
    target: [u32; 2],
}

impl LinkInfo {
    /// What is known of the link that is pinned at `path`.
    pub(super) fn from_pin(path: &Path) -> io::Result<Self> {
        let fd = open(path)?;
        let mut info = Self::default();
        let attr = InfoAttr {
            fd: fd.as_raw_fd().cast_unsigned(),
            len: size_of::<Self>() as u32,
            info: (&raw mut info) as u64,
        };
        // SAFETY: the kernel writes at most `len` bytes to `info`, which lives until it is done.
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &attr) }?;
        Ok(info)
    }

    /// The device that it is attached to; 0 for none.
    pub(super) fn ifindex(&self) -> u32 {
        let [ifindex, _] = self.target;
        ifindex
    }

    /// Whether it is attached to anything.
    pub(super) fn is_attached(&self) -> bool {
        self.target != [0, 0]
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ObjAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjAttr {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads the path, which ends with a zero and lives until it is done.
    let fd = unsafe { bpf(OBJ_GET, &attr) }?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The system call bpf(2).
///
/// # Safety
///
/// Addresses in `attr` must be what `command` takes them for.
unsafe fn bpf<T: Pod>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    let attr: *const T = attr;
    // SAFETY: `attr` is as long as we say; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
