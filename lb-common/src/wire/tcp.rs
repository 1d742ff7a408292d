//! TCP (RFC 9293).

use bytemuck::{Pod, Zeroable};

/// The first fourteen bytes of the header, as they stand on the wire: up to the flags.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct TcpStart {
    /// Source port, network byte order.
    pub src_port: u16,
    /// Destination port, network byte order.
    pub dst_port: u16,
    /// Sequence number, network byte order, in two halves.
    pub sequence: [u16; 2],
    /// Acknowledgment number, network byte order, in two halves.
    pub acknowledgment: [u16; 2],
    /// Header length in words, in the upper half.
    pub data_offset: u8,
    /// Flags.
    pub flags: u8,
}

const _: () = assert!(size_of::<TcpStart>() == 14);

impl TcpStart {
    /// Sequence and acknowledgment number.
    #[inline(always)]
    #[must_use]
    pub fn numbers(&self) -> [u32; 2] {
        [self.sequence, self.acknowledgment].map(|[high, low]| {
            let [high, low] = [u16::from_be(high), u16::from_be(low)];
            u32::from(high) << 16 | u32::from(low)
        })
    }
}

/// Byte offsets.
pub mod field {
    /// Checksum.
    pub const CHECKSUM: usize = 16;
}

/// The header length of a header without options, as the byte that holds it, reserved bits clear.
pub const NO_OPTIONS: u8 = 5 << 4;

/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 20;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// The acknowledgment number is valid.
pub const ACK: u8 = 0x10;
