//! What a sender is told by the node itself, in place of the packet that it has sent.
//!
//! Written over that packet, with addresses exchanged: the answer comes from the address that was
//! dialled, and goes back where the packet came from.

use core::hint::black_box;

use bytemuck::Zeroable;

use crate::{
    checksum::{self, Delta},
    flow::Now,
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
    /// How much there was to quote, in bytes.
    len: u32,
}

impl Quote {
    /// The longest header of IPv4, and eight bytes; IPv6's with a fragment header would do with less.
    const WORDS: usize = (ipv4::HEADER_LEN_MAX + icmp::QUOTED_PAYLOAD_LEN) / 4;

    /// How much of it there is, in bytes.
    #[inline(always)]
    fn len(&self) -> usize {
        (self.len as usize).min(4 * Self::WORDS)
    }

    /// Takes the start of a packet, with the options and the extension headers that fit, and returns
    /// the sum of that.
    #[inline(always)]
    fn take<P: PacketMut>(&mut self, packet: &P, offsets: Offsets) -> Option<Delta> {
        let len = offsets.l4 - offsets.l3 + icmp::QUOTED_PAYLOAD_LEN;
        self.len = len as u32;
        let len = self.len();
        let mut sum = Delta::ZERO;
        for (index, word) in self.words.iter_mut().enumerate() {
            if 4 * index >= len {
                break;
            }
            *word = packet.read(offsets.l3 + 4 * index)?;
            sum = added(sum, *word);
        }
        Some(sum)
    }
}

/// How many ICMP errors a CPU has sent in the second that runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroable)]
pub struct Spent {
    /// Kernel tick at which that second began.
    since: u64,
    count: u64,
}

impl Spent {
    /// Whether one more may be sent, of `limit` a second; 0 is no limit. Counts it if so.
    #[inline(always)]
    pub fn take(&mut self, now: Now, limit: u32) -> bool {
        // Unsigned: a CPU's ticks do not go back, and what was never set is long ago.
        if now.tick.wrapping_sub(self.since) >= u64::from(now.ticks_per_second) {
            (self.since, self.count) = (now.tick, 0);
        }
        self.count += 1;
        limit == 0 || self.count <= u64::from(limit)
    }
}

/// An ICMP error: its header, but for the checksum, as two words in wire order; or a RST, which is all
/// zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Message {
    head: u32,
    rest: u32,
}

impl Message {
    #[inline(always)]
    fn new(is_v4: bool, v4: [u8; 2], v6: [u8; 2], rest: u32) -> Self {
        let [kind, code] = if is_v4 { v4 } else { v6 };
        Self {
            head: u32::from_ne_bytes([kind, code, 0, 0]),
            rest: rest.to_be(),
        }
    }

    /// Nobody listens on the port: a RST (RFC 9293, 3.10.7.1), or an ICMP error.
    #[inline(always)]
    #[must_use]
    pub fn refusal(parsed: &Parsed) -> Self {
        if parsed.tuple.protocol == protocol::TCP {
            return Self { head: 0, rest: 0 };
        }
        let (v4, v6) = (icmp::v4::PORT_UNREACHABLE, icmp::v6::PORT_UNREACHABLE);
        Self::new(parsed.tuple.src.is_v4(), v4, v6, 0)
    }

    /// Whether there may only be so many a second (RFC 1812, 4.3.2.8; RFC 4443, 2.4 f). Not those by which
    /// senders learn what size gets through, nor a RST, which ends what else would go on.
    #[inline(always)]
    #[must_use]
    pub fn is_limited(self) -> bool {
        let head = self.head.to_ne_bytes();
        let [kind, code, ..] = head;
        !self.is_reset() && [kind, code] != icmp::v4::TOO_BIG && [kind, code] != icmp::v6::TOO_BIG
    }

    /// Whether it is no ICMP error, but a RST: 0 is the type of no error.
    #[inline(always)]
    fn is_reset(self) -> bool {
        self.head == 0
    }

    /// The packet is too big for its way, which takes `size` bytes.
    #[inline(always)]
    #[must_use]
    pub fn too_big(is_v4: bool, size: u32) -> Self {
        Self::new(is_v4, icmp::v4::TOO_BIG, icmp::v6::TOO_BIG, size)
    }

    /// The packet has lived too long.
    #[inline(always)]
    #[must_use]
    pub fn time_exceeded(is_v4: bool) -> Self {
        Self::new(is_v4, icmp::v4::TIME_EXCEEDED, icmp::v6::TIME_EXCEEDED, 0)
    }
}

/// Makes the packet an ICMP error about itself, or a RST. Nothing if it cannot be answered: a RST never
/// is.
#[inline(always)]
pub fn tell<F: Family, P: Resize>(
    packet: &mut P,
    parsed: &Parsed,
    offsets: Offsets,
    quote: &mut Quote,
    message: Message,
) -> Option<()> {
    may_be_answered(packet, parsed)?;
    if message.is_reset() {
        reset::<F, P>(packet, parsed, offsets)
    } else {
        error::<F, P>(packet, parsed, offsets, quote, message)
    }
}

/// Nothing if the packet comes from nobody in particular, or went to a whole link, or is an error or a
/// later piece of a packet: such packets are never answered (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
#[inline(always)]
fn may_be_answered<P: PacketMut>(packet: &P, parsed: &Parsed) -> Option<()> {
    let [group, _] = packet
        .read::<u16>(ethernet::field::ADDRESSES)?
        .to_ne_bytes();
    (group & 1 == 0 && parsed.tuple.src.is_of_a_host() && parsed.has_ports()).then_some(())
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
fn error<F: Family, P: Resize>(
    packet: &mut P,
    parsed: &Parsed,
    offsets: Offsets,
    quote: &mut Quote,
    message: Message,
) -> Option<()> {
    let own = if F::IS_V4 {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    let place = offsets.l3 + ip_header_len::<F>();
    let sum = quote.take(packet, offsets)?;
    // The verifier forgets after how many rounds that was: else it follows all that comes for each.
    let quote = black_box(&*quote);
    let quoted_len = quote.len();
    let icmp_len = icmp::HEADER_LEN + quoted_len;
    let pseudo = if F::IS_V4 {
        Delta::ZERO
    } else {
        pseudo_header(parsed, own, icmp_len as u32)
    };
    let Message { head, rest } = message;
    let sum = added(added(sum.and(pseudo), head), rest);

    packet.set_len(place + icmp_len)?;
    let field = if parsed.tuple.protocol == protocol::TCP {
        tcp::field::CHECKSUM
    } else {
        udp::field::CHECKSUM
    };
    let is_partial = !parsed.no_checksum && packet.is_checksum_partial(offsets.l4 + field);
    if is_partial && offsets.l4 != place {
        return None;
    }
    swap_macs(packet)?;
    write_ip::<F, P>(packet, parsed, offsets.l3, own, icmp_len as u16)?;
    packet.store(place, &[head, rest])?;
    packet.store(place + icmp::field::CHECKSUM, &checksum::apply(!0, sum))?;
    for (index, word) in quote.words.iter().enumerate() {
        if 4 * index >= quoted_len {
            break;
        }
        packet.store(place + icmp::HEADER_LEN + 4 * index, word)?;
    }
    if is_partial {
        // The device will put a sum over the whole error in here. The error's own checksum, which is
        // right, makes that sum come out as what stands here now, if the pseudo-header is added.
        packet.store(place + field, &!checksum::apply(!0, pseudo))?;
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
    let reply = if F::IS_V4 {
        icmp::v4::ECHO_REPLY
    } else {
        icmp::v6::ECHO_REPLY
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
    // With the code, which is 0 in a reply and ought to be in a request.
    let before: u16 = packet.read(offsets.l4 + icmp::field::TYPE)?;
    let after = u16::from_ne_bytes([reply, 0]);
    let field: u16 = packet.read(offsets.l4 + icmp::field::CHECKSUM)?;
    let field = checksum::apply(field, Delta::ZERO.replace_half(before, after));
    packet.store(offsets.l4 + icmp::field::TYPE, &after)?;
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
