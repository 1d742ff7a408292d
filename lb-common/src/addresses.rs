//! Which addresses other tables can know: all else costs a packet no look-up in them.
//!
//! A Bloom filter with one hash: a bit for each address and role, and for each port of a backend. Bits are
//! set before an element is written that they stand for, and never cleared: flows outlive backends, and a
//! bit too many costs one look-up.

use crate::{Addr, hash};

/// What an address may be, whatever the port.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An address of `FRONTENDS`.
    Dialled = 1,
    /// An address of `BACKENDS`, of now or of earlier. Programs do not ask for it any more: earlier ones,
    /// which may come back, do.
    Backend = 2,
    /// An address of `VIPS`.
    Vip = 3,
}

/// What stands beside a backend's port in the hash: more than any [`Role`].
const PORT_SHIFT: u32 = 8;

/// Binary logarithm of the number of bits: nearly three for each that is set if all maps of the default size
/// are full.
const BITS: u32 = 20;

/// Elements of `ADDRESSES`, of 64 bits each.
pub const ELEMENTS: usize = 1 << (BITS - 6);

/// Where an address has its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the element.
    pub index: u32,
    /// The bit within it.
    pub mask: u64,
}

impl Place {
    /// The place of `addr` as a `role`.
    #[inline(always)]
    #[must_use]
    pub fn of(addr: Addr, role: Role) -> Self {
        Self::by(addr, role as u64)
    }

    /// The place of a backend of now or of earlier, by the port that replies come from, too: what a pod
    /// sends as a client of others is none of its replies. `port` in host byte order.
    #[inline(always)]
    #[must_use]
    pub fn of_backend(addr: Addr, port: u16) -> Self {
        Self::by(addr, (u64::from(port) + 1) << PORT_SHIFT)
    }

    #[inline(always)]
    fn by(addr: Addr, word: u64) -> Self {
        let bit = hash::short(addr, word) >> (u32::BITS - BITS);
        Self {
            index: bit >> 6,
            mask: 1 << (bit & 63),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn place(bits: u32, role: Role) -> (u32, u64) {
        let Place { index, mask } = Place::of(Ipv4Addr::from_bits(bits).into(), role);
        (index, mask)
    }

    proptest! {
        #[test]
        fn every_place_exists(bits: u128) {
            let addr = core::net::Ipv6Addr::from_bits(bits).into();
            for role in [Role::Dialled, Role::Backend, Role::Vip] {
                let place = Place::of(addr, role);
                prop_assert!((place.index as usize) < ELEMENTS);
                prop_assert_eq!(place.mask.count_ones(), 1);
            }
        }

        #[test]
        fn the_ports_of_a_backend_have_places_of_their_own(bits: u32, first: u16) {
            let addr: Addr = Ipv4Addr::from_bits(bits).into();
            let ports = (0..1000).map(|n| first.wrapping_add(n));
            let places: BTreeSet<_> = ports
                .map(|port| Place::of_backend(addr, port))
                .map(|Place { index, mask }| (index, mask))
                .collect();
            // A million places, and chance.
            prop_assert!(places.len() > 990, "{}", places.len());
        }

        #[test]
        fn neighbouring_addresses_have_places_of_their_own(first: u32) {
            for role in [Role::Dialled, Role::Backend, Role::Vip] {
                let places = (0..1000).map(|n| place(first.wrapping_add(n), role));
                let places: BTreeSet<_> = places.collect();
                prop_assert_eq!(places.len(), 1000);
            }
        }
    }
}
