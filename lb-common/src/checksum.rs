//! Incremental Internet checksums (RFC 1071, RFC 1141, RFC 1624).
//!
//! Sums are taken over 16-bit words as they stand in memory, never swapped: the one's complement
//! sum is the same in either byte order but for the order of its own bytes (RFC 1071, 2.B), and
//! it is stored the way it was loaded.
//!
//! Two things are kept apart by type: a [`Delta`] is a plain sum of differences; the `u16` that
//! [`apply`] takes and gives is a checksum field as it stands in a header, complemented.

use crate::Addr;

/// The checksum that a UDP sender puts where the sum comes out as 0, since 0 means "none"
/// (RFC 768).
pub const UDP_ZERO: u16 = 0xffff;

/// What a change adds to a one's complement sum.
///
/// Accumulated in 64 bits without folding; every change adds less than 2^33.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Delta(u64);

impl Delta {
    /// Nothing has changed.
    pub const ZERO: Self = Self(0);

    /// Replaces one 32-bit word, aligned to an even offset within what is summed.
    #[inline(always)]
    pub fn replace_word(self, old: u32, new: u32) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Replaces one 16-bit word.
    #[inline(always)]
    pub fn replace_half(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Replaces an address of either family.
    #[inline(always)]
    pub fn replace_addr(self, old: Addr, new: Addr) -> Self {
        let [o0, o1, o2, o3] = old.to_wire_words();
        let [n0, n1, n2, n3] = new.to_wire_words();
        self.replace_word(o0, n0)
            .replace_word(o1, n1)
            .replace_word(o2, n2)
            .replace_word(o3, n3)
    }

    /// Both changes.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum of differences in 32 bits, as the kernel's checksum helpers take it.
    #[inline(always)]
    #[must_use]
    pub fn to_u32(self) -> u32 {
        let folded = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((folded & 0xffff_ffff) + (folded >> 32)) as u32
    }
}

/// The checksum field after a change (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub fn apply(field: u16, delta: Delta) -> u16 {
    let sum = u64::from(!field) + u64::from(delta.to_u32());
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// [`apply`] for UDP: 0 stays 0, and never becomes 0.
#[inline(always)]
#[must_use]
pub fn apply_udp(field: u16, delta: Delta) -> u16 {
    if field == 0 {
        return 0;
    }
    match apply(field, delta) {
        0 => UDP_ZERO,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The checksum of whole data, as RFC 1071 defines it.
    fn full(words: &[u16]) -> u16 {
        let mut sum: u64 = words.iter().copied().map(u64::from).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// Both zeros of one's complement arithmetic.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn incremental_equals_full_recomputation(
            mut data in proptest::collection::vec(1..=u16::MAX, 8..40),
            at in 0..4_usize,
            new: [u16; 2],
            half: u16,
        ) {
            let before = full(&data);
            let word = |d: &[u16]| u32::from(d[at * 2]) | u32::from(d[at * 2 + 1]) << 16;
            let old = word(&data);
            data[at * 2] = new[0];
            data[at * 2 + 1] = new[1];
            let delta = Delta::ZERO.replace_word(old, word(&data));
            let last = data.len() - 1;
            let delta = delta.replace_half(data[last], half);
            data[last] = half;
            prop_assert!(same(apply(before, delta), full(&data)));
        }

        #[test]
        fn a_change_and_its_reverse_are_nothing(field: u16, a: [u8; 16], b: [u8; 16], p: u16, q: u16) {
            let (a, b) = (Addr { octets: a }, Addr { octets: b });
            let there = Delta::ZERO.replace_addr(a, b).replace_half(p, q);
            let back = Delta::ZERO.replace_addr(b, a).replace_half(q, p);
            prop_assert!(same(apply(apply(field, there), back), field));
            prop_assert!(same(apply(field, there.and(back)), field));
        }

        #[test]
        fn a_udp_checksum_never_becomes_none(field in 1..=u16::MAX, old: u32, new: u32) {
            prop_assert_ne!(apply_udp(field, Delta::ZERO.replace_word(old, new)), 0);
            prop_assert_eq!(apply_udp(0, Delta::ZERO.replace_word(old, new)), 0);
        }
    }
}
