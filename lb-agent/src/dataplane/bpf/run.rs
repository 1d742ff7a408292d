//! Runs a program on a packet in memory, without a device sending or receiving anything.

use std::{
    mem::offset_of,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    TestRun as _, TestRunOptions, TestRunResult,
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use bytemuck::{Pod, Zeroable};

use super::{BpfDataplane, error::Error};

/// Largest metadata before a packet, in bytes (`xdp_metalen_invalid`).
const METADATA_MAX: usize = 255;

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramRun {
    /// What the program returned: `XDP_…`, or `TCX_…` as a signed number in 32 bits.
    pub verdict: u32,
    /// The frame as the program left it.
    pub packet: Vec<u8>,
    /// Metadata that an XDP program put before the frame.
    pub metadata: Vec<u8>,
}

/// `struct xdp_md` of `linux/bpf.h`. Offsets count from the beginning of the metadata.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// The beginning of `struct __sk_buff` of `linux/bpf.h`. What may not be chosen is zero.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct SkbContext {
    chosen_by_the_kernel: [u32; 10],
    ifindex: u32,
}

const _: () = assert!(offset_of!(SkbContext, ifindex) == 40);

impl BpfDataplane {
    /// Runs a program on `packet`, a frame from its Ethernet header on, as if the device `ifindex`
    /// of the calling thread's network namespace had met it.
    ///
    /// The program's maps are changed as by any packet; the frame goes nowhere, whatever the
    /// verdict. `lb_xdp` can be run unless [`Options::xdp`](super::Options::xdp) is off.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if there is no packet program of that name. [`Error::Run`] if the
    /// kernel refuses: because there is no such device, or because the frame is shorter than its
    /// headers or longer than a page.
    pub fn run_program(
        &self,
        program: &str,
        packet: &[u8],
        ifindex: u32,
    ) -> Result<ProgramRun, Error> {
        let run = match self.ebpf.program(program) {
            Some(Program::Xdp(xdp)) => run_xdp(xdp, packet, ifindex),
            Some(Program::SchedClassifier(tcx)) => run_tcx(tcx, packet, ifindex),
            _ => {
                return Err(Error::Missing {
                    kind: "packet program",
                    name: program.into(),
                });
            }
        };
        run.map_err(|source| Error::Run {
            program: program.into(),
            source: Box::new(source),
        })
    }

    /// The kernel's descriptor of a loaded program, for those who run it by themselves.
    #[must_use]
    pub fn program_fd(&self, program: &str) -> Option<BorrowedFd<'_>> {
        let fd = self.ebpf.program(program)?.fd().ok()?;
        Some(fd.as_fd())
    }
}

fn run_xdp(program: &Xdp, packet: &[u8], ifindex: u32) -> Result<ProgramRun, ProgramError> {
    let mut context = XdpContext {
        data_end: len(packet),
        ingress_ifindex: ifindex,
        ..XdpContext::default()
    };
    let (given, mut out) = (context, buffer(packet));
    let result = program.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: Some(bytemuck::bytes_of(&given)),
        ctx_out: Some(bytemuck::bytes_of_mut(&mut context)),
        ..TestRunOptions::default()
    })?;
    // The metadata comes first; the frame begins where the context says.
    Ok(outcome(&result, out, context.data as usize))
}

fn run_tcx(
    program: &SchedClassifier,
    packet: &[u8],
    ifindex: u32,
) -> Result<ProgramRun, ProgramError> {
    let context = SkbContext {
        ifindex,
        ..SkbContext::default()
    };
    let mut out = buffer(packet);
    let result = program.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: Some(bytemuck::bytes_of(&context)),
        ..TestRunOptions::default()
    })?;
    Ok(outcome(&result, out, 0))
}

/// Room for the frame and all that a program of ours can put before it.
fn buffer(packet: &[u8]) -> Vec<u8> {
    vec![0; packet.len() + METADATA_MAX]
}

fn outcome(result: &TestRunResult, mut out: Vec<u8>, metadata_len: usize) -> ProgramRun {
    out.truncate(result.data_size_out as usize);
    let packet = out.split_off(metadata_len.min(out.len()));
    ProgramRun {
        verdict: result.return_value,
        packet,
        metadata: out,
    }
}

/// A frame's length. What does not fit is refused by the kernel as too long.
fn len(packet: &[u8]) -> u32 {
    u32::try_from(packet.len()).unwrap_or(u32::MAX)
}
