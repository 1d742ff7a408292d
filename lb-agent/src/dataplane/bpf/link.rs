//! What aya does not do with pinned links: say what they are attached to, and replace the program of
//! a cgroup's.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use bytemuck::{Pod, Zeroable};

use super::syscall::{bpf, command};

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
        let mut attr = InfoAttr {
            fd: fd.as_raw_fd().cast_unsigned(),
            len: size_of::<Self>() as u32,
            info: (&raw mut info) as u64,
        };
        // SAFETY: the kernel writes at most `len` bytes to `info`, which lives until it is done.
        unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &mut attr) }?;
        Ok(info)
    }

    /// The device that it is attached to; 0 for none.
    pub(super) fn ifindex(&self) -> u32 {
        let [ifindex, _] = self.target;
        ifindex
    }

    /// Whether it is attached to the cgroup of this id, which is its directory's inode number.
    pub(super) fn is_of_cgroup(&self, id: u64) -> bool {
        bytemuck::cast::<_, u64>(self.target) == id
    }

    /// Whether it is attached to anything.
    pub(super) fn is_attached(&self) -> bool {
        self.target != [0, 0]
    }
}

/// Exchanges the program of the link that is pinned at `path` for `program`: no call meets neither.
pub(super) fn replace(path: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open(path)?;
    let mut attr = UpdateAttr {
        link: link.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_program: 0,
    };
    // SAFETY: there is no address among the attributes.
    unsafe { bpf(command::LINK_UPDATE, &mut attr) }?;
    Ok(())
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct UpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
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

/// Whether a program is pinned at `path`, not a link.
pub(super) fn is_program(path: &Path) -> io::Result<bool> {
    let fd = open(path)?;
    let kind = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(kind.as_os_str() == "anon_inode:bpf-prog")
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads the path, which ends with a zero and lives until it is done.
    let fd = unsafe { bpf(command::OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
