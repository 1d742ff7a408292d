//! Packets at XDP.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::bpf_xdp_adjust_meta,
};
use bytemuck::Pod;
use lb_common::{
    Addr, Hop,
    counter::Outcome,
    packet::{Family, Offsets, Packet, Parsed, V4, V6, ethertype, parse},
    path::{Action, Device, Route, Scratch, Tables as _},
    rewrite::{self, Checksummed, L4Checksum, PacketMut},
    wire::ethernet,
};

use crate::{
    Program, drops,
    fib::{self, Answer},
    kernel::Run,
    linear::{self, Linear},
    maps::scratch,
    skb::FINISHED,
};

/// The context of an XDP program.
pub(crate) struct Xdp {
    md: *mut xdp_md,
}

impl Xdp {
    /// Tells tc on the same device that this packet is done. False where the driver carries no
    /// metadata: then tc has to do it all.
    #[inline(always)]
    fn mark_finished(&self) -> bool {
        // SAFETY: the kernel passes a valid context.
        if unsafe { bpf_xdp_adjust_meta(self.md, -(size_of::<u32>() as i32)) } != 0 {
            return false;
        }
        // SAFETY: as above.
        let (meta, data) = unsafe { ((*self.md).data_meta as usize, (*self.md).data as usize) };
        if meta + size_of::<u32>() > data {
            return false;
        }
        // SAFETY: the bytes lie before `data`, and the metadata is aligned to four bytes.
        unsafe { ptr::write(meta as *mut u32, FINISHED) };
        true
    }
}

impl Linear for Xdp {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the kernel passes a valid context.
        unsafe { ((*self.md).data as usize, (*self.md).data_end as usize) }
    }
}

impl Packet for Xdp {
    #[inline(always)]
    fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        linear::read(self, offset)
    }
}

impl PacketMut for Xdp {
    #[inline(always)]
    fn store<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
        linear::store(self, offset, value)
    }
}

impl Checksummed for Xdp {
    #[inline(always)]
    fn update_l4_checksum(&mut self, update: L4Checksum) -> Option<()> {
        let field = self.read(update.offset)?;
        self.store(update.offset, &update.apply(field))
    }
}

impl Device for Xdp {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.md).ingress_ifindex }
    }

    #[inline(always)]
    fn route(&self, parsed: &Parsed, dst: Addr) -> Route {
        match fib::look_up(self.md.cast(), self.ifindex(), parsed, dst) {
            Answer::Neighbour(hop) if self.can_send(&hop) => Route::Via(hop),
            // tc resolves neighbours, and reaches devices that have no Ethernet header.
            _ => Route::Defer,
        }
    }

    #[inline(always)]
    fn can_send(&self, hop: &Hop) -> bool {
        hop.ifindex == self.ifindex() && hop.has_neighbour()
    }

    #[inline(always)]
    fn too_big_for(&self, parsed: &Parsed, hop: &Hop) -> u32 {
        fib::too_big_for(self.md.cast(), parsed, hop, 0)
    }
}

/// Runs the program `P` on a packet.
#[inline(always)]
pub(crate) fn run<P: Program>(md: *mut xdp_md) -> u32 {
    let mut run = Run::<Xdp, P>::new(Xdp { md });
    let Some(scratch) = scratch() else {
        return xdp_action::XDP_PASS;
    };
    let looked = match ethertype(&run.ctx) {
        Some(ethernet::IPV4) => look::<V4, P>(&run, scratch),
        Some(ethernet::IPV6) => look::<V6, P>(&run, scratch),
        _ => None,
    };
    if looked.is_none() {
        return xdp_action::XDP_PASS;
    }
    // From here on the verifier cannot tell families apart, and goes on only once.
    let scratch = black_box(scratch);
    run.count(Outcome::Seen);
    let action = P::decide(&mut run, scratch);
    if scratch.is_v4() {
        act::<V4, P>(&mut run, scratch, action)
    } else {
        act::<V6, P>(&mut run, scratch, action)
    }
}

/// Parses a packet; nothing if tc is to do it.
#[inline(always)]
fn look<F: Family, P: Program>(run: &Run<Xdp, P>, scratch: &mut Scratch) -> Option<()> {
    let (parsed, offsets) = parse::<F, _>(&run.ctx)?;
    scratch.parsed = parsed;
    scratch.l4 = offsets.l4 as u32;
    Some(())
}

#[inline(always)]
fn act<F: Family, P: Program>(run: &mut Run<Xdp, P>, scratch: &mut Scratch, action: Action) -> u32 {
    let offsets = scratch.offsets();
    match action {
        Action::Pass => xdp_action::XDP_PASS,
        // What is rare is tc's business; a pod's packets, and replies to them, never meet XDP.
        Action::Defer
        | Action::Reject
        | Action::Tell
        | Action::Reset
        | Action::Echo
        | Action::Remap
        | Action::Bounce
        | Action::ToClient => defer(run),
        Action::Drop => drop(run, scratch, scratch.outcome),
        Action::ToBackend => to_stack::<F, P>(run, scratch, offsets),
        Action::Out => out::<F, P>(run, scratch, offsets),
    }
}

#[inline(always)]
fn defer<P: Program>(run: &Run<Xdp, P>) -> u32 {
    run.count(Outcome::Deferred);
    xdp_action::XDP_PASS
}

#[inline(always)]
fn drop<P: Program>(run: &Run<Xdp, P>, scratch: &Scratch, outcome: Outcome) -> u32 {
    drops::record(run.ctx.ifindex(), P::HOOK, outcome, Some(scratch));
    xdp_action::XDP_DROP
}

#[inline(always)]
fn to_stack<F: Family, P: Program>(
    run: &mut Run<Xdp, P>,
    scratch: &Scratch,
    offsets: Offsets,
) -> u32 {
    if !run.ctx.mark_finished() {
        return defer(run);
    }
    let change = Action::ToBackend.rewrite(scratch);
    match rewrite::apply::<F, _>(&mut run.ctx, &scratch.parsed, offsets, &change) {
        Some(()) => {
            run.count(Outcome::ToStack);
            xdp_action::XDP_PASS
        }
        None => drop(run, scratch, Outcome::NotWritable),
    }
}

#[inline(always)]
fn out<F: Family, P: Program>(run: &mut Run<Xdp, P>, scratch: &Scratch, offsets: Offsets) -> u32 {
    let change = Action::Out.rewrite(scratch);
    let done = rewrite::apply::<F, _>(&mut run.ctx, &scratch.parsed, offsets, &change)
        .and_then(|()| rewrite::set_macs(&mut run.ctx, scratch.hop.by_words().macs));
    match done {
        Some(()) => {
            run.count(Outcome::Redirected);
            xdp_action::XDP_TX
        }
        None => drop(run, scratch, Outcome::NotWritable),
    }
}
