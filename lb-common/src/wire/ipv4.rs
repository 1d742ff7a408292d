//! IPv4 (RFC 791).

use bytemuck::{Pod, Zeroable};

/// The header without options, as it stands on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Ipv4Header {
    /// Version in the upper half, header length in words in the lower.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload, network byte order.
    pub total_len: u16,
    /// Identification, network byte order.
    pub id: u16,
    /// Flags and fragment offset, network byte order.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Header checksum, as it stands.
    pub checksum: u16,
    /// Source address, bytes in wire order.
    pub src: u32,
    /// Destination address, bytes in wire order.
    pub dst: u32,
}

const _: () = assert!(size_of::<Ipv4Header>() == 20);

/// Length of a header with all the options that it can have, in bytes.
pub const HEADER_LEN_MAX: usize = 60;

/// Byte offsets.
pub mod field {
    /// Time to live; the protocol follows it.
    pub const TTL: usize = 8;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source address; the destination address follows it.
    pub const SRC: usize = 12;
    /// Destination address.
    pub const DST: usize = 16;
}

/// "More fragments" and the fragment offset: non-zero in every fragment (RFC 791, 3.1).
const FRAGMENT_MASK: u16 = 0x3fff;

/// The fragment offset: 0 in the first piece only.
const OFFSET_MASK: u16 = 0x1fff;

/// "Do not fragment" (RFC 791, 3.1).
pub const DONT_FRAGMENT: u16 = 0x4000;

/// Version 4, and a header without options.
pub const VERSION_IHL: u8 = 0x45;

impl Ipv4Header {
    /// Whether a router may cut this packet into pieces.
    #[inline(always)]
    #[must_use]
    pub fn may_fragment(&self) -> bool {
        self.fragment & DONT_FRAGMENT.to_be() == 0
    }

    /// Length of the header with its options, in bytes; less than 20 in a malformed packet.
    #[inline(always)]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0xf) << 2
    }

    /// Whether this is a piece that does not begin with the payload's start.
    #[inline(always)]
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment & OFFSET_MASK.to_be() != 0
    }

    /// Whether this is a piece of a fragmented packet.
    #[inline(always)]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fragment & FRAGMENT_MASK.to_be() != 0
    }
}
