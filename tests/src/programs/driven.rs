//! The programs for a driver, which calls them instead of the kernel.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use bytemuck::{Pod, Zeroable};
use lb_common::maps::MapSpec;

use super::{
    Bench, Program,
    kernel::{ElementAttributes, address, bpf, call, command},
};

impl Bench {
    /// A loaded program, and the interface index of its device.
    pub(crate) fn loaded(&mut self, program: Program) -> Result<(BorrowedFd<'_>, u32)> {
        let ifindex = program.device(&self.devices);
        let dataplane = self.reconciler.dataplane();
        let fd = dataplane.program_fd(program.name());
        Ok((fd.context("a program is not loaded")?, ifindex))
    }
}

/// The member of `union bpf_attr` for new maps, as far as it matters here.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct CreateAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// Makes a map that nobody uses.
pub(crate) fn create_map(spec: &MapSpec) -> io::Result<OwnedFd> {
    let mut attributes = CreateAttributes {
        kind: spec.kind,
        key_size: spec.key_size,
        value_size: spec.value_size,
        max_entries: spec.max_entries,
        flags: spec.flags,
    };
    let fd = call(command::CREATE, &mut attributes)?;
    // SAFETY: the kernel has just opened it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a program into a map of programs.
pub(crate) fn set_program(
    map: BorrowedFd<'_>,
    index: u32,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let value = program.as_raw_fd();
    let mut attributes = ElementAttributes {
        map: map.as_raw_fd() as u32,
        key: address(&raw const index),
        value: address(&raw const value),
        ..ElementAttributes::default()
    };
    bpf(command::UPDATE, &mut attributes)
}
