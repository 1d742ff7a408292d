//! Addresses that Services have, whatever the port.

use bytemuck::{Pod, Zeroable};

use crate::Addr;

/// Value of `VIPS`, keyed by address: a cluster, external or load-balancer address of Services
/// that is none of the node's own, or one of those at which the node serves NodePorts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Vip {
    /// Bits of [`flags`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Vip>() == 4);

/// Bits of [`Vip::flags`].
pub mod flags {
    /// A cluster address: a port that no Service has there is rejected (item 44).
    pub const CLUSTER_IP: u32 = 1;
    /// A Service of the address has a usable endpoint: an ICMP echo request is answered (item 29).
    pub const SERVED: u32 = 2;
    /// An address of the node itself, at which it serves NodePorts: for all else its kernel answers.
    pub const NODE: u32 = 4;
}

impl Vip {
    /// Whether one of `flags` is set.
    #[inline(always)]
    #[must_use]
    pub fn has(self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// A network that cluster addresses are allocated from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct ServiceNet {
    /// Its address; IPv4 in the IPv4-mapped form.
    pub addr: Addr,
    /// Its mask; for IPv4 the first twelve bytes are all ones.
    pub mask: Addr,
    /// Bits of [`net_flags`].
    pub flags: u32,
}

/// Bits of [`ServiceNet::flags`].
pub mod net_flags {
    /// The element is a network; the first without any flag ends the list.
    pub const IN_USE: u32 = 1;
    /// All cluster addresses of the family lie in such networks: an address in there that no
    /// Service has leads nowhere, and packets for it are dropped (item 44).
    pub const KNOWN: u32 = 2;
    /// Behind the programs that see this there are others that translate connections: earlier programs,
    /// with maps of their own, or netfilter with the rules of a proxy that was there before. Packets of
    /// connections that these programs do not know are left to those. Alone, the element is no network,
    /// but all other addresses.
    pub const PREDECESSORS: u32 = 4;
}

/// The only element of `SERVICE_NETS`: where cluster addresses can be.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct ServiceNets {
    /// The networks of both families.
    pub nets: [ServiceNet; ServiceNets::MAX],
}

const _: () = assert!(size_of::<ServiceNets>() == 8 * 36);

impl ServiceNet {
    /// Whether `addr` lies in the network.
    #[inline(always)]
    #[must_use]
    pub fn contains(&self, addr: Addr) -> bool {
        let [a0, a1, a2, a3] = addr.to_wire_words();
        let [n0, n1, n2, n3] = self.addr.to_wire_words();
        let [m0, m1, m2, m3] = self.mask.to_wire_words();
        (a0 & m0 ^ n0) | (a1 & m1 ^ n1) | (a2 & m2 ^ n2) | (a3 & m3 ^ n3) == 0
    }
}

impl ServiceNets {
    /// Networks of both families together, at most.
    pub const MAX: usize = 8;

    /// What programs see until they know all that earlier ones do.
    pub const PREDECESSORS: Self = {
        let mut nets = [ServiceNet {
            addr: Addr::UNSPECIFIED,
            mask: Addr::UNSPECIFIED,
            flags: 0,
        }; Self::MAX];
        nets[0].flags = net_flags::PREDECESSORS;
        Self { nets }
    };

    /// The same networks, with others behind the programs that translate connections to all addresses;
    /// only to those of these networks if there is no more room.
    #[must_use]
    pub fn with_predecessors(mut self) -> Self {
        for net in &mut self.nets {
            let was_last = net.flags & net_flags::IN_USE == 0;
            net.flags |= net_flags::PREDECESSORS;
            if was_last {
                break;
            }
        }
        self
    }

    /// Whether others behind the programs translate connections.
    #[must_use]
    pub fn has_predecessors(&self) -> bool {
        self.nets[0].flags & net_flags::PREDECESSORS != 0
    }

    /// The flags of the first network that `addr` lies in; 0 if it lies in none.
    #[inline(always)]
    #[must_use]
    pub fn flags_of(&self, addr: Addr) -> u32 {
        for net in &self.nets {
            if net.flags == 0 {
                return 0;
            }
            if net.contains(addr) {
                return net.flags;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv6Addr};

    use super::*;

    fn net(addr: &str, prefix: u32) -> ServiceNet {
        let ip: IpAddr = addr.parse().unwrap();
        let bits = if ip.is_ipv4() { prefix + 96 } else { prefix };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        ServiceNet {
            addr: ip.into(),
            mask: Addr {
                octets: Ipv6Addr::from_bits(mask).octets(),
            },
            flags: net_flags::IN_USE | prefix << 8,
        }
    }

    #[test]
    fn the_first_network_that_an_address_lies_in_counts() {
        let mut nets = ServiceNets::default();
        nets.nets[0] = net("10.96.0.0", 16);
        nets.nets[1] = net("fd00:10:96::", 112);
        nets.nets[2] = net("0.0.0.0", 0);
        let prefix = |addr: &str| {
            let addr: IpAddr = addr.parse().unwrap();
            nets.flags_of(addr.into()) >> 8
        };
        assert_eq!(prefix("10.96.255.1"), 16);
        assert_eq!(prefix("10.97.0.1"), 0);
        assert_eq!(prefix("fd00:10:96::ffff"), 112);
        assert_eq!(nets.flags_of(Addr::from(Ipv6Addr::LOCALHOST)), 0);
    }

    #[test]
    fn others_behind_are_behind_every_address_as_far_as_there_is_room() {
        let flags = |nets: &ServiceNets, addr: &str| {
            let addr: IpAddr = addr.parse().unwrap();
            nets.flags_of(addr.into()) & 0xff
        };
        const BOTH: u32 = net_flags::IN_USE | net_flags::PREDECESSORS;
        assert_eq!(
            ServiceNets::default().with_predecessors(),
            ServiceNets::PREDECESSORS
        );
        let mut nets = ServiceNets::default();
        nets.nets[0] = net("10.96.0.0", 16);
        assert!(!nets.has_predecessors());
        let nets = nets.with_predecessors();
        assert!(nets.has_predecessors());
        assert_eq!(flags(&nets, "10.96.0.1"), BOTH);
        assert_eq!(flags(&nets, "192.0.2.1"), net_flags::PREDECESSORS);
        assert_eq!(flags(&nets, "2001:db8::1"), net_flags::PREDECESSORS);
        assert_eq!(nets.with_predecessors(), nets);
        let full = ServiceNets {
            nets: [net("10.96.0.0", 16); ServiceNets::MAX],
        };
        let full = full.with_predecessors();
        assert_eq!(flags(&full, "10.96.0.1"), BOTH);
        assert_eq!(flags(&full, "192.0.2.1"), 0);
    }
}
