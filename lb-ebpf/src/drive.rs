//! Drives a program under test: `BPF_PROG_TEST_RUN` hands each repetition what the last one left of
//! the packet, so that a driver restores it first, gives it the ends of another flow, and calls on.

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, xdp_md},
    btf_maps::{Array, ProgramArray},
    helpers::generated::bpf_xdp_adjust_meta,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// What a driver returns if its call fails: no program's verdict.
const FAILED: u32 = 0x6661_696c;

/// Words of a frame that are restored.
const WORDS: usize = 16;
/// The same in bytes.
const LEN: usize = size_of::<[u64; WORDS]>();

/// `BPF_F_MMAPABLE`.
const MMAPABLE: usize = 1 << 10;

/// Values of [`Drive::family`]: which of the packet's words are a flow's.
mod family {
    pub(super) const V4: u32 = 4;
    pub(super) const V6: u32 = 6;
}

/// What is to be driven, and how.
#[repr(C)]
struct Drive {
    /// The beginning of the frame.
    frame: [u64; WORDS],
    /// The flow that is next.
    next: u32,
    /// Flows, a power of two, less one.
    mask: u32,
    /// Which flow is the first of them.
    first: u32,
    /// 4, 6, or 0 if every packet is the same.
    family: u32,
    /// Which element of the map of programs is called.
    target: u32,
    pad: u32,
}

/// The ends of a flow, as they stand in a packet: the last words of its addresses, and its ports.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ends {
    src: u32,
    dst: u32,
    ports: u32,
    pad: u32,
}

#[btf_map]
static DRIVE: Array<Drive, 1> = Array::new();

/// The flows, in the order in which they are visited. Whoever loads it says how many there are.
#[btf_map]
static DRIVE_FLOWS: Array<Ends, 1, MMAPABLE> = Array::new();

/// The programs that are called; each kind needs a map of its own.
#[btf_map]
static DRIVEN_XDP: ProgramArray<4> = ProgramArray::new();
#[btf_map]
static DRIVEN_TC: ProgramArray<4> = ProgramArray::new();

/// Restores the frame of `DRIVE` with the ends of the next flow, and calls a program.
#[xdp(frags)]
fn lab_xdp_drive(ctx: XdpContext) -> u32 {
    let md = ctx.ctx;
    forget_metadata(md);
    // SAFETY: the kernel passes a valid context.
    let (data, end) = unsafe { ((*md).data as usize, (*md).data_end as usize) };
    if let Some(target) = restore(data, end) {
        // SAFETY: the map holds XDP programs only.
        unsafe { DRIVEN_XDP.tail_call(&ctx, target) };
    }
    FAILED
}

/// The same at tc.
#[classifier]
fn lab_tc_drive(ctx: TcContext) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if let Some(target) = restore(data, end) {
        // SAFETY: the map holds tc programs only.
        unsafe { DRIVEN_TC.tail_call(&Skb(skb), target) };
    }
    FAILED as i32
}

/// A context that can be handed on.
struct Skb(*mut __sk_buff);

impl EbpfContext for Skb {
    fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.0.cast()
    }
}

/// Takes away what the last repetition has put in front of the frame.
#[inline(always)]
fn forget_metadata(md: *mut xdp_md) {
    // SAFETY: the kernel passes a valid context.
    let (meta, data) = unsafe { ((*md).data_meta as usize, (*md).data as usize) };
    if meta < data {
        // SAFETY: as above. Where there is metadata, it can be taken away.
        let _ = unsafe { bpf_xdp_adjust_meta(md, (data - meta) as i32) };
    }
}

/// Writes the frame, and says which program comes next.
#[inline(always)]
fn restore(data: usize, end: usize) -> Option<u32> {
    if data + LEN > end {
        return None;
    }
    let drive = DRIVE.get_ptr_mut(0)?;
    // SAFETY: nobody else writes the element while a program runs: there is one run at a time.
    let drive = unsafe { &mut *drive };
    let flow = DRIVE_FLOWS.get(drive.first.wrapping_add(drive.next & drive.mask));
    drive.next = drive.next.wrapping_add(1);
    for (at, word) in drive.frame.iter().enumerate() {
        write(data + at * size_of::<u64>(), *word);
    }
    let ends = flow.copied()?;
    match drive.family {
        family::V4 => patch(data, [26, 30, 34], ends),
        family::V6 => patch(data, [34, 50, 54], ends),
        _ => {}
    }
    Some(drive.target)
}

#[inline(always)]
fn patch(data: usize, [src, dst, ports]: [usize; 3], ends: Ends) {
    write(data + src, ends.src);
    write(data + dst, ends.dst);
    write(data + ports, ends.ports);
}

/// Writes within the part of a frame that has been found to be there.
#[inline(always)]
fn write<T>(at: usize, value: T) {
    // SAFETY: `restore` has compared the frame's end with `LEN`, and everything is written before it.
    unsafe { ptr::write_unaligned(at as *mut T, value) };
}
