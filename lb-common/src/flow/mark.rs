//! Connections that go on, told without their records.
//!
//! Most of what a client sends needs nothing of its connection's record but that there is one: with whom the
//! connection is, its slot says, and how others leave for that backend, [`CachedRoute`](super::CachedRoute). A record
//! among many is in no cache, and a few words are. So whoever has
//! found a connection that goes on where its slot says leaves a mark in `ESTABLISHED`, and the client's next
//! packets go by that for a moment. Then the record is asked again, so that it knows that the connection is alive.

use bytemuck::{Pod, Zeroable};

use super::{Hop, Now};
use crate::{Addr, BackendRef, hash};

/// [`Mark::LASTS`] as a power of two. 4 to 41 seconds, after the kernel's
/// `CONFIG_HZ`: little next to the two minutes for which the record of any connection of TCP outlives its last packet, and
/// long next to the time between two packets of a busy one.
const PERIOD_SHIFT: u32 = 12;

/// The bits of a mark that say when it was left: the last ones of the number of the period. All others say whose
/// it is, but for one that is always set, so that no mark is 0.
const AGE: u32 = 0b111;

/// That one.
const PRESENT: u32 = 0b1000;

/// Value of `ESTABLISHED`: marks of connections whose clients have a part of their hash in common; 0 where there
/// is none. Each is read and written as a whole.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Marks {
    /// The marks.
    pub words: [u32; Marks::WAYS],
}

impl Marks {
    /// So many fit into a quarter of a cache line.
    pub const WAYS: usize = 4;
}

/// What a mark is made of beside its client and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Hash of the client's tuple.
    pub hash: u32,
    /// Who serves it.
    pub backend: BackendRef,
    /// Where replies are undone.
    pub edge: u32,
    /// [`source`](Self::source) of its packets; 0 where they keep theirs.
    pub source: u64,
}

impl Marked {
    /// What becomes of the source of a connection's packets, and the way that they leave by.
    #[inline(always)]
    #[must_use]
    pub fn source(snat: Addr, port: u16, hop: &Hop) -> u64 {
        hop.mixed(hash::wide(snat, port.into()))
    }
}

/// A connection's mark, and where it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Mark {
    /// Index of the element of `ESTABLISHED`.
    pub index: u32,
    /// The mark; never 0. The last period's is another one.
    pub word: u32,
}

impl Mark {
    /// For how long a mark holds at most, in kernel ticks: so much later is what a record knows of its client.
    pub const LASTS: u64 = 1 << PERIOD_SHIFT;

    /// The mark of a client's connection at a moment. `buckets` is how many elements `ESTABLISHED` has; `seed`
    /// is nobody's business, so that nobody chooses his connections by whose marks theirs are like.
    #[inline(always)]
    #[must_use]
    pub fn of(client: (Addr, u16), of: Marked, now: Now, buckets: u32, seed: u32) -> Self {
        let point = point(client.0, client.1);
        // Each connection's periods end at another moment: not all of them ask for their records at once.
        let period = now.tick.wrapping_add(point) >> PERIOD_SHIFT;
        let seed = u64::from(seed) | u64::from(seed) << 32;
        let dialled = u64::from(of.hash) | u64::from(of.backend.bits) << 32;
        let met = u64::from(of.edge) | period << 32;
        // One after the other: period and backend must not make up for each other.
        let all = hash::mix(hash::mix(dialled ^ seed, point ^ of.source), met) as u32;
        Self {
            index: index(point, buckets),
            word: all & !(AGE | PRESENT) | PRESENT | (now.tick >> PERIOD_SHIFT) as u32 & AGE,
        }
    }

    /// Index of the element in which a client's marks are, of so many.
    #[inline(always)]
    #[must_use]
    pub fn index_of(client: (Addr, u16), buckets: u32) -> u32 {
        index(point(client.0, client.1), buckets)
    }

    /// Whether it is one of these, left in this period of the clock or in the last one.
    ///
    /// One comparison at the end, here and in [`way`](Self::way): the verifier follows every branch on its own.
    #[inline(always)]
    #[must_use]
    pub fn is_in(self, words: [u32; Marks::WAYS]) -> bool {
        let is_other = |word: u32| {
            let too_old = self.age_of(word) & !1;
            let different = (word ^ self.word) & !AGE | too_old;
            (different | different.wrapping_neg()) >> 31
        };
        let [a, b, c, d] = words.map(is_other);
        a & b & c & d == 0
    }

    /// How many periods of the clock ago a word was left, as far as it says.
    #[inline(always)]
    fn age_of(self, word: u32) -> u32 {
        self.word.wrapping_sub(word) & AGE
    }

    /// Which of these it takes the place of: the one that was left first, and by chance among those that were left
    /// at the same time.
    #[inline(always)]
    #[must_use]
    pub fn way(self, words: [u32; Marks::WAYS]) -> usize {
        let rank = |at: u32, word: u32| {
            let age = self.age_of(word) | !word & PRESENT;
            let chance = (self.word >> 4).wrapping_add(at) & 3;
            age << 4 | chance << 2 | at
        };
        let larger =
            |a: u32, b: u32| a ^ (a ^ b) & (a.wrapping_sub(b).cast_signed() >> 31).cast_unsigned();
        let [a, b, c, d] = words;
        let first = larger(
            larger(rank(0, a), rank(1, b)),
            larger(rank(2, c), rank(3, d)),
        );
        first as usize % Marks::WAYS
    }
}

#[inline(always)]
fn point(addr: Addr, port: u16) -> u64 {
    hash::wide(addr, port.into())
}

#[inline(always)]
fn index(point: u64, buckets: u32) -> u32 {
    ((point >> 32).wrapping_mul(u64::from(buckets)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::maps;

    /// Ticks of a period.
    const PERIOD: u64 = Mark::LASTS;

    fn at(tick: u64) -> Now {
        Now {
            tick,
            ticks_per_second: 250,
        }
    }

    fn client(number: u32) -> (Addr, u16) {
        let addr = Ipv4Addr::from_bits(0x0af4_0000 + number / 64);
        (addr.into(), 32_768 + (number % 64) as u16)
    }

    proptest! {
        #[test]
        fn every_mark_has_a_place_and_is_found_there_until_its_time_is_over(
            addr: std::net::IpAddr, port: u16, hash: u32, bits: u32, edge: u32, source: u64, seed: u32, tick: u64,
            buckets in 1_u32..,
        ) {
            let client = (addr.into(), port);
            let marked = Marked { hash, backend: BackendRef { bits }, edge, source };
            let of = |tick| Mark::of(client, marked, at(tick), buckets, seed);
            let mark = of(tick);
            prop_assert!(mark.index < buckets);
            prop_assert_eq!(mark.index, Mark::index_of(client, buckets));
            let mut words = [0; Marks::WAYS];
            prop_assert!(!mark.is_in(words));
            words[mark.way(words)] = mark.word;
            prop_assert!(mark.is_in(words));
            let holds = |ticks: &u64| of(tick.wrapping_add(*ticks)).is_in(words);
            let first = (0..=PERIOD).find(|ticks| !holds(ticks));
            prop_assert!(first.is_some(), "it holds for so many ticks at most");
            prop_assert!(!(first.unwrap_or(0)..2 * PERIOD).any(|ticks| holds(&ticks)));
        }

        #[test]
        fn mark_is_of_one_connection_only(
            number: u32, hash: u32, bits: u32, edge: u32, source: u64, seed: u32, other in 1_u32..,
        ) {
            let marked = |hash, bits, edge, source| Marked { hash, backend: BackendRef { bits }, edge, source };
            let of = |number, marked| Mark::of(client(number % (1 << 20)), marked, at(1000), 1 << 18, seed);
            let mark = of(number, marked(hash, bits, edge, source));
            let others_client = number ^ (other % (1 << 20));
            prop_assume!(others_client != number);
            prop_assert_ne!(mark, of(others_client, marked(hash, bits, edge, source)), "another client");
            prop_assert_ne!(mark, of(number, marked(hash ^ other, bits, edge, source)), "another frontend");
            prop_assert_ne!(mark, of(number, marked(hash, bits ^ other, edge, source)), "another backend");
            prop_assert_ne!(mark, of(number, marked(hash, bits, edge ^ other, source)), "another device");
            let others_source = source ^ u64::from(other);
            prop_assert_ne!(mark, of(number, marked(hash, bits, edge, others_source)), "another source or way");
        }

        /// An element of `BACKENDS` is taken for another one while the last period's marks still count.
        #[test]
        fn mark_of_a_backend_is_none_of_its_successor(
            number: u32, hash: u32, bits: u32, edge: u32, source: u64, seed: u32, generations in 1_u32..8, tick: u64,
        ) {
            let of = |bits, tick| {
                let marked = Marked { hash, backend: BackendRef { bits }, edge, source };
                Mark::of(client(number % (1 << 20)), marked, at(tick), 1 << 18, seed)
            };
            let before = of(bits, tick);
            for periods in 0..3 {
                let after = of(bits.wrapping_add(generations), tick.wrapping_add(periods * PERIOD));
                prop_assert!(!after.is_in([before.word, 0, 0, 0]));
            }
        }

        #[test]
        fn source_is_of_one_address_port_and_hop(
            snat: [std::net::IpAddr; 2], port: u16, hop: [u32; 4], other in 1_u32.., at in 0_usize..4, step in 1_u16..,
        ) {
            let of = |snat, port, [ifindex, a, b, c]: [u32; 4]| {
                Marked::source(snat, port, &Hop { ifindex, macs: [a, b, c] })
            };
            let [snat, others] = snat.map(Addr::from);
            prop_assume!(snat != others);
            let mut elsewhere = hop;
            elsewhere[at] ^= other;
            prop_assert_ne!(of(snat, port, hop), of(others, port, hop), "another address");
            prop_assert_ne!(of(snat, port, hop), of(snat, port ^ step, hop), "another port");
            prop_assert_ne!(of(snat, port, hop), of(snat, port, elsewhere), "another hop");
        }

        #[test]
        fn mark_displaces_the_one_that_was_left_first(
            tick in 8 * PERIOD..u64::MAX, hashes: [u32; 4], periods in 1_u64..8, old in 0..Marks::WAYS, is_free: bool,
        ) {
            let of = |hash, tick| {
                let marked = Marked { hash, backend: BackendRef { bits: 1 }, edge: 0, source: 0 };
                Mark::of(client(0), marked, at(tick), 1, 0)
            };
            let mut words = hashes.map(|hash| of(hash, tick).word);
            let before = of(hashes[old], tick - periods * PERIOD).word;
            words[old] = if is_free { 0 } else { before };
            prop_assert_eq!(of(hashes[0] ^ 1, tick).way(words), old);
        }
    }

    /// Half of what there is room for: as many connections as `FLOWS` takes.
    #[test]
    fn few_connections_of_a_full_table_displace_each_others_marks() {
        let mut table = vec![[0_u32; Marks::WAYS]; maps::ESTABLISHED_MAX];
        let marks: Vec<Mark> = (0..maps::FLOWS_MAX as u32)
            .map(|number| {
                let backend = BackendRef::new(number % 250, 1);
                let hash = number.wrapping_mul(hash::GOLDEN);
                let buckets = maps::ESTABLISHED_MAX as u32;
                let (edge, source) = (7, 0);
                let marked = Marked {
                    hash,
                    backend,
                    edge,
                    source,
                };
                Mark::of(client(number), marked, at(1000), buckets, 0)
            })
            .collect();
        for mark in &marks {
            let words = &mut table[mark.index as usize];
            words[mark.way(*words)] = mark.word;
        }
        let there = |mark: &&Mark| mark.is_in(table[mark.index as usize]);
        let found = marks.iter().filter(there).count();
        // Chance alone displaces 3 % of them.
        assert!(found * 100 >= marks.len() * 95, "{found}");
    }
}
