//! Ethernet II.

/// Length of the header without tags, in bytes.
pub const HEADER_LEN: usize = 14;

/// Byte offsets.
pub mod field {
    /// Destination address, six bytes; the source address follows it.
    pub const ADDRESSES: usize = 0;
    /// EtherType, two bytes.
    pub const ETHERTYPE: usize = 12;
}

/// EtherType of IPv4, host byte order.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6, host byte order.
pub const IPV6: u16 = 0x86dd;
