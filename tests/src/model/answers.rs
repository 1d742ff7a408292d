//! What the node itself answers.

use lb_common::{Addr, protocol};

use super::{
    frame,
    headers::{Reading, Shape},
    sums,
};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The time to live of what the node sends itself.
const TTL: u8 = 64;

/// An ICMP error: type and code, and the word behind the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    kind: [u8; 2],
    rest: u32,
}

impl Message {
    fn new(is_v4: bool, v4: [u8; 2], v6: [u8; 2], rest: u32) -> Self {
        let kind = if is_v4 { v4 } else { v6 };
        Self { kind, rest }
    }

    /// Nobody listens on the port (RFC 792; RFC 4443, 3.1).
    fn port_unreachable(is_v4: bool) -> Self {
        Self::new(is_v4, [3, 3], [1, 4], 0)
    }

    /// The way takes packets of this size (RFC 1191; RFC 4443, 3.2).
    pub(super) fn too_big(is_v4: bool, size: u32) -> Self {
        Self::new(is_v4, [3, 4], [2, 0], size)
    }

    /// The time to live has passed.
    pub(super) fn time_exceeded(is_v4: bool) -> Self {
        Self::new(is_v4, [11, 0], [3, 0], 0)
    }
}

/// Nobody serves what the packet dials: TCP gets a RST, everything else an ICMP error. Nothing if
/// it must not or cannot be answered.
pub(super) fn refusal(packet: &Reading<'_>) -> Option<Vec<u8>> {
    if !may_be_answered(packet) {
        return None;
    }
    if packet.is_tcp() {
        reset(packet)
    } else {
        error(packet, Message::port_unreachable(packet.is_v4))
    }
}

/// The sender is told about its packet. Nothing if it must not or cannot be.
pub(super) fn told(packet: &Reading<'_>, message: Message) -> Option<Vec<u8>> {
    may_be_answered(packet).then(|| error(packet, message))?
}

/// Nobody in particular is never answered, nor is what went to a whole link, an error, or a later
/// piece of a packet.
fn may_be_answered(packet: &Reading<'_>) -> bool {
    let is_group = packet.frame[0] & 1 != 0;
    let is_somebody = match packet.tuple.src.to_ip() {
        std::net::IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            (1..224).contains(&first) && first != 127
        }
        std::net::IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified() || v6.is_loopback()),
    };
    is_somebody && !is_group && packet.shape == Shape::Whole
}

/// RFC 9293, 3.10.7.1: a segment with an ACK is answered at the number that it expects next; any
/// other by acknowledging all of it.
fn reset(packet: &Reading<'_>) -> Option<Vec<u8>> {
    let flags = packet.tcp_flags;
    if flags & RST != 0 {
        return None;
    }
    let header = &packet.frame[packet.l4..packet.l4 + 14];
    let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let headers = packet.ip_header_len() + usize::from(header[12] >> 4) * 4;
    let data = packet.ip_len.saturating_sub(headers) as u32;
    let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (sequence, acknowledged, flags) = if flags & ACK != 0 {
        (number(8), 0, RST)
    } else {
        let all = number(4).wrapping_add(data).wrapping_add(counted);
        (0, all, RST | ACK)
    };
    let mut segment = Vec::new();
    segment.extend(packet.tuple.dst_port.to_be_bytes());
    segment.extend(packet.tuple.src_port.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(u32::to_be_bytes(acknowledged));
    segment.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    Some(answer(packet, protocol::TCP, segment, 16))
}

/// An error with all headers of the packet before the transport's, and eight bytes more; but not more
/// than the longest header of IPv4 makes. Nothing if the packet has less.
fn error(packet: &Reading<'_>, message: Message) -> Option<Vec<u8>> {
    let quoted_len = (packet.ip_header_len() + 8).min(60 + 8);
    let quoted = packet.frame.get(14..14 + quoted_len)?;
    let mut bytes = vec![message.kind[0], message.kind[1], 0, 0];
    bytes.extend(message.rest.to_be_bytes());
    bytes.extend(quoted);
    Some(answer(packet, packet.icmp(), bytes, 2))
}

/// A frame from what the packet dialled to who sent it, that carries `payload`, which has its
/// checksum at `field`.
fn answer(packet: &Reading<'_>, protocol: u8, mut payload: Vec<u8>, field: usize) -> Vec<u8> {
    let (src, dst) = (packet.tuple.dst, packet.tuple.src);
    let mut sum = sums::sum(&payload);
    // ICMP for IPv4 alone has no pseudo-header.
    if protocol != protocol::ICMP {
        for part in [address(packet, &src), address(packet, &dst)] {
            sum = sums::add(sum, sums::sum(part));
        }
        sum = sums::add(sum, payload.len() as u16);
        sum = sums::add(sum, protocol.into());
    }
    payload[field..field + 2].copy_from_slice(&(!sum).to_be_bytes());
    let mut frame = packet.frame[..14].to_vec();
    frame::exchange_macs(&mut frame);
    if packet.is_v4 {
        let total = (20 + payload.len()) as u16;
        let [high, low] = total.to_be_bytes();
        let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, TTL, protocol, 0, 0];
        header.extend(address(packet, &src));
        header.extend(address(packet, &dst));
        let sum = sums::sum(&header);
        header[10..12].copy_from_slice(&(!sum).to_be_bytes());
        frame.extend(header);
    } else {
        let [high, low] = (payload.len() as u16).to_be_bytes();
        frame.extend([0x60, 0, 0, 0, high, low, protocol, TTL]);
        frame.extend(src.octets);
        frame.extend(dst.octets);
    }
    frame.extend(payload);
    frame
}

/// An address as it stands in the family's header.
fn address<'a>(packet: &Reading<'_>, addr: &'a Addr) -> &'a [u8] {
    if packet.is_v4 {
        &addr.octets[12..]
    } else {
        &addr.octets
    }
}

/// The reply to an echo request: type and ends change, all else comes back. Nothing if it must not
/// be answered, or is cut off before its checksum.
pub(super) fn echo(packet: &Reading<'_>) -> Option<Vec<u8>> {
    if !may_be_answered(packet) || packet.frame.len() < packet.l4 + 4 {
        return None;
    }
    let mut frame = packet.frame.to_vec();
    frame::exchange_macs(&mut frame);
    let ttl = if packet.is_v4 {
        frame[26..34].rotate_left(4);
        22
    } else {
        frame[22..54].rotate_left(16);
        21
    };
    frame[ttl] = TTL;
    if packet.is_v4 {
        let header = 14..14 + usize::from(packet.frame[14] & 15) * 4;
        frame::carry(&mut frame, packet.frame, 24, [header])?;
    }
    let reply = if packet.is_v4 { 0 } else { 129 };
    frame[packet.l4..packet.l4 + 2].copy_from_slice(&[reply, 0]);
    // The addresses that ICMPv6 covers, too, are the same ones.
    let message = packet.l4..frame.len();
    frame::carry(&mut frame, packet.frame, packet.l4 + 2, [message])?;
    Some(frame)
}
