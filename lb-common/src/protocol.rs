//! Transport protocols by their IP number.

/// A transport protocol number as it stands in an IP header (IANA "Protocol Numbers").
///
/// A plain number, not an enum: it is part of map keys, where any byte may appear.
pub type Protocol = u8;

/// ICMP.
pub const ICMP: Protocol = 1;
/// TCP.
pub const TCP: Protocol = 6;
/// UDP.
pub const UDP: Protocol = 17;
/// IPv6's routing header.
pub const ROUTING: Protocol = 43;
/// IPv6's fragment header.
pub const FRAGMENT: Protocol = 44;
/// The authentication header (RFC 4302).
pub const AUTHENTICATION: Protocol = 51;
/// ICMPv6.
pub const ICMPV6: Protocol = 58;
/// SCTP.
pub const SCTP: Protocol = 132;

/// The protocol's name as Kubernetes spells it, or `?`.
#[must_use]
pub fn name(protocol: Protocol) -> &'static str {
    match protocol {
        ICMP => "ICMP",
        TCP => "TCP",
        UDP => "UDP",
        ICMPV6 => "ICMPv6",
        SCTP => "SCTP",
        _ => "?",
    }
}
