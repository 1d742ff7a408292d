//! Who has which address, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Cluster address of a Service.
    #[must_use]
    pub fn vip(self, number: u8) -> IpAddr {
        self.pick(
            [10, 96, 0, number],
            [0xfd00, 0x10, 0x96, 0, 0, 0, 0, number.into()],
        )
    }

    /// A pod, by its node and its number there. Node 1 is the one under test; node 2 is reached
    /// by the uplink, node 3, too, but does not answer neighbour discovery; node 4 by the
    /// tunnel; to node 5 there is no way.
    #[must_use]
    pub fn pod(self, node: u8, number: u8) -> IpAddr {
        let v6 = [0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, number.into()];
        self.pick([10, 244, node, number], v6)
    }

    /// A node on the network of the uplink.
    #[must_use]
    pub fn node(self, number: u8) -> IpAddr {
        let last = 10 + number;
        self.pick(
            [192, 168, 77, last],
            [0xfd00, 0x77, 0, 0, 0, 0, 0, last.into()],
        )
    }

    /// The node under test on the tunnel.
    #[must_use]
    pub fn tunnel(self) -> IpAddr {
        self.pod(1, 0)
    }

    /// Somebody behind the gateway.
    #[must_use]
    pub fn client(self, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        let v6 = [0x2001, 0xdb8, 0, 0, 0, 0, 0, number];
        self.pick([198, 18, high, low], v6)
    }

    /// External address of a Service.
    #[must_use]
    pub fn external(self, number: u8) -> IpAddr {
        let v6 = [0x2001, 0xdb8, 1, 0, 0, 0, 0, number.into()];
        self.pick([203, 0, 113, number], v6)
    }

    fn pick(self, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(v4).into(),
            Self::V6 => Ipv6Addr::from(v6).into(),
        }
    }
}
