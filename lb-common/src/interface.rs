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
/// the node's own address as its source.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Interface {
    /// Source address of SNATed IPv4 packets that leave here; unspecified if it has none.
    pub snat4: Addr,
    /// Source address of SNATed IPv6 packets that leave here; unspecified if it has none.
    pub snat6: Addr,
    /// A [`Role`] as a number.
    pub role: u8,
    /// Zero.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<Interface>() == 36);
