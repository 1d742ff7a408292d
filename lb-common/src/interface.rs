//! What the programs know about a network device.

use bytemuck::{Pod, Zeroable};

use crate::Addr;

/// What an interface is to the load balancer.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The host end of a pod's veth.
    Pod = 1,
    /// A device towards the network, with an Ethernet header.
    Uplink = 2,
    /// An overlay device: vxlan, geneve.
    Tunnel = 3,
}

/// Value of `INTERFACES`, keyed by interface index: the devices that a packet may leave by with
/// the node's own address as its source, and pods' veths whose packets may go by their bridge.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Interface {
    /// Source address of SNATed IPv4 packets that leave here; unspecified if it has none.
    pub snat4: Addr,
    /// Source address of SNATed IPv6 packets that leave here; unspecified if it has none.
    pub snat6: Addr,
    /// Interface index of the bridge that a pod's veth is a port of; else 0.
    pub bridge: u32,
    /// A [`Role`] as a number.
    pub role: u8,
    /// Bits of [`flags`].
    pub flags: u8,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<Interface>() == 40);

/// Bits of [`Interface::flags`].
pub mod flags {
    /// What the bridge passes on between its ports is hidden from the node's netfilter: IPv4. So must
    /// be what goes the other way, or conntrack sees half of a connection.
    pub const DIRECT4: u8 = 1;
    /// The same, IPv6.
    pub const DIRECT6: u8 = 2;
    /// XDP of ours meets the packets of an uplink before tc does.
    pub const XDP: u8 = 4;
    /// By which device and neighbour an IPv4 packet leaves depends on its destination alone, as no rule of the node asks for more,
    /// and no route has several ways.
    pub const BY_DESTINATION4: u8 = 8;
    /// The same, IPv6.
    pub const BY_DESTINATION6: u8 = 16;
}

impl Interface {
    /// Whether packets of a family may go by the bridge.
    #[inline(always)]
    #[must_use]
    pub fn is_direct(&self, is_v4: bool) -> bool {
        self.has(is_v4, flags::DIRECT4, flags::DIRECT6)
    }

    /// Whether all packets of a family for one destination leave by one way.
    #[inline(always)]
    #[must_use]
    pub fn is_by_destination(&self, is_v4: bool) -> bool {
        self.has(is_v4, flags::BY_DESTINATION4, flags::BY_DESTINATION6)
    }

    /// Whether it has the flag of a family.
    #[inline(always)]
    fn has(&self, is_v4: bool, v4: u8, v6: u8) -> bool {
        self.flags & if is_v4 { v4 } else { v6 } != 0
    }
}
