//! Where a frontend is found without a call of the kernel.
//!
//! A look-up in a hash map is a call; one in an array is compiled into the program. So beside `FRONTENDS`,
//! which says what is served, lies a hash table made of two arrays: `FRONTEND_INDEX`, whose buckets are a
//! cache line each, and `FRONTEND_COPIES`, of which an element is never changed while a bucket refers to it. The
//! agent alone writes them, a word at a time; whoever finds a reference finds a whole element behind
//! it. What has no room there is spilled: its bucket says so, and programs ask `FRONTENDS`.

use bytemuck::{Pod, Zeroable};

use super::{Frontend, FrontendKey};
use crate::hash;

/// Value of `FRONTEND_INDEX`: references to frontends with a part of their hash in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Bucket {
    /// Bits of [`flags`], then a [`Reference`] for each way; zero where there is none. Each is read and
    /// written as a whole.
    pub words: [u64; Bucket::WORDS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// As many as a cache line has.
    pub const WORDS: usize = 8;
}

/// Bits of the first word of a [`Bucket`].
pub mod flags {
    /// A frontend of this bucket stands in `FRONTENDS` only.
    pub const SPILLED: u64 = 1;
}

/// Value of `FRONTEND_COPIES`: an element of `FRONTENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Listed {
    /// What is dialled.
    pub key: FrontendKey,
    /// What `FRONTENDS` says about it.
    pub frontend: Frontend,
    /// Zero.
    pub pad: [u32; 3],
}

const _: () = assert!(size_of::<Listed>() == 64);

/// A word of a [`Bucket`]: a tag in the upper half, and the index of an element of `FRONTEND_COPIES`, plus
/// one, in the lower half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference(pub u64);

impl Reference {
    /// To the element at `index`.
    #[must_use]
    pub fn new(tag: u32, index: u32) -> Self {
        Self((u64::from(tag) << 32) | (u64::from(index) + 1))
    }

    /// Whether it is one, and has this tag.
    #[inline(always)]
    #[must_use]
    pub fn has(self, tag: u32) -> bool {
        self.0 >> 32 == u64::from(tag)
    }

    /// The index of the element; of none if this is no reference.
    #[inline(always)]
    #[must_use]
    pub fn index(self) -> u32 {
        (self.0 as u32).wrapping_sub(1)
    }
}

/// Where the reference to a frontend is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the bucket.
    pub bucket: u32,
    /// What its word begins with; never zero.
    pub tag: u32,
}

impl Place {
    /// The place of a frontend in an index of so many buckets.
    #[inline(always)]
    #[must_use]
    pub fn of(key: &FrontendKey, buckets: u32) -> Self {
        let word = u64::from(key.port) << 8 | u64::from(key.protocol);
        let hash = hash::wide(key.addr, word);
        Self {
            bucket: ((hash >> 32).wrapping_mul(u64::from(buckets)) >> 32) as u32,
            tag: (hash ^ hash >> 32) as u32 | 1 << 31,
        }
    }
}

impl Listed {
    /// Whether it is of this frontend. One comparison at the end, since the verifier follows every branch.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, key: &FrontendKey) -> bool {
        let [a0, a1, a2, a3] = self.key.addr.to_wire_words();
        let [b0, b1, b2, b3] = key.addr.to_wire_words();
        let dialled = |key: &FrontendKey| u32::from(key.port) << 8 | u32::from(key.protocol);
        (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3) | (dialled(&self.key) ^ dialled(key)) == 0
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};
    use std::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol;

    proptest! {
        #[test]
        fn every_place_exists_and_its_tag_is_no_empty_words(
            addr: IpAddr, port: u16, protocol: u8, buckets in 1_u32..,
        ) {
            let place = Place::of(&FrontendKey::new(addr.into(), port, protocol), buckets);
            prop_assert!(place.bucket < buckets);
            prop_assert!(!Reference(0).has(place.tag));
            let reference = Reference::new(place.tag, 7);
            prop_assert!(reference.has(place.tag));
            prop_assert_eq!(reference.index(), 7);
        }

        #[test]
        fn an_element_is_of_its_own_key_only(addr: IpAddr, other: IpAddr, port: u16, swap: u16) {
            let key = FrontendKey::new(addr.into(), port, protocol::TCP);
            let listed = Listed { key, ..Listed::default() };
            prop_assert!(listed.is_of(&key));
            for other in [
                FrontendKey::new(other.into(), port, protocol::TCP),
                FrontendKey::new(addr.into(), port ^ swap, protocol::TCP),
                FrontendKey::new(addr.into(), port, protocol::UDP),
            ] {
                prop_assert_eq!(listed.is_of(&other), other == key);
            }
        }
    }

    /// As many frontends as there may be: consecutive addresses with few ports, as clusters have them.
    #[test]
    fn frontends_of_a_full_cluster_fill_few_buckets_over() {
        let buckets = crate::maps::FRONTEND_INDEX_MAX as u32;
        let mut counts = vec![0_usize; buckets as usize];
        for number in 0..crate::maps::FRONTENDS_MAX as u32 {
            let addr = Ipv4Addr::from_bits(0x0a60_0001 + number / 2).into();
            let port = if number % 2 == 0 { 80 } else { 443 };
            let key = FrontendKey::new(addr, port, protocol::TCP);
            counts[Place::of(&key, buckets).bucket as usize] += 1;
        }
        let over = counts.iter().filter(|count| **count >= Bucket::WORDS);
        // Chance alone would lead to a thousandth of them.
        assert!(over.count() <= counts.len() / 500);
    }
}
