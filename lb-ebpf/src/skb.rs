//! Packets at tc.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_pull_data,
    },
};
use bytemuck::Pod;
use lb_common::{
    Addr, Hop,
    answer::Message,
    counter::{Hook, Outcome},
    packet::{Family, Offsets, Packet, Parsed, V4, V6, ethertype, parse},
    path::{Action, Device, Route, Scratch, Tables as _},
    rewrite::{self, Checksummed, L4Checksum, PacketMut},
    wire::ethernet,
};

use crate::{
    Program, answer, drops,
    fib::{self, Answer},
    kernel::Run,
    linear::{self, Linear},
    maps::scratch,
    unusual,
};

/// Metadata of a packet that XDP on the same device has finished.
pub(crate) const FINISHED: u32 = 0x6c62_f001;

/// The next program of the chain, then the stack (`TCX_NEXT`, `TC_ACT_UNSPEC`).
pub(crate) const NEXT: i32 = -1;
/// `TCX_DROP`, `TC_ACT_SHOT`.
pub(crate) const DROP: i32 = 2;

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

    /// Whether the packet has a tag, and belongs to the device of that VLAN: there it is seen again,
    /// or was before. A tag without a VLAN only has a priority.
    #[inline(always)]
    fn is_of_a_vlan(&self) -> bool {
        const VLAN_ID: u32 = 0xfff;
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.skb).vlan_tci & VLAN_ID != 0 }
    }

    /// Whether the kernel has taken a VLAN's tag, or that of a priority, from the frame: XDP saw it there.
    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    /// Whether somebody has marked the packet.
    #[inline(always)]
    fn is_marked(&self) -> bool {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.skb).mark != 0 }
    }

    /// Whether the packet leaves by the device that it came in by.
    #[inline(always)]
    fn goes_back(&self) -> bool {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.skb).ingress_ifindex == (*self.skb).ifindex }
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
    fn too_big_for(&self, parsed: &Parsed, hop: &Hop) -> u32 {
        fib::too_big_for(self.skb.cast(), parsed, hop, MTU_CHECK_SEGMENTS)
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
    if run.ctx.is_of_a_vlan() {
        return NEXT;
    }
    run.ctx.pull_headers();
    let Some(scratch) = scratch() else {
        return NEXT;
    };
    scratch.has_asked = 0;
    let looked = match ethertype(&run.ctx) {
        Some(ethernet::IPV4) => look::<V4, P>(&run, scratch),
        Some(ethernet::IPV6) => look::<V6, P>(&run, scratch),
        _ => return NEXT,
    };
    if let Err(verdict) = looked {
        return verdict;
    }
    // From here on the verifier cannot tell families apart, nor usual headers from others, and goes
    // on only once.
    let scratch = black_box(scratch);
    run.count(Outcome::Seen);
    let action = P::decide(&mut run, scratch);
    if scratch.is_v4() {
        act::<V4, P>(&mut run, scratch, action)
    } else {
        act::<V6, P>(&mut run, scratch, action)
    }
}

/// Parses a packet, of which there is something left to decide if it is no error.
#[inline(always)]
fn look<F: Family, P: Program>(run: &Run<Skb, P>, scratch: &mut Scratch) -> Result<(), i32> {
    let may_lead_back = matches!(P::HOOK, Hook::WireEgress) && run.ctx.goes_back();
    if may_lead_back && unusual::leads_back::<F, P>(run.ctx.skb, scratch) {
        return Err(drop::<P>(run.ctx.skb, scratch, Outcome::Unallocated));
    }
    match parse::<F, _>(&run.ctx) {
        Some((parsed, offsets)) => {
            scratch.parsed = parsed;
            scratch.l4 = offsets.l4 as u32;
            scratch.is_plain = u32::from(!run.ctx.is_tagged());
        }
        None => {
            scratch.is_plain = 0;
            let verdict = unusual::look::<F, P>(run.ctx.skb, scratch);
            if scratch.l4 == 0 {
                return Err(verdict);
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn act<F: Family, P: Program>(run: &mut Run<Skb, P>, scratch: &mut Scratch, action: Action) -> i32 {
    let offsets = scratch.offsets();
    if scratch.parsed.is_error()
        && let Some(way) = action.way(scratch.outcome)
    {
        scratch.way = way;
        return unusual::error::<F, P>(run.ctx.skb, scratch);
    }
    match action {
        Action::Pass => return NEXT,
        // There is no later hook, and the stack must not answer for the Service.
        Action::Defer => return drop::<P>(run.ctx.skb, scratch, Outcome::Unroutable),
        Action::Drop => return drop::<P>(run.ctx.skb, scratch, scratch.outcome),
        Action::ToBackend => {
            return on::<F, P>(run, scratch, offsets, Action::ToBackend, Outcome::ToStack);
        }
        Action::ToClient => {
            return on::<F, P>(run, scratch, offsets, Action::ToClient, Outcome::Replied);
        }
        Action::Remap => return remap::<F, P>(run.ctx.skb, scratch, offsets),
        Action::Out => return out::<F, P>(run, scratch, offsets),
        Action::Bounce => return bounce::<F, P>(run, scratch, offsets),
        Action::Echo => return echo::<F, P>(run.ctx.skb, scratch, offsets),
        Action::Reject => refuse::<P>(run.ctx.skb, scratch, Outcome::Rejected),
        Action::Reset => refuse::<P>(run.ctx.skb, scratch, Outcome::BackendGone),
        Action::Tell => record::<P>(run.ctx.skb, scratch, scratch.outcome),
    }
    // Once for all of them: it is much that the verifier has to follow.
    tell::<F, P>(run.ctx.skb, scratch, offsets)
}

#[inline(always)]
pub(crate) fn drop<P: Program>(skb: *mut __sk_buff, scratch: &Scratch, outcome: Outcome) -> i32 {
    record::<P>(skb, scratch, outcome);
    DROP
}

/// Counts a packet that goes no further, even if its sender is told.
#[inline(always)]
fn record<P: Program>(skb: *mut __sk_buff, scratch: &Scratch, outcome: Outcome) {
    // SAFETY: the kernel passes a valid context.
    let ifindex = unsafe { (*skb).ifindex };
    drops::record(ifindex, P::HOOK, outcome, Some(scratch));
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
        return drop::<P>(run.ctx.skb, scratch, Outcome::NotWritable);
    }
    run.count(outcome);
    NEXT
}

/// Rewrites both ends of the packet, which goes on its way. Out of line: it is rare, but within a
/// bridge.
#[inline(never)]
fn remap<F: Family, P: Program>(skb: *mut __sk_buff, scratch: &Scratch, offsets: Offsets) -> i32 {
    let run = &mut Run::<Skb, P>::new(Skb { skb });
    let outcome = scratch.outcome;
    let verdict = on::<F, P>(run, scratch, offsets, Action::Remap, outcome);
    if verdict == NEXT && outcome == Outcome::Direct {
        forward(scratch)
    } else {
        verdict
    }
}

#[inline(always)]
fn out<F: Family, P: Program>(run: &mut Run<Skb, P>, scratch: &Scratch, offsets: Offsets) -> i32 {
    let change = Action::Out.rewrite(scratch);
    let done = rewrite::apply::<F, _>(&mut run.ctx, &scratch.parsed, offsets, &change)
        .and_then(|()| leave(run, scratch));
    let Some(verdict) = done else {
        return drop::<P>(run.ctx.skb, scratch, Outcome::NotWritable);
    };
    run.count(Outcome::Redirected);
    verdict
}

/// Sends the packet to the neighbour that its flow remembers. The kernel does it instead where no neighbour is known; once
/// a second, so that it learns that this one is in use, and asks whether it still is there; and where the packet has a
/// mark, which may have a route of its own.
#[inline(always)]
fn leave<P: Program>(run: &mut Run<Skb, P>, scratch: &Scratch) -> Option<i32> {
    if run.ctx.is_marked() {
        return Some(route(scratch));
    }
    if scratch.has_asked != 0 || !scratch.hop.has_neighbour() {
        return Some(forward(scratch));
    }
    rewrite::set_macs(&mut run.ctx, scratch.hop.by_words().macs)?;
    // SAFETY: the helper takes numbers.
    Some(unsafe { bpf_redirect(scratch.hop.ifindex, 0) as i32 })
}

/// Sends the packet out by the device of its flow's hop: to the next hop that the routing table has just named, or to the
/// one that the kernel finds.
///
/// Out of line: the stack of all calls together is small.
#[inline(never)]
pub(crate) fn forward(scratch: &Scratch) -> i32 {
    if scratch.has_asked != 0
        && let Some(verdict) = fib::redirect(scratch.hop.ifindex)
    {
        return verdict;
    }
    route(scratch)
}

/// Sends the packet out by the device of its flow's hop, to the next hop that the kernel finds.
#[inline(always)]
fn route(scratch: &Scratch) -> i32 {
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
        return drop::<P>(run.ctx.skb, scratch, Outcome::NotWritable);
    }
    run.count(Outcome::Redirected);
    back(run.ctx.skb)
}

/// Sends the packet out of the device that it came in by.
#[inline(always)]
pub(crate) fn back(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the kernel passes a valid context; the helper takes numbers.
    unsafe { bpf_redirect((*skb).ifindex, 0) as i32 }
}

/// Counts a packet whose sender is to be told that nobody serves what it dials, or serves it any more.
#[inline(always)]
pub(crate) fn refuse<P: Program>(skb: *mut __sk_buff, scratch: &mut Scratch, outcome: Outcome) {
    scratch.message = Message::refusal(&scratch.parsed);
    record::<P>(skb, scratch, outcome);
}

/// Tells the sender what happens to its packet: `scratch.message`. Unless too many have been told.
#[inline(always)]
pub(crate) fn tell<F: Family, P: Program>(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    offsets: Offsets,
) -> i32 {
    let run = Run::<Skb, P>::new(Skb { skb });
    let limit = run.config().icmp_errors_per_second;
    if scratch.message.is_limited() && !scratch.spent.take(run.now(), limit) {
        run.count(Outcome::Untold);
        return DROP;
    }
    if answer::tell::<F>(skb, scratch, offsets) {
        back(skb)
    } else {
        DROP
    }
}

/// Answers an ICMP echo request.
#[inline(always)]
pub(crate) fn echo<F: Family, P: Program>(
    skb: *mut __sk_buff,
    scratch: &Scratch,
    offsets: Offsets,
) -> i32 {
    let run = Run::<Skb, P>::new(Skb { skb });
    if answer::echo::<F>(skb, &scratch.parsed, offsets) {
        run.count(Outcome::Echoed);
        back(skb)
    } else {
        drop::<P>(skb, scratch, Outcome::NotWritable)
    }
}
