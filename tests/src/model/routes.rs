//! The ways out of the node under test: what [`crate::programs`] set up, told once more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::Addr;

use crate::programs::{BEHIND_MAC, Family, GATEWAY_MAC, NODE2_MAC, TUNNEL_MAC, UPLINK_MAC};

/// Interface indices of the node's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    /// Towards the network.
    pub uplink: u32,
    /// The veth of all pods.
    pub pod: u32,
    /// The overlay.
    pub tunnel: u32,
}

/// Where a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a device, to a neighbour whose address is known.
    Neighbour {
        /// Interface index.
        device: u32,
        /// The neighbour.
        mac: [u8; 6],
        /// The device itself.
        own: [u8; 6],
    },
    /// By a device; who is next there has to be found out, or the kernel finds it out once more.
    Device(u32),
}

impl Way {
    /// Interface index.
    #[must_use]
    pub fn device(self) -> u32 {
        match self {
            Self::Neighbour { device, .. } | Self::Device(device) => device,
        }
    }
}

impl Devices {
    /// The way from an address to another one; nothing if there is none, or it is the node's own. What comes
    /// from an address that is of one link only, or of nobody, is not forwarded (RFC 4291, 2.5.6).
    pub(super) fn way(&self, src: Addr, addr: Addr) -> Option<Way> {
        if let IpAddr::V6(v6) = src.to_ip()
            && (v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local())
        {
            return None;
        }
        match addr.to_ip() {
            IpAddr::V4(v4) => self.way_v4(v4),
            IpAddr::V6(v6) => self.way_v6(v6),
        }
    }

    /// The address that the node sends from by a device; nothing if it does not by this one.
    pub(super) fn source(&self, device: u32, is_v4: bool) -> Option<Addr> {
        let family = if is_v4 { Family::V4 } else { Family::V6 };
        if device == self.uplink {
            Some(family.node(1).into())
        } else if device == self.tunnel {
            Some(family.tunnel().into())
        } else {
            None
        }
    }

    /// Largest packet of a device.
    pub(super) fn mtu(&self, device: u32) -> usize {
        // What vxlan puts around a packet has to fit into the uplink's.
        if device == self.tunnel { 1450 } else { 1500 }
    }

    fn by_uplink(&self, mac: [u8; 6]) -> Way {
        Way::Neighbour {
            device: self.uplink,
            mac,
            own: UPLINK_MAC,
        }
    }

    fn by_tunnel(&self) -> Way {
        Way::Neighbour {
            device: self.tunnel,
            mac: BEHIND_MAC,
            own: TUNNEL_MAC,
        }
    }

    fn way_v4(&self, addr: Ipv4Addr) -> Option<Way> {
        match addr.octets() {
            [127, ..] | [192, 168, 77, 0 | 11 | 255] | [10, 244, 1, 0] | [10, 244, 5, _] => None,
            [192, 168, 77, 12] | [10, 244, 2, _] => Some(self.by_uplink(NODE2_MAC)),
            [192, 168, 77, 1] => Some(self.by_uplink(GATEWAY_MAC)),
            [192, 168, 77, _] | [10, 244, 3, _] => Some(Way::Device(self.uplink)),
            [10, 244, 1, _] => Some(Way::Device(self.pod)),
            [10, 244, 4, _] => Some(self.by_tunnel()),
            _ => Some(self.by_uplink(GATEWAY_MAC)),
        }
    }

    fn way_v6(&self, addr: Ipv6Addr) -> Option<Way> {
        match addr.segments() {
            [0xff00..=0xffff, ..] | [0, 0, 0, 0, 0, 0, 0, 1] => None,
            [0xfd00, 0x77, 0, 0, 0, 0, 0, 0 | 0xb] => None,
            [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0] | [0xfd00, 0x10, 0x244, 5, ..] => None,
            [0xfd00, 0x77, 0, 0, 0, 0, 0, 0xc] | [0xfd00, 0x10, 0x244, 2, ..] => {
                Some(self.by_uplink(NODE2_MAC))
            }
            [0xfd00, 0x77, 0, 0, 0, 0, 0, 1] => Some(self.by_uplink(GATEWAY_MAC)),
            [0xfd00, 0x77, 0, 0, ..] | [0xfd00, 0x10, 0x244, 3, ..] => {
                Some(Way::Device(self.uplink))
            }
            [0xfd00, 0x10, 0x244, 1, ..] => Some(Way::Device(self.pod)),
            [0xfd00, 0x10, 0x244, 4, ..] => Some(self.by_tunnel()),
            _ => Some(self.by_uplink(GATEWAY_MAC)),
        }
    }
}
