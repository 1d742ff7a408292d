//! Translating ICMP errors, and the packets that they quote.

use super::{Change, Endpoint, PacketMut, Side, finish_ip, replace_addr, replace_port};
use crate::{
    checksum::{self, Delta},
    packet::{Family, Parsed, Quoted},
    protocol,
    wire::{ethernet, icmp, ipv4, tcp, udp},
};

/// What becomes of an ICMP error. The packet that would answer the quoted one is what was
/// [parsed](Parsed::read_quoted), so its source is the quoted packet's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRewrite<'a> {
    /// New source of the answering packet, if it changes.
    pub src: Option<&'a Endpoint>,
    /// New destination of the answering packet, if it changes: who gets the error.
    pub dst: Option<&'a Endpoint>,
    /// As in [`Rewrite`](super::Rewrite). Then the new source stands for every router on the way, and
    /// not only for the other end: where the error goes, nobody may know a way for addresses from
    /// here, and a router drops what comes from one of its own.
    pub routed: bool,
}

/// Carries out `rewrite` on the error that was parsed as `parsed`. Nothing if the frame ends
/// before what it quotes does, which `parsed` rules out.
///
/// No checksum here is left to a device: routers compute those of errors. And what a NIC has summed
/// up stays right, since the changes and those of the checksums make up for each other.
#[inline(always)]
pub fn apply<F: Family, P: PacketMut>(
    packet: &mut P,
    parsed: &Parsed,
    quoted: Quoted,
    rewrite: &ErrorRewrite<'_>,
) -> Option<()> {
    let l3 = ethernet::HEADER_LEN;
    let (src, dst) = (parsed.tuple.source(), parsed.tuple.destination());
    let mut inner = Change::default();
    let mut addrs = Change::default();
    if let Some(new) = rewrite.src {
        replace_end::<F, P>(packet, quoted, Side::Dst, src, new, &mut inner)?;
        let [sender, _] = F::addresses(packet, l3)?;
        if rewrite.routed || sender.to_wire_words() == src.addr.to_wire_words() {
            replace_addr::<F, P>(packet, l3, Side::Src, sender, new.addr, &mut addrs)?;
        }
    }
    if let Some(new) = rewrite.dst {
        replace_end::<F, P>(packet, quoted, Side::Src, dst, new, &mut inner)?;
        // Who gets the error is who sent the quoted packet.
        replace_addr::<F, P>(packet, l3, Side::Dst, dst.addr, new.addr, &mut addrs)?;
    }
    finish_ip::<F, P>(packet, parsed, l3, rewrite.routed, addrs.addrs)?;
    let fields = quoted_checksums::<F, P>(packet, parsed, quoted, &inner)?;
    let mut sum = inner.addrs.and(inner.ports).and(fields);
    if !F::IS_V4 {
        sum = sum.and(addrs.addrs);
    }
    let place = quoted.icmp + icmp::field::CHECKSUM;
    let field: u16 = packet.read(place)?;
    packet.store(place, &checksum::apply(field, sum))
}

#[inline(always)]
fn replace_end<F: Family, P: PacketMut>(
    packet: &mut P,
    quoted: Quoted,
    side: Side,
    old: Endpoint,
    new: &Endpoint,
    change: &mut Change,
) -> Option<()> {
    replace_addr::<F, P>(packet, quoted.l3, side, old.addr, new.addr, change)?;
    replace_port(
        packet,
        quoted.headers.l4(),
        side,
        old.port,
        new.port,
        change,
    )
}

/// Updates the checksums within the quoted packet, of which TCP's may not be there any more. What
/// that changes in the sum over the error.
#[inline(always)]
fn quoted_checksums<F: Family, P: PacketMut>(
    packet: &mut P,
    parsed: &Parsed,
    quoted: Quoted,
    change: &Change,
) -> Option<Delta> {
    let mut sum = Delta::ZERO;
    if F::IS_V4 {
        let place = quoted.l3 + ipv4::field::CHECKSUM;
        let old: u16 = packet.read(place)?;
        let new = checksum::apply(old, change.addrs);
        packet.store(place, &new)?;
        sum = sum.replace_half(old, new);
    }
    let delta = change.addrs.and(change.ports);
    let (field, is_udp) = match parsed.tuple.protocol {
        protocol::UDP => (udp::field::CHECKSUM, true),
        protocol::TCP => (tcp::field::CHECKSUM, false),
        _ => return Some(sum),
    };
    let place = quoted.headers.l4() + field;
    // Behind the packet's end there may be padding, which no checksum covers.
    if place + size_of::<u16>() > ethernet::HEADER_LEN + usize::from(parsed.ip_len) {
        return Some(sum);
    }
    let Some(old) = packet.read::<u16>(place) else {
        return Some(sum);
    };
    let new = if is_udp {
        checksum::apply_udp(old, delta)
    } else {
        checksum::apply(old, delta)
    };
    packet.store(place, &new)?;
    Some(sum.replace_half(old, new))
}
