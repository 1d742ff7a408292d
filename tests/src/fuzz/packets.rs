//! Frames of well-behaved hosts.

use std::net::{IpAddr, SocketAddr};

use lb_common::protocol;

use crate::programs::{GATEWAY_MAC, UPLINK_MAC};

/// What a frame is to say. Its checksums are right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) protocol: u8,
    /// Of TCP.
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) ttl: u8,
    /// Bytes of payload.
    pub(super) payload: usize,
    /// Whether no router may cut it into pieces (IPv4).
    pub(super) whole: bool,
    /// UDP without a checksum.
    pub(super) unsummed: bool,
    /// Words of options in the IPv4 header.
    pub(super) options: u8,
}

impl Plan {
    pub(super) fn new(protocol: u8, flags: u8, src: SocketAddr, dst: SocketAddr) -> Self {
        Self {
            src,
            dst,
            protocol,
            flags,
            sequence: 0x0102_0304,
            acknowledged: 0x0506_0708,
            ttl: 64,
            payload: 5,
            whole: false,
            unsummed: false,
            options: 0,
        }
    }

    /// The frame.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut segment = Vec::with_capacity(40 + self.payload);
        segment.extend(self.src.port().to_be_bytes());
        segment.extend(self.dst.port().to_be_bytes());
        let field = match self.protocol {
            protocol::TCP => {
                segment.extend(self.sequence.to_be_bytes());
                segment.extend(self.acknowledged.to_be_bytes());
                segment.extend([5 << 4, self.flags, 0x20, 0, 0, 0, 0, 0]);
                Some(16)
            }
            protocol::UDP => {
                segment.extend(((8 + self.payload) as u16).to_be_bytes());
                segment.extend([0, 0]);
                Some(6)
            }
            _ => {
                // SCTP: a tag, and a CRC that nobody here looks at.
                segment.extend([0, 0, 0, 1, 0x77, 0x77, 0x77, 0x77]);
                None
            }
        };
        segment.extend((b'a'..=b'z').cycle().take(self.payload));
        if let Some(field) = field.filter(|_| !self.unsummed) {
            let sum = !pseudo_sum(self.src.ip(), self.dst.ip(), self.protocol, &segment);
            let sum = if sum == 0 && self.protocol == protocol::UDP {
                0xffff
            } else {
                sum
            };
            segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self.around(&segment)
    }

    fn around(&self, payload: &[u8]) -> Vec<u8> {
        let (src, dst) = (self.src.ip(), self.dst.ip());
        let flags = if self.whole { 0x40 } else { 0 };
        packet(
            src,
            dst,
            self.protocol,
            self.ttl,
            flags,
            self.options,
            payload,
        )
    }
}

/// A frame of any protocol.
pub(super) fn packet(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ttl: u8,
    flags: u8,
    options: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = [UPLINK_MAC, GATEWAY_MAC].concat();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([8, 0]);
            let header_len = 20 + 4 * usize::from(options);
            let [high, low] = ((header_len + payload.len()) as u16).to_be_bytes();
            let mut header = vec![0x45 + options, 0, high, low, 0x12, 0x34, flags, 0];
            header.extend([ttl, protocol, 0, 0]);
            header.extend(src.octets());
            header.extend(dst.octets());
            // Options that say nothing.
            header.resize(header_len, 1);
            frame.extend(header);
            sum_header(&mut frame);
        }
        (src, dst) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((payload.len() as u16).to_be_bytes());
            frame.extend([protocol, ttl]);
            for addr in [src, dst] {
                frame.extend(octets_v6(addr));
            }
        }
    }
    frame.extend(payload);
    frame
}

/// Puts the right checksum into the header of an IPv4 frame.
pub(super) fn sum_header(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = !sum(&frame[14..end], 0);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// An ICMP message with its checksum.
pub(super) fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    let number = if src.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    let sum = if src.is_ipv4() {
        !sum(&message, 0)
    } else {
        !pseudo_sum(src, dst, number, &message)
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(src, dst, number, 64, 0, 0, &message)
}

fn octets_v6(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// One's complement sum over big-endian words.
fn sum(bytes: &[u8], initial: u32) -> u16 {
    let mut sum = initial;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo_sum(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let mut all = u32::from(protocol) + payload.len() as u32;
    for addr in [src, dst] {
        all += match addr {
            IpAddr::V4(v4) => u32::from(sum(&v4.octets(), 0)),
            IpAddr::V6(v6) => u32::from(sum(&v6.octets(), 0)),
        };
    }
    sum(payload, all)
}

/// Whether a whole packet's checksums are right; nothing if it has none that are known.
pub(super) fn are_sums_right(frame: &[u8]) -> Option<bool> {
    let ethertype = frame.get(12..14)?;
    let (src, dst, protocol, payload): (IpAddr, IpAddr, u8, &[u8]) = match ethertype {
        [8, 0] => {
            let header = frame.get(14..14 + usize::from(frame.get(14)? & 15) * 4)?;
            if header.len() < 20 || header[6] & 0x3f != 0 || header[7] != 0 {
                return None;
            }
            if sum(header, 0) != 0xffff {
                return Some(false);
            }
            let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let src: [u8; 4] = header[12..16].try_into().ok()?;
            let dst: [u8; 4] = header[16..20].try_into().ok()?;
            let payload = frame.get(14 + header.len()..14 + total)?;
            (src.into(), dst.into(), header[9], payload)
        }
        [0x86, 0xdd] => {
            let header = frame.get(14..54)?;
            let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
            let src: [u8; 16] = header[8..24].try_into().ok()?;
            let dst: [u8; 16] = header[24..40].try_into().ok()?;
            (src.into(), dst.into(), header[6], frame.get(54..54 + len)?)
        }
        _ => return None,
    };
    match protocol {
        protocol::UDP if payload.get(6..8)? == [0, 0] => None,
        protocol::TCP | protocol::UDP | protocol::ICMPV6 => {
            Some(pseudo_sum(src, dst, protocol, payload) == 0xffff)
        }
        protocol::ICMP => Some(sum(payload, 0) == 0xffff),
        _ => None,
    }
}
