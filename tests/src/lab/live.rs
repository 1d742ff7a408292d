//! Frames that a program makes, at full speed: `BPF_F_TEST_XDP_LIVE_FRAMES`.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::Xdp;
use bytemuck::{Pod, Zeroable};

/// Frames that the kernel handles at once.
const BATCH: u32 = 64;

/// `struct { … } test` of `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `struct xdp_md` of `linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Runs an XDP program on frames that are as long as `frame`, as if the device had received them:
/// `XDP_TX` sends them out by it. The device is looked up in the calling thread's namespace.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::Interrupted`] when a signal ended it.
pub(super) fn run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    repeat: u32,
) -> io::Result<()> {
    const PROG_TEST_RUN: libc::c_long = 10;
    const XDP_LIVE_FRAMES: u32 = 2;
    let len = frame.len() as u32;
    let context = Context {
        data_end: len,
        ingress_ifindex: ifindex,
        ..Context::default()
    };
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: len,
        data_in: frame.as_ptr().expose_provenance() as u64,
        repeat,
        ctx_size_in: size_of::<Context>() as u32,
        ctx_in: (&raw const context).expose_provenance() as u64,
        flags: XDP_LIVE_FRAMES,
        batch_size: BATCH,
        ..TestRun::default()
    };
    // SAFETY: the kernel reads the frame and the context, whose sizes it is told, and writes to
    // `attributes`. All of it outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_TEST_RUN,
            &raw mut attributes,
            size_of::<TestRun>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// An XDP program of an object.
pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    Ok(program
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}
