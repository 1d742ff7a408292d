//! The headers of packets that are not as most are: fragments, and IPv6 with extension headers.

use core::{hint::black_box, num::NonZeroU64};

use bytemuck::Zeroable;

use super::{Family, Packet};
use crate::{
    Protocol, protocol,
    wire::{ipv4::Ipv4Header, ipv6},
};

/// Extension headers that are followed.
const EXTENSIONS_MAX: u32 = 8;

/// Bytes of extension headers that are followed: more than anybody has a use for.
const EXTENSIONS_LEN_MAX: usize = 256;

/// Bytes from a frame's start within which the transport header of a packet with extension headers
/// begins, and so does the one of a packet that an ICMP error quotes.
pub const OFFSET_MAX: usize = 0x3ff;

/// What stands between an IP header and the transport header, in one word: it is found out of line,
/// and a register is all that comes back from there.
///
/// The identification of a fragment in the upper half, then where the transport header begins,
/// flags, and the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers(NonZeroU64);

impl Headers {
    const FOUND: u64 = 1 << 8;
    const FRAGMENT: u32 = 1 << 9;
    const LATER: u32 = 1 << 10;

    #[inline(always)]
    fn new(protocol: Protocol, l4: usize, piece: Piece) -> Option<Self> {
        let word = u64::from(piece.id) << 32 | (l4 as u64 & 0xffff) << 16;
        let flags = Self::FOUND | u64::from(piece.flags);
        NonZeroU64::new(word | flags | u64::from(protocol)).map(Self)
    }

    /// Protocol of the transport header.
    #[inline(always)]
    #[must_use]
    pub fn protocol(self) -> Protocol {
        self.0.get() as u8
    }

    /// Where the transport header begins, or a later fragment's piece of what follows it, in bytes
    /// from the frame's start.
    #[inline(always)]
    #[must_use]
    pub fn l4(self) -> usize {
        (self.0.get() >> 16) as usize & OFFSET_MAX
    }

    /// Whether this is a piece of a packet.
    #[inline(always)]
    #[must_use]
    pub fn is_fragment(self) -> bool {
        self.0.get() as u32 & Self::FRAGMENT != 0
    }

    /// Whether this is a piece that does not begin with the transport header.
    #[inline(always)]
    #[must_use]
    pub fn is_later_fragment(self) -> bool {
        self.0.get() as u32 & Self::LATER != 0
    }

    /// Identification of the packet that this is a piece of, as it stands on the wire.
    #[inline(always)]
    #[must_use]
    pub fn fragment_id(self) -> u32 {
        (self.0.get() >> 32) as u32
    }
}

/// Which piece of a packet this is. Not an enum: its fields would be undefined in a whole packet, and
/// the verifier refuses to look at such.
#[derive(Clone, Copy)]
struct Piece {
    flags: u32,
    id: u32,
}

impl Piece {
    #[inline(always)]
    fn new(is_later: bool, is_first: bool, id: u32) -> Self {
        let flags = if is_later {
            Headers::FRAGMENT | Headers::LATER
        } else if is_first {
            Headers::FRAGMENT
        } else {
            0
        };
        Self { flags, id }
    }
}

/// How far the headers have been followed.
///
/// In memory that the verifier knows nothing about: numbers on the stack would be others after each
/// kind of header, and it would follow every sequence of them on its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Zeroable)]
pub struct Walk {
    next: u32,
    at: u32,
    flags: u32,
    id: u32,
}

/// Follows the headers from the IP header at `l3` to the transport header. Nothing if they are
/// malformed, if there are too many, or if the packet's destination is only a station on its way.
#[inline(always)]
#[must_use]
pub fn headers<F: Family, P: Packet>(packet: &P, l3: usize, walk: &mut Walk) -> Option<Headers> {
    let ip = F::read(packet, l3)?;
    if F::IS_V4 {
        let header: Ipv4Header = packet.read(l3)?;
        let piece = Piece::new(
            header.is_later_fragment(),
            header.is_fragment(),
            u32::from(header.id),
        );
        return Headers::new(ip.protocol, ip.l4, piece);
    }
    *walk = Walk {
        next: u32::from(ip.protocol),
        at: ip.l4 as u32,
        flags: 0,
        id: 0,
    };
    let end = ip.l4 + EXTENSIONS_LEN_MAX;
    // Once more, to see that no other one follows.
    for _ in 0..=EXTENSIONS_MAX {
        let walk = black_box(&mut *walk);
        let next = walk.next as u8;
        if !ipv6::is_extension(next) || walk.flags & Headers::LATER != 0 {
            let piece = Piece {
                flags: walk.flags,
                id: walk.id,
            };
            return Headers::new(next, walk.at as usize & OFFSET_MAX, piece);
        }
        extension(packet, walk)?;
        if walk.at as usize > end {
            return None;
        }
    }
    None
}

/// Steps over one extension header.
#[inline(always)]
fn extension<P: Packet>(packet: &P, walk: &mut Walk) -> Option<()> {
    let [first, id]: [u32; 2] = packet.read(walk.at as usize & OFFSET_MAX)?;
    let [next, units, kind, segments_left] = first.to_ne_bytes();
    let len = match walk.next as u8 {
        protocol::FRAGMENT => {
            let offset = u16::from_ne_bytes([kind, segments_left]);
            // One without others is all of its packet (RFC 6946).
            let piece = Piece::new(
                offset & ipv6::FRAGMENT_OFFSET_MASK.to_be() != 0,
                offset & ipv6::MORE_FRAGMENTS.to_be() != 0,
                id,
            );
            (walk.flags, walk.id) = (piece.flags, piece.id);
            ipv6::FRAGMENT_LEN as u32
        }
        protocol::ROUTING if segments_left != 0 => return None,
        protocol::AUTHENTICATION => (u32::from(units) + 2) * 4,
        _ => (u32::from(units) + 1) * 8,
    };
    walk.next = u32::from(next);
    walk.at = walk.at.wrapping_add(len);
    Some(())
}
