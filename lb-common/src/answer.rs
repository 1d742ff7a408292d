//! What a sender is told by the node itself, in place of the packet that it has sent.
//!
//! Written over that packet, with addresses exchanged: the answer comes from the address that was
//! dialled, and goes back where the packet came from.

use bytemuck::Zeroable;

use crate::{
    checksum::{self, Delta},
    packet::{Family, Offsets, Parsed},
    protocol,
    rewrite::{PacketMut, swap_macs},
    wire::{
        ethernet, icmp,
        ipv4::{self, Ipv4Header},
        ipv6, tcp, udp,
    },
};

/// A packet whose length can be changed.
pub trait Resize: PacketMut {
    /// Cuts the frame, or adds bytes of any value at its end. Nothing if that cannot be.
    fn set_len(&mut self, len: usize) -> Option<()>;

    /// Whether the transport checksum is left to the device: then its field, at `offset`, is to
    /// hold the sum of the pseudo-header, and the device completes it. May overwrite the field.
    fn is_checksum_partial(&mut self, offset: usize) -> bool;
}

/// The time to live of packets that are made here (RFC 1700).
const TTL: u8 = 64;

/// Working memory: the start of the packet that an error quotes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Quote {
    /// The IP header, and the first bytes behind it; IPv4 leaves the last words.
    pub words: [u32; Quote::WORDS],
}

impl Quote {
    /// IPv6's header, and eight bytes.
    const WORDS: usize = (ipv6::HEADER_LEN + icmp::QUOTED_PAYLOAD_LEN) / 4;
}

/// Makes the packet a RST (RFC 9293, 3.10.7.1), or an ICMP error that nobody listens on the port.
///
/// Nothing if it cannot be answered: a RST never is, nor is a header with options.
#[inline(always)]
pub fn reject<F: Family, P: Resize>(
    packet: &mut P,
    parsed: &Parsed,
    offsets: Offsets,
    quote: &mut Quote,
) -> Option<()> {
    may_be_answered(packet, parsed)?;
    if parsed.tuple.protocol == protocol::TCP {
        reset::<F, P>(packet, parsed, offsets)
    } else {
        unreachable::<F, P>(packet, parsed, offsets, quote)
    }
}

/// Nothing if the packet comes from nobody in particular, or went to a whole link: such packets are
/// never answered (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
#[inline(always)]
fn may_be_answered<P: PacketMut>(packet: &P, parsed: &Parsed) -> Option<()> {
    let [group, _] = packet
        .read::<u16>(ethernet::field::ADDRESSES)?
        .to_ne_bytes();
    let src = parsed.tuple.src;
    let is_one = if src.is_v4() {
        let first = u32::from_be(src.to_wire_v4()) >> 24;
        first != 0 && first != 127 && first < 224
    } else {
        let [a, b, c, d] = src.to_wire_words();
        let first = u32::from_be(a) >> 24;
        let is_unspecified_or_loopback = (a | b | c) == 0 && u32::from_be(d) <= 1;
        first != 0xff && !is_unspecified_or_loopback
    };
    (group & 1 == 0 && is_one).then_some(())
}

/// Length of the IP header without options.
#[inline(always)]
fn ip_header_len<F: Family>() -> usize {
    if F::IS_V4 {
        size_of::<Ipv4Header>()
    } else {
        ipv6::HEADER_LEN
    }
}

#[inline(always)]
fn reset<F: Family, P: Resize>(packet: &mut P, parsed: &Parsed, offsets: Offsets) -> Option<()> {
    if parsed.tcp_flags & tcp::RST != 0 {
        return None;
    }
    let start: tcp::TcpStart = packet.read(offsets.l4)?;
    let header_len = u32::from(start.data_offset >> 4) << 2;
    let before = (offsets.l4 - offsets.l3) as u32 + header_len;
    let data_len = u32::from(parsed.ip_len).saturating_sub(before);
    let counted =
        u32::from(parsed.tcp_flags & tcp::SYN != 0) + u32::from(parsed.tcp_flags & tcp::FIN != 0);
    let sequence = number(start.sequence)
        .wrapping_add(data_len)
        .wrapping_add(counted);
    let (sequence, acknowledgment, flags) = if parsed.tcp_flags & tcp::ACK != 0 {
        (number(start.acknowledgment), 0, tcp::RST)
    } else {
        (0, sequence, tcp::RST | tcp::ACK)
    };

    let l4 = offsets.l3 + ip_header_len::<F>();
    packet.set_len(l4 + tcp::HEADER_LEN)?;
    let is_partial = packet.is_checksum_partial(l4 + tcp::field::CHECKSUM);
    swap_macs(packet)?;
    write_ip::<F, P>(
        packet,
        parsed,
        offsets.l3,
        protocol::TCP,
        tcp::HEADER_LEN as u16,
    )?;
    let ports = u32::from(parsed.tuple.dst_port) << 16 | u32::from(parsed.tuple.src_port);
    let rest = u32::from(tcp::NO_OPTIONS) << 24 | u32::from(flags) << 16;
    let words = [
        ports.to_be(),
        sequence.to_be(),
        acknowledgment.to_be(),
        rest.to_be(),
    ];
    packet.store(l4, &words)?;
    let pseudo = pseudo_header(parsed, protocol::TCP, tcp::HEADER_LEN as u32);
    let field = if is_partial {
        !checksum::apply(!0, pseudo)
    } else {
        checksum::apply(!0, words.into_iter().fold(pseudo, added))
    };
    packet.store(l4 + tcp::field::CHECKSUM, &[field, 0])
}

#[inline(always)]
fn unreachable<F: Family, P: Resize>(
    packet: &mut P,
    parsed: &Parsed,
    offsets: Offsets,
    quote: &mut Quote,
) -> Option<()> {
    let header_len = ip_header_len::<F>();
    if offsets.l4 != offsets.l3 + header_len {
        return None;
    }
    let quoted_len = header_len + icmp::QUOTED_PAYLOAD_LEN;
    let [kind, code] = if F::IS_V4 {
        icmp::v4::PORT_UNREACHABLE
    } else {
        icmp::v6::PORT_UNREACHABLE
    };
    let own = if F::IS_V4 {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    let icmp_len = icmp::HEADER_LEN + quoted_len;
    let head = u32::from_ne_bytes([kind, code, 0, 0]);
    let pseudo = if F::IS_V4 {
        Delta::ZERO
    } else {
        pseudo_header(parsed, own, icmp_len as u32)
    };
    let mut sum = added(pseudo, head);
    for (index, word) in quote.words.iter_mut().enumerate().take(quoted_len / 4) {
        *word = packet.read(offsets.l3 + 4 * index)?;
        sum = added(sum, *word);
    }

    packet.set_len(offsets.l4 + icmp_len)?;
    let is_partial = parsed.tuple.protocol == protocol::UDP
        && packet.is_checksum_partial(offsets.l4 + udp::field::CHECKSUM);
    swap_macs(packet)?;
    write_ip::<F, P>(packet, parsed, offsets.l3, own, icmp_len as u16)?;
    packet.store(offsets.l4, &[head, 0])?;
    packet.store(
        offsets.l4 + icmp::field::CHECKSUM,
        &checksum::apply(!0, sum),
    )?;
    if is_partial {
        // The device will write a sum where UDP has its checksum. Nobody reads these bytes of an
        // error, but they are part of what its own checksum covers: this makes that come out right.
        let seed = !checksum::apply(!0, pseudo);
        packet.store(offsets.l4 + udp::field::CHECKSUM, &seed)?;
    }
    for (index, word) in quote.words.iter().enumerate().take(quoted_len / 4) {
        packet.store(offsets.l4 + icmp::HEADER_LEN + 4 * index, word)?;
    }
    Some(())
}

/// Makes an echo request the reply to it.
#[inline(always)]
pub fn echo<F: Family, P: PacketMut>(
    packet: &mut P,
    parsed: &Parsed,
    offsets: Offsets,
) -> Option<()> {
    may_be_answered(packet, parsed)?;
    let [request, reply] = if F::IS_V4 {
        [icmp::v4::ECHO_REQUEST, icmp::v4::ECHO_REPLY]
    } else {
        [icmp::v6::ECHO_REQUEST, icmp::v6::ECHO_REPLY]
    };
    swap_macs(packet)?;
    // Exchanged addresses leave every sum as it is.
    let (src, dst) = (parsed.tuple.src, parsed.tuple.dst);
    if F::IS_V4 {
        let addresses = [dst.to_wire_v4(), src.to_wire_v4()];
        packet.store(offsets.l3 + ipv4::field::SRC, &addresses)?;
        let word = |ttl: u8| u16::from_ne_bytes([ttl, parsed.tuple.protocol]);
        let field: u16 = packet.read(offsets.l3 + ipv4::field::CHECKSUM)?;
        let field = checksum::apply(field, Delta::ZERO.replace_half(word(parsed.ttl), word(TTL)));
        packet.store(offsets.l3 + ipv4::field::CHECKSUM, &field)?;
        packet.store(offsets.l3 + ipv4::field::TTL, &TTL)?;
    } else {
        packet.store(offsets.l3 + ipv6::field::SRC, &dst.to_wire_words())?;
        packet.store(offsets.l3 + ipv6::field::DST, &src.to_wire_words())?;
        packet.store(offsets.l3 + ipv6::field::HOP_LIMIT, &TTL)?;
    }
    let word = |kind: u8| u16::from_ne_bytes([kind, 0]);
    let field: u16 = packet.read(offsets.l4 + icmp::field::CHECKSUM)?;
    let field = checksum::apply(field, Delta::ZERO.replace_half(word(request), word(reply)));
    // With the code, which is 0: of a single byte, the verifier does not see that it is in the packet.
    packet.store(offsets.l4 + icmp::field::TYPE, &word(reply))?;
    packet.store(offsets.l4 + icmp::field::CHECKSUM, &field)
}

/// Writes the IP header of an answer to `parsed`, with a payload of `len` bytes.
#[inline(always)]
fn write_ip<F: Family, P: PacketMut>(
    packet: &mut P,
    parsed: &Parsed,
    l3: usize,
    protocol: u8,
    len: u16,
) -> Option<()> {
    let (src, dst) = (parsed.tuple.dst, parsed.tuple.src);
    if F::IS_V4 {
        let total_len = size_of::<Ipv4Header>() as u16 + len;
        let head = u32::from(ipv4::VERSION_IHL) << 24 | u32::from(total_len);
        let life = u32::from(TTL) << 24 | u32::from(protocol) << 16;
        let words = [
            head.to_be(),
            u32::from(ipv4::DONT_FRAGMENT).to_be(),
            life.to_be(),
            src.to_wire_v4(),
            dst.to_wire_v4(),
        ];
        let sum = checksum::apply(!0, words.into_iter().fold(Delta::ZERO, added));
        packet.store(l3, &words)?;
        return packet.store(l3 + ipv4::field::CHECKSUM, &sum);
    }
    let head = 6_u32 << 28;
    let life = u32::from(len) << 16 | u32::from(protocol) << 8 | u32::from(TTL);
    packet.store(l3, &[head.to_be(), life.to_be()])?;
    packet.store(l3 + ipv6::field::SRC, &src.to_wire_words())?;
    packet.store(l3 + ipv6::field::DST, &dst.to_wire_words())
}

/// The sum of the pseudo-header of an answer to `parsed` (RFC 9293, 3.1; RFC 8200, 8.1).
#[inline(always)]
fn pseudo_header(parsed: &Parsed, protocol: u8, len: u32) -> Delta {
    let sum = Delta::ZERO;
    let sum = if parsed.tuple.src.is_v4() {
        added(
            added(sum, parsed.tuple.src.to_wire_v4()),
            parsed.tuple.dst.to_wire_v4(),
        )
    } else {
        let (src, dst) = (
            parsed.tuple.src.to_wire_words(),
            parsed.tuple.dst.to_wire_words(),
        );
        src.into_iter().chain(dst).fold(sum, added)
    };
    added(added(sum, len.to_be()), u32::from(protocol).to_be())
}

/// `sum` with one word more in what is summed.
#[inline(always)]
fn added(sum: Delta, word: u32) -> Delta {
    sum.replace_word(0, word)
}

#[inline(always)]
fn number([high, low]: [u16; 2]) -> u32 {
    u32::from(u16::from_be(high)) << 16 | u32::from(u16::from_be(low))
}

#[cfg(test)]
mod tests;
