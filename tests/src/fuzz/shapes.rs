//! Packets that are not as most are: errors, pieces, extension headers.

use std::net::IpAddr;

use fastrand::Rng;
use lb_common::protocol;

use super::packets;

/// Source and destination address of a frame.
fn addresses(frame: &[u8]) -> Option<[IpAddr; 2]> {
    let v4 = |at: usize| Some(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?.into());
    let v6 = |at: usize| Some(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?.into());
    match frame.get(12..14)? {
        [8, 0] => Some([v4(26)?, v4(30)?]),
        [0x86, 0xdd] => Some([v6(22)?, v6(38)?]),
        _ => None,
    }
}

/// An ICMP error about a frame, from its destination or from `router`.
pub(super) fn error(rng: &mut Rng, frame: &[u8], router: IpAddr) -> Option<Vec<u8>> {
    let [src, dst] = addresses(frame)?;
    let sender = if router.is_ipv4() == src.is_ipv4() && rng.bool() {
        router
    } else {
        dst
    };
    let (kind, code) = if src.is_ipv4() {
        let kinds = [
            (3, 0),
            (3, 1),
            (3, 3),
            (3, 4),
            (11, 0),
            (12, 0),
            (5, 1),
            (4, 0),
        ];
        rng.choice(kinds)?
    } else {
        rng.choice([(1, 0), (1, 4), (2, 0), (3, 0), (4, 1), (137, 0), (5, 0)])?
    };
    let all = &frame[14..];
    // Mostly as much as routers quote.
    let len = match rng.u8(..4) {
        0 => rng.usize(..=all.len()),
        1 => all.len(),
        _ => (if src.is_ipv4() { 28 } else { 48 }).min(all.len()),
    };
    let mut rest = vec![0, 0, 5, rng.u8(..)];
    rest.extend(&all[..len]);
    let mut error = packets::icmp(sender, src, kind, code, &rest);
    if rng.u8(..12) == 0 {
        let ttl = if src.is_ipv4() { 22 } else { 21 };
        // Of IPv4, the checksum is wrong then: nobody looks at that here.
        error[ttl] = rng.u8(..3);
    }
    if rng.u8(..10) == 0 {
        // Padding, which belongs to nothing.
        error.resize(error.len() + rng.usize(1..24), 0xaa);
    }
    Some(error)
}

/// Cuts a frame into pieces of a packet with this identification.
pub(super) fn pieces(rng: &mut Rng, frame: &[u8], id: u8) -> Vec<Vec<u8>> {
    let Some([src, dst]) = addresses(frame) else {
        return vec![frame.to_vec()];
    };
    let is_v4 = src.is_ipv4();
    let header_len = if is_v4 {
        usize::from(frame[14] & 15) * 4
    } else {
        40
    };
    let Some(payload) = frame.get(14 + header_len..) else {
        return vec![frame.to_vec()];
    };
    let number = if is_v4 { frame[23] } else { frame[20] };
    let size = 8 * rng.usize(1..8);
    let count = payload.len().div_ceil(size);
    let piece = |(index, bytes): (usize, &[u8])| {
        let more = u16::from(index + 1 < count);
        if is_v4 {
            let offset = (index * size / 8) as u16 | more << 13;
            let mut piece = packets::packet(src, dst, number, 64, 0, 0, bytes);
            piece[18..20].copy_from_slice(&[0, id]);
            piece[20..22].copy_from_slice(&offset.to_be_bytes());
            packets::sum_header(&mut piece);
            piece
        } else {
            let offset = (index * size) as u16 | more;
            let [high, low] = offset.to_be_bytes();
            let header = [number, 0, high, low, 0, 0, 0, id];
            packets::packet(
                src,
                dst,
                protocol::FRAGMENT,
                64,
                0,
                0,
                &[&header, bytes].concat(),
            )
        }
    };
    let mut pieces: Vec<_> = payload.chunks(size).enumerate().map(piece).collect();
    match rng.u8(..4) {
        0 => rng.shuffle(&mut pieces),
        1 => pieces.reverse(),
        _ => {}
    }
    if rng.u8(..6) == 0 {
        // One comes twice, or one is lost.
        match rng.choice(&pieces).cloned() {
            Some(piece) if rng.bool() => pieces.push(piece),
            _ => {
                pieces.pop();
            }
        }
    }
    pieces
}

/// Puts extension headers into an IPv6 frame.
pub(super) fn extend(rng: &mut Rng, frame: &mut Vec<u8>) {
    if frame.len() < 54 || frame[12..14] != [0x86, 0xdd] {
        return;
    }
    let mut headers = Vec::new();
    let mut next = frame[20];
    let count = rng.usize(1..4).max(if rng.u8(..8) == 0 {
        rng.usize(1..11)
    } else {
        0
    });
    for _ in 0..count {
        let kind = rng.choice([0, 60, 60, 43, 51, 44]).unwrap_or(60);
        let units = if rng.u8(..10) == 0 {
            rng.u8(..20)
        } else {
            rng.u8(..3)
        };
        let header = match kind {
            // An atomic fragment.
            44 => vec![next, 0, 0, 0, 0, 0, 0, 9],
            51 => {
                let mut header = vec![next, units.max(1)];
                header.resize((usize::from(units.max(1)) + 2) * 4, 0);
                header
            }
            _ => {
                let mut header = vec![next, units, 1, 4];
                header.resize((usize::from(units) + 1) * 8, 0);
                // A routing header whose stations have all been passed, mostly.
                header[3] = if kind == 43 {
                    u8::from(rng.u8(..4) == 0)
                } else {
                    4
                };
                header
            }
        };
        headers = [header, headers].concat();
        next = kind;
    }
    frame[20] = next;
    let len = (frame.len() - 54 + headers.len()) as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame.splice(54..54, headers);
}
