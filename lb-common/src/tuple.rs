//! The 5-tuple of a packet.

use bytemuck::Zeroable;

use crate::{Addr, FrontendKey, PinKey, Protocol, hash, rewrite::Endpoint};

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
    /// Where the packet comes from.
    #[inline(always)]
    #[must_use]
    pub fn source(&self) -> Endpoint {
        Endpoint {
            addr: self.src,
            port: self.src_port,
        }
    }

    /// Where it goes.
    #[inline(always)]
    #[must_use]
    pub fn destination(&self) -> Endpoint {
        Endpoint {
            addr: self.dst,
            port: self.dst_port,
        }
    }

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

    /// The flow's hash: its upper half selects the slot, its lower half the source port of SNAT.
    ///
    /// The source port enters the upper half with its bits reversed (van der Corput's sequence):
    /// of a client's consecutive ports, every 2^n select each slot of a table of 2^n slots once,
    /// whatever n. A multiple of the port would not do: Maglev deals out its slots by
    /// multiples, too, and where the two are in step, some backends get twice what others get.
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, seed: u32) -> u32 {
        let ports = u64::from(self.dst_port) << 16 | u64::from(self.protocol);
        let upper = u32::from(self.src_port.reverse_bits()) << 16;
        let lower = u32::from(self.src_port).wrapping_mul(hash::GOLDEN) & 0xffff;
        hash::pair(self.src, self.dst, ports, seed) ^ (upper | lower)
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use std::{collections::BTreeSet, vec};

    use proptest::prelude::*;

    use super::*;
    use crate::{DatapathConfig, Extent, protocol, select};

    fn tuple(src: u32, src_port: u16) -> Tuple {
        Tuple {
            src: Ipv4Addr::from_bits(src).into(),
            dst: Ipv4Addr::new(10, 96, 0, 17).into(),
            src_port,
            dst_port: 80,
            protocol: protocol::TCP,
        }
    }

    proptest! {
        #[test]
        fn consecutive_ports_of_a_client_select_every_slot_equally_often(
            client: u32, first in 0..32_768_u16, bits in 7..15_u32, seed: u32,
        ) {
            let extent = Extent { offset: 0, bits };
            let mut counts = vec![0_u32; extent.elements() as usize];
            for port in first..first + (1 << bits) {
                counts[extent.slot_index(tuple(client, port).hash(seed)) as usize] += 1;
            }
            prop_assert_eq!(counts, [vec![0], vec![1; 1 << bits]].concat());
        }

        #[test]
        fn consecutive_ports_of_a_client_get_different_snat_ports(client: u32, first in 1024..60_000_u16) {
            let config = DatapathConfig::DEFAULT;
            let range = config.ports(Addr::UNSPECIFIED, true);
            let ports: BTreeSet<u16> = (first..first + 100)
                .map(|port| tuple(client, port))
                .map(|tuple| select::source_port(range, &tuple, tuple.hash(config.seed), 0))
                .collect();
            // 97 at worst, of all hashes of addresses and all first ports.
            prop_assert!(ports.len() >= 97, "{}", ports.len());
        }
    }
}
