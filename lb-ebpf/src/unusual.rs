//! Packets at tc that are not as most are: pieces of packets, extension headers, ICMP errors, and
//! protocols without ports. All of it out of line.

use aya_ebpf::bindings::__sk_buff;
use lb_common::{
    counter::Outcome,
    packet::{Family, Headers, OFFSET_MAX, Offsets, Quoted, headers, is_error, parse},
    path::{Action, FragmentStore as _, Scratch, Tables as _, fragments, hooks, unserved, way},
    protocol, rewrite,
    wire::{ethernet, icmp},
};

use crate::{
    Program, held,
    kernel::Run,
    skb::{DROP, NEXT, back, drop, echo, forward, refuse, tell},
    slow::Skb,
};

/// Bytes that may have to be read: headers, and the start of a packet that an error quotes.
const READ_MAX: u32 = OFFSET_MAX as u32 + 1;

/// Looks into a packet that has no ports where most have them. If it can be decided about like any
/// other, `scratch.l4` and `scratch.parsed` are set, else `scratch.l4` is 0, and the verdict is what
/// comes back.
#[inline(never)]
pub(crate) fn look<F: Family, P: Program>(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    scratch.l4 = 0;
    let packet = Skb::new(skb);
    packet.pull(READ_MAX);
    let Some(found) = follow::<F>(skb, scratch, ethernet::HEADER_LEN) else {
        return malformed::<F, P>(skb, scratch);
    };
    if matches!(
        found.protocol(),
        protocol::TCP | protocol::UDP | protocol::SCTP
    ) {
        if found.is_fragment() {
            return piece::<F, P>(skb, scratch, found);
        }
        if !behind::<F>(skb, scratch, found) {
            return malformed::<F, P>(skb, scratch);
        }
        scratch.l4 = found.l4() as u32;
        return NEXT;
    }
    if is_error::<F, _>(&packet, found)
        && let Some(quoted) = about::<F>(skb, scratch, found.l4())
        && scratch
            .parsed
            .read_quoted::<F, _>(&packet, quoted)
            .is_some()
    {
        scratch.l4 = found.l4() as u32;
        return NEXT;
    }
    if P::DECIDES_PORTLESS
        && scratch
            .parsed
            .read_portless::<F, _>(&packet, found)
            .is_some()
    {
        return portless::<F, P>(skb, scratch, found.l4());
    }
    NEXT
}

/// Out of line: the verifier follows the extension headers once for each call.
#[inline(never)]
fn follow<F: Family>(skb: *mut __sk_buff, scratch: &mut Scratch, l3: usize) -> Option<Headers> {
    headers::<F, _>(&Skb::new(skb), l3, &mut scratch.walk)
}

/// Parses what follows `found`.
#[inline(never)]
fn behind<F: Family>(skb: *mut __sk_buff, scratch: &mut Scratch, found: Headers) -> bool {
    let read = scratch.parsed.read_behind::<F, _>(&Skb::new(skb), found);
    read.is_some()
}

/// What the ICMP error whose header lies at `icmp` is about.
#[inline(always)]
fn about<F: Family>(skb: *mut __sk_buff, scratch: &mut Scratch, icmp: usize) -> Option<Quoted> {
    Quoted::new(icmp, follow::<F>(skb, scratch, icmp + icmp::HEADER_LEN)?)
}

/// Whether a packet that goes back by its uplink would come again.
#[inline(never)]
pub(crate) fn leads_back<F: Family, P: Program>(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
) -> bool {
    let run = &Run::<Skb, P>::new(Skb::new(skb));
    if let Some((parsed, _)) = parse::<F, _>(&run.ctx) {
        scratch.parsed = parsed;
        return unserved::leads_back(run, scratch);
    }
    let Some(ip) = F::read(&run.ctx, ethernet::HEADER_LEN) else {
        return false;
    };
    let is_read = scratch
        .parsed
        .read_ip::<F, _>(&run.ctx, ip.protocol)
        .is_some();
    is_read && unserved::leads_back(run, scratch)
}

/// A packet whose headers lead nowhere.
#[inline(never)]
fn malformed<F: Family, P: Program>(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let run = &mut Run::<Skb, P>::new(Skb::new(skb));
    let is_read = scratch.parsed.read_ip::<F, _>(&run.ctx, 0).is_some();
    if !P::DECIDES_PORTLESS || !is_read {
        return NEXT;
    }
    match hooks::malformed(run, scratch) {
        Action::Drop => drop::<P>(skb, scratch, scratch.outcome),
        _ => NEXT,
    }
}

/// A piece of a packet.
#[inline(never)]
fn piece<F: Family, P: Program>(skb: *mut __sk_buff, scratch: &mut Scratch, found: Headers) -> i32 {
    let run = &mut Run::<Skb, P>::new(Skb::new(skb));
    if found.is_later_fragment() {
        return later::<F, P>(run, scratch, found);
    }
    if !behind::<F>(skb, scratch, found) {
        return NEXT;
    }
    let waiting = fragments::first(run, scratch, found, P::HOOK);
    if waiting != 0 {
        if !held::release(skb, scratch, waiting, P::DIRECTION) {
            return drop::<P>(skb, scratch, Outcome::FragmentLost);
        }
        // On their way out, the other pieces have been looked at meanwhile.
        if !behind::<F>(skb, scratch, found) {
            return NEXT;
        }
    }
    scratch.l4 = found.l4() as u32;
    NEXT
}

#[inline(always)]
fn later<F: Family, P: Program>(
    run: &mut Run<Skb, P>,
    scratch: &mut Scratch,
    found: Headers,
) -> i32 {
    if scratch
        .parsed
        .read_portless::<F, _>(&run.ctx, found)
        .is_none()
    {
        return NEXT;
    }
    let ifindex = run.ctx.ifindex();
    let may_hold = P::DIRECTION == held::EGRESS || fragments::may_be_ours(run, scratch, ifindex);
    match fragments::later(run, scratch, found, P::HOOK, may_hold) {
        fragments::Later::Decide => {
            scratch.l4 = found.l4() as u32;
            NEXT
        }
        fragments::Later::Hold if held::hold(run.ctx.skb, scratch) => {
            if fragments::has_come(run, scratch) {
                held::take_back(scratch);
                scratch.l4 = found.l4() as u32;
                return NEXT;
            }
            run.insert_fragments(&scratch.held_key.packet, &scratch.fragments);
            run.count(Outcome::FragmentHeld);
            DROP
        }
        fragments::Later::Hold | fragments::Later::Lost
            if P::DIRECTION == held::INGRESS && fragments::is_ours(run, scratch) =>
        {
            drop::<P>(run.ctx.skb, scratch, Outcome::FragmentLost)
        }
        _ => NEXT,
    }
}

/// A packet without ports. Out of line, with a stack of its own.
#[inline(never)]
fn portless<F: Family, P: Program>(skb: *mut __sk_buff, scratch: &mut Scratch, l4: usize) -> i32 {
    let run = &mut Run::<Skb, P>::new(Skb::new(skb));
    let offsets = Offsets {
        l3: ethernet::HEADER_LEN,
        l4: l4 & OFFSET_MAX,
    };
    match hooks::portless(run, scratch) {
        Action::Drop => drop::<P>(skb, scratch, scratch.outcome),
        Action::Reject => {
            refuse::<P>(skb, scratch, Outcome::Rejected);
            tell::<F, P>(skb, scratch, offsets)
        }
        Action::Echo => echo::<F, P>(skb, scratch, offsets),
        _ => NEXT,
    }
}

/// Translates an ICMP error, which goes the way of the packet that would answer the quoted one:
/// `scratch.way`.
#[inline(never)]
pub(crate) fn error<F: Family, P: Program>(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let run = &mut Run::<Skb, P>::new(Skb::new(skb));
    let icmp = scratch.l4 as usize & OFFSET_MAX;
    let done = match about::<F>(skb, scratch, icmp) {
        Some(quoted) => {
            let change = scratch.rewrite_error();
            rewrite::quoted::apply::<F, _>(&mut run.ctx, &scratch.parsed, quoted, &change)
        }
        None => None,
    };
    if done.is_none() {
        return drop::<P>(skb, scratch, Outcome::NotWritable);
    }
    match scratch.way {
        way::OUT => {
            run.count(Outcome::Redirected);
            forward(scratch)
        }
        way::DIRECT => {
            run.count(Outcome::Direct);
            forward(scratch)
        }
        way::BOUNCE if rewrite::swap_macs(&mut run.ctx).is_some() => {
            run.count(Outcome::Redirected);
            back(skb)
        }
        way::TO_CLIENT | way::REMAP_BACK => {
            run.count(Outcome::Replied);
            NEXT
        }
        _ => {
            run.count(Outcome::ToStack);
            NEXT
        }
    }
}
