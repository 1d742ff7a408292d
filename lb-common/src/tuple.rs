//! The 5-tuple of a packet.

use bytemuck::Zeroable;

use crate::{Addr, FrontendKey, PinKey, Protocol, hash};

/// Source, destination and protocol of a packet; ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Zeroable)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: Protocol,
}

impl Tuple {
    /// The frontend that a packet with this tuple dials.
    #[inline(always)]
    #[must_use]
    pub fn frontend(&self) -> FrontendKey {
        FrontendKey::new(self.dst, self.dst_port, self.protocol)
    }

    /// The key under which an exceptional backend of this flow is remembered.
    #[inline(always)]
    #[must_use]
    pub fn pin(&self) -> PinKey {
        PinKey {
            src: self.src,
            dst: self.dst,
            src_port: self.src_port,
            dst_port: self.dst_port,
            protocol: self.protocol,
            pad: 0,
            pad_half: 0,
        }
    }

    /// The flow's hash: selects the slot, and the source port of SNAT.
    ///
    /// The source port enters linearly, by the golden ratio: the consecutive ports of one client
    /// spread over the slots more evenly than chance would have it (three-distance theorem).
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, seed: u32) -> u32 {
        let ports = u64::from(self.dst_port) << 16 | u64::from(self.protocol);
        hash::pair(self.src, self.dst, ports, seed)
            .wrapping_add(u32::from(self.src_port).wrapping_mul(hash::GOLDEN))
    }
}
