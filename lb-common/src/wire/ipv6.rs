//! IPv6 (RFC 8200).

use bytemuck::{Pod, Zeroable};

/// The fixed header, as it stands on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Ipv6Header {
    /// Version, traffic class and flow label, network byte order.
    pub version_flow: u32,
    /// Length of what follows this header, network byte order.
    pub payload_len: u16,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address, bytes in wire order.
    pub src: [u32; 4],
    /// Destination address, bytes in wire order.
    pub dst: [u32; 4],
}

const _: () = assert!(size_of::<Ipv6Header>() == HEADER_LEN);

/// Length of the fixed header, in bytes.
pub const HEADER_LEN: usize = 40;

/// Byte offsets.
pub mod field {
    /// Next header; the hop limit follows it.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address; the destination address follows it.
    pub const SRC: usize = 8;
    /// Destination address.
    pub const DST: usize = 24;
}

/// Length of the fragment header, in bytes (RFC 8200, section 4.5).
pub const FRAGMENT_LEN: usize = 8;
/// Fragment offset within that header's third and fourth byte, host byte order.
pub const FRAGMENT_OFFSET_MASK: u16 = 0xfff8;
/// "More fragments" within those bytes, host byte order.
pub const MORE_FRAGMENTS: u16 = 1;

/// Whether this is the number of an extension header, behind which another one follows
/// (RFC 8200, section 4): hop-by-hop and destination options, routing, fragment, authentication.
#[inline(always)]
#[must_use]
pub fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 44 | 51 | 60)
}
