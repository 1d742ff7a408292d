//! UDP (RFC 768).

use bytemuck::{Pod, Zeroable};

/// The header, as it stands on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct UdpHeader {
    /// Source port, network byte order.
    pub src_port: u16,
    /// Destination port, network byte order.
    pub dst_port: u16,
    /// Length of header and payload, network byte order.
    pub len: u16,
    /// Checksum as it stands; 0 means that there is none (IPv4).
    pub checksum: u16,
}

const _: () = assert!(size_of::<UdpHeader>() == 8);

/// Byte offsets, the same for the ports of TCP.
pub mod field {
    /// Source port; the destination port follows it.
    pub const SRC_PORT: usize = 0;
    /// Destination port.
    pub const DST_PORT: usize = 2;
    /// Checksum.
    pub const CHECKSUM: usize = 6;
}
