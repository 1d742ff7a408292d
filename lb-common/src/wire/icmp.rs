//! ICMP (RFC 792) and ICMPv6 (RFC 4443), whose headers are alike.

/// Length of the header, the word included whose meaning depends on the type, in bytes.
pub const HEADER_LEN: usize = 8;

/// Bytes of the offending packet's payload that an error quotes: enough for the ports (RFC 792).
pub const QUOTED_PAYLOAD_LEN: usize = 8;

/// Byte offsets.
pub mod field {
    /// Type; the code follows it.
    pub const TYPE: usize = 0;
    /// Checksum.
    pub const CHECKSUM: usize = 2;
}

/// Types and codes of ICMP.
pub mod v4 {
    /// Answer to an echo request.
    pub const ECHO_REPLY: u8 = 0;
    /// Are you there?
    pub const ECHO_REQUEST: u8 = 8;
    /// Destination unreachable: port (type 3, code 3).
    pub const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    /// Destination unreachable: the packet is too big, and must not be fragmented (type 3, code 4).
    /// The header's last half has the size that would do (RFC 1191).
    pub const TOO_BIG: [u8; 2] = [3, 4];
    /// The time to live has passed (type 11, code 0).
    pub const TIME_EXCEEDED: [u8; 2] = [11, 0];

    /// Whether a message of this type is about a packet of its receiver, and concerns the way
    /// behind the first router: unreachable, time exceeded, parameter problem.
    #[inline(always)]
    #[must_use]
    pub fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }
}

/// Types and codes of ICMPv6.
pub mod v6 {
    /// Are you there?
    pub const ECHO_REQUEST: u8 = 128;
    /// Answer to an echo request.
    pub const ECHO_REPLY: u8 = 129;
    /// Destination unreachable: port (type 1, code 4).
    pub const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    /// Packet too big (type 2, code 0); the header's last word has the size that would do.
    pub const TOO_BIG: [u8; 2] = [2, 0];
    /// The hop limit has passed (type 3, code 0).
    pub const TIME_EXCEEDED: [u8; 2] = [3, 0];

    /// Whether a message of this type is about a packet of its receiver: unreachable, too big, time
    /// exceeded, parameter problem.
    #[inline(always)]
    #[must_use]
    pub fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }
}
