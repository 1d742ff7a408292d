//! Which keys `FLOWS` and `PINS` can have: all else costs a packet no look-up in them.
//!
//! As in [`addresses`](crate::addresses), a bit stands for all keys of a hash, and is set before an element is
//! inserted. But these elements come and go. So there are two sides: bits are set in both, and programs ask the one
//! that [`ASKED`] names. The agent makes the other one anew now and then. It clears that, waits until every program
//! has ended that may have set a bit there before, sets the bits of all elements that there are, and then lets programs ask
//! it. Whoever inserts meanwhile sets bits that stay; an agent that dies in between leaves a side that nobody asks.

use crate::{FlowKey, flow::PinKey, hash};

/// Words before those of the first side, as many as a cache line has.
pub const HEADER: u32 = 8;
/// Index of the word that names the [`Side`] that programs ask.
pub const ASKED: u32 = 0;
/// Index of the word that is 1 once no programs run but those that set bits; before, no side is to be asked.
pub const NOTED: u32 = 1;

/// Flows that there is room for, for each word of a side: two bits for each. More bits would be in vain less often,
/// and lie in more pages, whose addresses a processor does not remember.
const FLOWS_PER_WORD: u32 = 32;

/// How many elements of 64 bits `KNOWN` has for so many flows.
#[must_use]
pub const fn elements(flows: u32) -> u32 {
    HEADER + 2 * flows.div_ceil(FLOWS_PER_WORD)
}

/// How many words a side has, of a `KNOWN` with so many elements; 0 if there is none.
#[must_use]
pub const fn side_words(elements: u32) -> u32 {
    elements.saturating_sub(HEADER) / 2
}

/// Which side is meant, as the first word names it.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that comes first.
    Left = 1,
    /// The other one.
    Right = 2,
}

impl Side {
    /// The one that a word names. None in a new map, and where somebody may have inserted elements without their bits:
    /// then nothing is known, and all can be there.
    #[inline(always)]
    #[must_use]
    pub fn named_by(word: u64) -> Option<Self> {
        match word {
            1 => Some(Self::Left),
            2 => Some(Self::Right),
            _ => None,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    /// Index of its first word, if sides have so many.
    #[inline(always)]
    #[must_use]
    pub fn first(self, words: u32) -> u32 {
        HEADER + (self as u32 - 1) * words
    }
}

/// Where a key has its bit, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Word of a side.
    pub word: u32,
    /// The bit within it.
    pub mask: u64,
}

impl Point {
    /// Of a key of `FLOWS`, if sides have so many words.
    #[inline(always)]
    #[must_use]
    pub fn of_flow(key: &FlowKey, words: u32) -> Self {
        let ports = u64::from(key.src_port) | u64::from(key.dst_port) << 16;
        let edge = u64::from(key.edge ^ u32::from(key.protocol) << 24);
        Self::at(hash::both(key.src, key.dst, ports | edge << 32), words)
    }

    /// Of a key of `PINS`.
    #[inline(always)]
    #[must_use]
    pub fn of_pin(key: &PinKey, words: u32) -> Self {
        let ports = u64::from(key.src_port) | u64::from(key.dst_port) << 16;
        let word = ports | u64::from(key.protocol) << 32;
        Self::at(hash::both(key.src, key.dst, word), words)
    }

    #[inline(always)]
    fn at(hash: u64, words: u32) -> Self {
        let bits = u64::from(words) * u64::from(u64::BITS);
        let bit = ((hash >> 32) * bits) >> 32;
        Self {
            word: (bit >> 6) as u32,
            mask: 1 << (bit & 63),
        }
    }

    /// Index of its element on a side.
    #[inline(always)]
    #[must_use]
    pub fn index(self, side: Side, words: u32) -> u32 {
        side.first(words) + self.word
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use bytemuck::Zeroable as _;
    use proptest::prelude::*;

    use super::*;
    use crate::{Addr, flow::edge, protocol};

    const WORDS: u32 = side_words(elements(524_288));

    fn flow(backend: u32, client: u32, port: u16) -> FlowKey {
        FlowKey {
            src: Ipv4Addr::from(0x0af4_0000 + backend).into(),
            dst: Ipv4Addr::from(0xc612_0000 + client).into(),
            src_port: 8080,
            dst_port: port,
            edge: edge::WIRE_EGRESS,
            protocol: protocol::TCP,
            ..FlowKey::zeroed()
        }
    }

    #[test]
    fn sides_lie_beside_each_other_behind_the_header() {
        let elements = elements(100);
        assert_eq!((elements, side_words(elements)), (8 + 2 * 4, 4));
        assert_eq!((Side::Left.first(4), Side::Right.first(4)), (8, 12));
        assert_eq!(side_words(0), 0);
        for side in [Side::Left, Side::Right] {
            assert_eq!(Side::named_by(side as u64), Some(side));
            assert_eq!(side.other().other(), side);
        }
        assert_eq!(Side::named_by(0), None);
    }

    #[track_caller]
    fn check_spread(points: impl Iterator<Item = Point>) {
        let bits = WORDS as usize * 64;
        let points = points.take(bits / 8);
        let own: BTreeSet<_> = points.map(|point| (point.word, point.mask)).collect();
        // By chance, 94 % of them.
        assert!(
            own.len() > bits / 8 * 90 / 100,
            "{} of {}",
            own.len(),
            bits / 8
        );
    }

    #[test]
    fn keys_that_lie_beside_each_other_have_bits_all_over_a_side() {
        let ports = || 1024..=u16::MAX;
        check_spread(
            ports().flat_map(|port| (0..9).map(move |n| Point::of_flow(&flow(n, 1, port), WORDS))),
        );
        check_spread(
            (0..).flat_map(|n| (0..9).map(move |b| Point::of_flow(&flow(b, n, 40_000), WORDS))),
        );
        // A node's own address, many ports: SNAT.
        let snat = |backend, port| FlowKey {
            dst: Addr::UNSPECIFIED,
            edge: edge::WIRE_INGRESS,
            ..flow(backend, 0, port)
        };
        check_spread(
            ports().flat_map(|port| (0..9).map(move |n| Point::of_flow(&snat(n, port), WORDS))),
        );
        let pin = |client: u32, port| PinKey {
            src: Ipv4Addr::from(0x0af4_0100 + client).into(),
            dst: Ipv4Addr::new(10, 96, 0, 1).into(),
            src_port: port,
            dst_port: 443,
            protocol: protocol::TCP,
            ..PinKey::zeroed()
        };
        check_spread(
            ports().flat_map(|port| (0..9).map(move |n| Point::of_pin(&pin(n, port), WORDS))),
        );
    }

    proptest! {
        #[test]
        fn points_lie_within_their_side(backend: u32, client: u32, port: u16, flows in 1_u32..1 << 24) {
            let elements = elements(flows);
            let words = side_words(elements);
            let point = Point::of_flow(&flow(backend >> 16, client >> 16, port), words);
            prop_assert_eq!(point.mask.count_ones(), 1);
            prop_assert!(point.index(Side::Left, words) < Side::Right.first(words));
            prop_assert!(point.index(Side::Left, words) >= HEADER);
            prop_assert!(point.index(Side::Right, words) < elements);
        }
    }
}
