//! Packets at tc.

use core::ptr;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_pull_data,
    },
};
use bytemuck::Pod;
use lb_common::{
    Addr, Hop,
    counter::Outcome,
    packet::{Family, Offsets, Packet, Parsed, V4, V6, ethertype, parse, parse_portless},
    path::{Action, Device, Route, Scratch, Tables as _, hooks},
    rewrite::{self, Checksummed, L4Checksum, PacketMut},
    wire::ethernet,
};

use crate::{
    Program, answer,
    fib::{self, Answer},
    kernel::Run,
    linear::{self, Linear},
    maps::scratch,
};

/// Metadata of a packet that XDP on the same device has finished.
pub(crate) const FINISHED: u32 = 0x6c62_f001;

/// The next program of the chain, then the stack (`TCX_NEXT`, `TC_ACT_UNSPEC`).
const NEXT: i32 = -1;
/// `TCX_DROP`, `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Flags of `bpf_l4_csum_replace`.
mod csum {
    /// The change concerns the pseudo-header.
    pub(super) const PSEUDO_HDR: u64 = 1 << 4;
    /// 0 means that there is no checksum.
    pub(super) const MARK_MANGLED_0: u64 = 1 << 5;
    /// IPv6, where no header checksum balances a change of addresses (Linux 6.16).
    pub(super) const IPV6: u64 = 1 << 7;
}

/// `bpf_check_mtu` looks at the segments of a GSO packet.
const MTU_CHECK_SEGMENTS: u64 = 1;

/// What a packet's headers take at most: Ethernet, IPv4 with options, TCP.
const HEADERS_MAX: u32 = 14 + 60 + 20;

/// The context of a tc program.
pub(crate) struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    /// Makes the headers linear, so that they can be read in place.
    #[inline(always)]
    fn pull_headers(&self) {
        // SAFETY: the kernel passes a valid context.
        let (data, end, len) = unsafe {
            (
                (*self.skb).data as usize,
                (*self.skb).data_end as usize,
                (*self.skb).len,
            )
        };
        let need = if len < HEADERS_MAX { len } else { HEADERS_MAX };
        if data + need as usize > end {
            // What cannot be pulled is not parsed, and passes.
            // SAFETY: the kernel passes a valid context.
            let _ = unsafe { bpf_skb_pull_data(self.skb, need) };
        }
    }

    /// Whether XDP on the same device has finished with this packet.
    #[inline(always)]
    fn is_finished(&self) -> bool {
        // SAFETY: the kernel passes a valid context.
        let (meta, data) = unsafe { ((*self.skb).data_meta as usize, (*self.skb).data as usize) };
        if meta + size_of::<u32>() > data {
            return false;
        }
        // SAFETY: the bytes lie before `data`.
        unsafe { ptr::read_unaligned(meta as *const u32) == FINISHED }
    }
}

impl Linear for Skb {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the kernel passes a valid context.
        unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        linear::read(self, offset)
    }
}

impl PacketMut for Skb {
    #[inline(always)]
    fn store<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
        linear::store(self, offset, value)
    }
}

impl Checksummed for Skb {
    /// The checksum may be left to the device (`CHECKSUM_PARTIAL`), or the device's own sum may
    /// be kept beside the packet (`CHECKSUM_COMPLETE`): the helper knows.
    #[inline(always)]
    fn update_l4_checksum(&mut self, update: L4Checksum) -> Option<()> {
        let zero = if update.is_udp {
            csum::MARK_MANGLED_0
        } else {
            0
        };
        let offset = update.offset as u32;
        let replace = |delta: u32, flags: u64| {
            // SAFETY: the kernel passes a valid context.
            unsafe { bpf_l4_csum_replace(self.skb, offset, 0, u64::from(delta), flags) }
        };
        let pseudo = update.pseudo.to_u32();
        let flags = csum::PSEUDO_HDR | zero;
        let mut done = if update.is_v6 {
            replace(pseudo, flags | csum::IPV6)
        } else {
            replace(pseudo, flags)
        };
        if update.is_v6 && done != 0 {
            // Kernels that do not know the flag refuse it before they change anything.
            done = replace(pseudo, flags);
        }
        if done != 0 {
            return None;
        }
        (replace(update.ports.to_u32(), zero) == 0).then_some(())
    }
}

impl Device for Skb {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn route(&self, parsed: &Parsed, dst: Addr) -> Route {
        match fib::look_up(self.skb.cast(), self.ifindex(), parsed, dst) {
            Answer::Neighbour(hop) => Route::Via(hop),
            Answer::Device(ifindex) => Route::Via(Hop::device(ifindex)),
            Answer::None => Route::Unreachable,
        }
    }

    #[inline(always)]
    fn can_send(&self, hop: &Hop) -> bool {
        hop.ifindex != 0
    }

    #[inline(always)]
    fn fits(&self, parsed: &Parsed, hop: &Hop) -> bool {
        fib::fits(self.skb.cast(), parsed, hop, MTU_CHECK_SEGMENTS)
    }
}

/// Runs the program `P` on a packet.
#[inline(always)]
pub(crate) fn run<P: Program>(skb: *mut __sk_buff) -> i32 {
    let mut run = Run::<Skb, P>::new(Skb { skb });
    if run.ctx.is_finished() {
        run.count(Outcome::Finished);
        return NEXT;
    }
    run.ctx.pull_headers();
    match ethertype(&run.ctx) {
        Some(ethernet::IPV4) => family::<V4, P>(&mut run),
        Some(ethernet::IPV6) => family::<V6, P>(&mut run),
        _ => NEXT,
    }
}

#[inline(always)]
fn family<F: Family, P: Program>(run: &mut Run<Skb, P>) -> i32 {
    let Some((parsed, offsets)) = parse::<F, _>(&run.ctx) else {
        return if P::DECIDES_PORTLESS {
            portless::<F, P>(run.ctx.skb)
        } else {
            NEXT
        };
    };
    run.count(Outcome::Seen);
    let Some(scratch) = scratch() else {
        return NEXT;
    };
    scratch.parsed = parsed;
    let action = P::decide(run, scratch);
    act::<F, P>(run, scratch, offsets, action)
}

/// A packet without ports. Out of line, with a stack of its own.
#[inline(never)]
fn portless<F: Family, P: Program>(skb: *mut __sk_buff) -> i32 {
    let run = &mut Run::<Skb, P>::new(Skb { skb });
    let Some((parsed, offsets)) = parse_portless::<F, _>(&run.ctx) else {
        return NEXT;
    };
    let Some(scratch) = scratch() else {
        return NEXT;
    };
    scratch.parsed = parsed;
    match hooks::portless(run, scratch) {
        Action::Drop(outcome) => drop(run, outcome),
        Action::Reject => reject::<F, P>(run, scratch, offsets),
        Action::Echo => echo::<F, P>(run, scratch, offsets),
        _ => NEXT,
    }
}

#[inline(always)]
fn act<F: Family, P: Program>(
    run: &mut Run<Skb, P>,
    scratch: &mut Scratch,
    offsets: Offsets,
    action: Action,
) -> i32 {
    match action {
        Action::Pass => NEXT,
        // There is no later hook, and the stack must not answer for the Service.
        Action::Defer => drop(run, Outcome::Unroutable),
        Action::Drop(outcome) => drop(run, outcome),
        Action::ToBackend => on::<F, P>(run, scratch, offsets, Action::ToBackend, Outcome::ToStack),
        Action::ToClient => on::<F, P>(run, scratch, offsets, Action::ToClient, Outcome::Replied),
        Action::Remap(outcome) => remap::<F, P>(run.ctx.skb, scratch, offsets, outcome),
        Action::Out => out::<F, P>(run, scratch, offsets),
        Action::Bounce => bounce::<F, P>(run, scratch, offsets),
        Action::Reject => reject::<F, P>(run, scratch, offsets),
        Action::Echo => echo::<F, P>(run, scratch, offsets),
    }
}

#[inline(always)]
fn drop<P: Program>(run: &Run<Skb, P>, outcome: Outcome) -> i32 {
    run.count(outcome);
    DROP
}

/// Rewrites the packet, which goes on its way.
#[inline(always)]
fn on<F: Family, P: Program>(
    run: &mut Run<Skb, P>,
    scratch: &Scratch,
    offsets: Offsets,
    action: Action,
    outcome: Outcome,
) -> i32 {
    let change = action.rewrite(scratch);
    if rewrite::apply::<F, _>(&mut run.ctx, &scratch.parsed, offsets, &change).is_none() {
        return drop(run, Outcome::NotWritable);
    }
    run.count(outcome);
    NEXT
}

/// Rewrites both ends of the packet, which goes on its way. Out of line: it is rare.
#[inline(never)]
fn remap<F: Family, P: Program>(
    skb: *mut __sk_buff,
    scratch: &Scratch,
    offsets: Offsets,
    outcome: Outcome,
) -> i32 {
    let run = &mut Run::<Skb, P>::new(Skb { skb });
    on::<F, P>(run, scratch, offsets, Action::Remap(outcome), outcome)
}

#[inline(always)]
fn out<F: Family, P: Program>(run: &mut Run<Skb, P>, scratch: &Scratch, offsets: Offsets) -> i32 {
    let change = Action::Out.rewrite(scratch);
    if rewrite::apply::<F, _>(&mut run.ctx, &scratch.parsed, offsets, &change).is_none() {
        return drop(run, Outcome::NotWritable);
    }
    run.count(Outcome::Redirected);
    // SAFETY: no next hop is passed: the kernel looks it up, and resolves the neighbour.
    unsafe { bpf_redirect_neigh(scratch.hop.ifindex, ptr::null_mut(), 0, 0) as i32 }
}

#[inline(always)]
fn bounce<F: Family, P: Program>(
    run: &mut Run<Skb, P>,
    scratch: &Scratch,
    offsets: Offsets,
) -> i32 {
    let change = Action::Bounce.rewrite(scratch);
    let done = rewrite::swap_macs(&mut run.ctx)
        .and_then(|()| rewrite::apply::<F, _>(&mut run.ctx, &scratch.parsed, offsets, &change));
    if done.is_none() {
        return drop(run, Outcome::NotWritable);
    }
    run.count(Outcome::Redirected);
    back(run)
}

/// Sends the packet out of the device that it came in by.
#[inline(always)]
fn back<P: Program>(run: &Run<Skb, P>) -> i32 {
    // SAFETY: takes an interface index and flags by value.
    unsafe { bpf_redirect(run.ctx.ifindex(), 0) as i32 }
}

/// Tells the sender that nobody serves what it dials.
#[inline(always)]
fn reject<F: Family, P: Program>(
    run: &mut Run<Skb, P>,
    scratch: &mut Scratch,
    offsets: Offsets,
) -> i32 {
    run.count(Outcome::Rejected);
    if answer::reject::<F>(run.ctx.skb, scratch, offsets) {
        back(run)
    } else {
        DROP
    }
}

/// Answers an ICMP echo request.
#[inline(always)]
fn echo<F: Family, P: Program>(run: &mut Run<Skb, P>, scratch: &Scratch, offsets: Offsets) -> i32 {
    if answer::echo::<F>(run.ctx.skb, &scratch.parsed, offsets) {
        run.count(Outcome::Echoed);
        back(run)
    } else {
        drop(run, Outcome::NotWritable)
    }
}
