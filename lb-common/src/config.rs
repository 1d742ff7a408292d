//! Constants of a loaded program, set by the agent before the verifier sees it.

use bytemuck::{Pod, Zeroable};

use crate::Addr;

/// Read-only configuration of the programs (`CONFIG`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DatapathConfig {
    /// Network namespace cookie of the node itself (`SO_NETNS_COOKIE`): socket translation
    /// leaves other namespaces alone. 0 translates in all.
    pub netns_cookie: u64,
    /// Seed of the flow hash. Equal on every node: a flow that moves to another node finds the
    /// same backend there, if the tables have the same size.
    pub seed: u32,
    /// First source port of SNAT, host byte order, from an address that others send from, too.
    pub snat_port_first: u16,
    /// Last source port of SNAT, host byte order.
    pub snat_port_last: u16,
    /// Kernel ticks a second (`CONFIG_HZ`).
    pub ticks_per_second: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// The last four bytes of the addresses of IPv4 and of IPv6 that only SNAT sends from, in wire
    /// order; of no meaning without their flags.
    pub snat_addresses: [u32; 2],
    /// ICMP errors that a CPU sends a second, without those that packets are too big; 0 is no limit.
    pub icmp_errors_per_second: u32,
    /// Elements of `FRONTEND_INDEX`; 0 if there is none, and programs ask `FRONTENDS`. Whoever loads the
    /// programs knows it.
    pub frontend_buckets: u32,
    /// Elements of `ESTABLISHED`. Whoever loads the programs knows it.
    pub mark_buckets: u32,
    /// Seed of the marks in `ESTABLISHED`. A secret: whoever loads the programs chooses it by chance.
    pub mark_seed: u32,
}

/// Bits of [`DatapathConfig::flags`].
pub mod flags {
    /// A TCP connection whose backend is gone is reset.
    pub const RESET_VANISHED: u32 = 1;
    /// SNAT has an IPv4 address of its own.
    pub const OWN_SNAT4: u32 = 2;
    /// SNAT has an IPv6 address of its own.
    pub const OWN_SNAT6: u32 = 4;
}

const _: () = assert!(size_of::<DatapathConfig>() == 48);

impl DatapathConfig {
    /// SNAT ports lie above what sockets of nodes and pods pick
    /// (`net.ipv4.ip_local_port_range`, 32768–60999 by default).
    pub const DEFAULT: Self = Self {
        netns_cookie: 0,
        seed: 0x6c62_3031,
        snat_port_first: 61_000,
        snat_port_last: 65_535,
        ticks_per_second: 250,
        flags: 0,
        snat_addresses: [0; 2],
        icmp_errors_per_second: Self::ICMP_ERRORS_PER_SECOND,
        frontend_buckets: 0,
        mark_buckets: 0,
        mark_seed: 0,
    };

    /// As many as the kernel sends of its own, on all CPUs together (`net.ipv4.icmp_msgs_per_sec`).
    pub const ICMP_ERRORS_PER_SECOND: u32 = 1000;

    /// Whether one of `flags` is set.
    #[inline(always)]
    #[must_use]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// The same with an address that only SNAT sends from.
    #[must_use]
    pub fn with_snat_address(self, addr: Addr) -> Self {
        let (flag, [v4, v6]) = if addr.is_v4() {
            (
                flags::OWN_SNAT4,
                [addr.to_wire_v4(), self.snat_addresses[1]],
            )
        } else {
            (
                flags::OWN_SNAT6,
                [self.snat_addresses[0], addr.to_wire_v4()],
            )
        };
        Self {
            flags: self.flags | flag,
            snat_addresses: [v4, v6],
            ..self
        }
    }

    /// Whether SNAT has an address of its own in the family of `addr`.
    #[inline(always)]
    fn owns_snat(&self, addr: Addr) -> bool {
        let flag = if addr.is_v4() {
            flags::OWN_SNAT4
        } else {
            flags::OWN_SNAT6
        };
        self.flags & flag != 0
    }

    /// Source ports of flows whose backend has the address `addr`: of SNATed ones if `is_snat`, else of
    /// those that keep their address.
    #[inline(always)]
    #[must_use]
    pub fn ports(&self, addr: Addr, is_snat: bool) -> Ports {
        const OWN: u32 = flags::OWN_SNAT4 | flags::OWN_SNAT6;
        let is_own = self.flags & OWN != 0 && is_snat && self.owns_snat(addr);
        Ports {
            first: if is_own {
                Ports::UNPRIVILEGED
            } else {
                self.snat_port_first
            },
            last: self.snat_port_last,
        }
    }

    /// Whether `port` may be the source port of a SNATed flow, from an address that others send from,
    /// too.
    #[inline(always)]
    #[must_use]
    pub fn is_snat_port(&self, port: u16) -> bool {
        port >= self.snat_port_first && port <= self.snat_port_last
    }

    /// Whether a packet for `addr` and `port` may be a reply to an SNATed flow. True for a few others:
    /// the flow's record has the whole address.
    #[inline(always)]
    #[must_use]
    pub fn may_be_snat(&self, addr: Addr, port: u16) -> bool {
        let [v4, v6] = self.snat_addresses;
        let word = addr.to_wire_v4();
        let is_own =
            self.has(flags::OWN_SNAT4) && word == v4 || self.has(flags::OWN_SNAT6) && word == v6;
        self.is_snat_port(port) || is_own && port >= Ports::UNPRIVILEGED
    }
}

/// A range of ports, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Ports {
    /// The first port that anybody may use.
    const UNPRIVILEGED: u16 = 1024;

    /// Whether `port` is in the range.
    #[inline(always)]
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        port >= self.first && port <= self.last
    }

    /// How many there are.
    #[inline(always)]
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }
}

impl Default for DatapathConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn an_address_of_its_own_has_nearly_all_ports_and_no_other_has() {
        let v4 = Addr::from(Ipv4Addr::new(192, 0, 2, 1));
        let other_v4 = Addr::from(Ipv4Addr::new(192, 0, 2, 2));
        let v6 = Addr::from(Ipv6Addr::LOCALHOST);
        let (few, many) = ((61_000, 65_535), (1024, 65_535));
        for (own, expected) in [
            (&[][..], [few, few]),
            (&[v4], [many, few]),
            (&[v6], [few, many]),
            (&[v4, v6], [many, many]),
        ] {
            let config = own.iter().fold(DatapathConfig::DEFAULT, |config, addr| {
                config.with_snat_address(*addr)
            });
            let range = |addr, is_snat| {
                let Ports { first, last } = config.ports(addr, is_snat);
                (first, last)
            };
            // Of the family that the flow has, whatever its addresses.
            assert_eq!([other_v4, v6].map(|addr| range(addr, true)), expected);
            assert_eq!([v4, v6].map(|addr| range(addr, false)), [few, few]);
            for addr in [v4, v6] {
                let is_own = own.contains(&addr);
                let may_be = |port| config.may_be_snat(addr, port);
                assert_eq!(
                    [80, 1023, 1024, 60_999].map(may_be),
                    [false, false, is_own, is_own]
                );
                assert_eq!([61_000, 65_535].map(may_be), [true, true]);
            }
            assert!(!config.may_be_snat(other_v4, 60_999));
        }
    }
}
