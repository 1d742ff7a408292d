//! Maglev look-up tables (Eisenbud et al., "Maglev", NSDI 2016, section 3.4).
//!
//! Where the paper takes a prime for the table's size, so that any step visits every slot, we
//! take a power of two and a stronger permutation: a table of another size splits or joins slots
//! exactly ([`crate::Extent::slot_index`]). `docs/decisions/0001-power-of-two-maglev.md` has the
//! measurements.

use alloc::{vec, vec::Vec};

use crate::{Addr, hash};

/// Slots for each backend, at least: shares then differ by less than 1 %, and a backend that
/// goes moves about 4 % of the table at worst.
pub const SLOTS_PER_BACKEND: u32 = 128;
/// Slots for each of many backends, at least: their tables are dealt out in classes.
const SLOTS_OF_MANY: u32 = 160;
/// How many are many.
const MANY: usize = 64;
/// Binary logarithm of the smallest table.
pub const MIN_BITS: u32 = 7;
/// Binary logarithm of the largest table: 10,000 backends of one Service port.
pub const MAX_BITS: u32 = 20;

/// What a backend's place in the table follows from: the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Address of the backend.
    pub addr: Addr,
    /// Port of the backend.
    pub port: u16,
}

/// Binary logarithm of the smallest table for `backends`.
#[must_use]
pub fn bits_for(backends: usize) -> u32 {
    let each = if backends < MANY {
        SLOTS_PER_BACKEND
    } else {
        SLOTS_OF_MANY
    };
    let slots = u64::from(each) * backends as u64;
    slots
        .next_power_of_two()
        .trailing_zeros()
        .clamp(MIN_BITS, MAX_BITS)
}

/// The table of 2^`bits` slots: for each, the index into `backends` of its owner.
///
/// Does not depend on the order of `backends`. Empty if there is no backend.
#[must_use]
pub fn populate(backends: &[Identity], bits: u32) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    if backends.is_empty() {
        return Vec::new();
    }
    let mut turns: Vec<Turn> = backends
        .iter()
        .zip(0..)
        .map(|(identity, index)| Turn::new(*identity, index, bits))
        .collect();
    turns.sort_unstable_by_key(|turn| turn.identity);

    let mut table = vec![FREE; 1 << bits];
    let mut left = table.len();
    let last = if class_bits(bits) == 0 { LAST } else { 0 };
    for turn in (0..turns.len()).cycle() {
        if left <= last {
            turns.rotate_left(turn);
            deal_out_last(&turns, &mut table, FREE);
            break;
        }
        if let Some(turn) = turns.get_mut(turn) {
            turn.claim(&mut table, FREE);
            left -= 1;
        }
    }
    table
}

/// So many slots are dealt out the other way around. To look for these by going through the
/// permutations takes two thirds of the time that a table takes.
const LAST: usize = 128;

/// Deals out the slots that are `free`, in turns as before. Whoever's turn it is gets the one that is
/// the first of them in his order: he has gone past none, for he would have claimed it.
fn deal_out_last(turns: &[Turn], table: &mut [u32], free: u32) {
    let slots = table.iter().zip(0_u32..);
    let mut slots: Vec<u32> = slots
        .filter_map(|(owner, slot)| (*owner == free).then_some(slot))
        .collect();
    // Where they are in each order.
    let mut places: Vec<Vec<u32>> = turns
        .iter()
        .map(|turn| turn.permutation.places_of(&slots))
        .collect();
    for at in (0..turns.len()).cycle() {
        let (Some(turn), Some(of_turn)) = (turns.get(at), places.get(at)) else {
            return;
        };
        let first = of_turn.iter().zip(0..).min_by_key(|(place, _)| **place);
        let Some((_, first)) = first else {
            return;
        };
        let slot = slots.swap_remove(first);
        if let Some(owner) = table.get_mut(slot as usize) {
            *owner = turn.index;
        }
        for of_turn in &mut places {
            of_turn.swap_remove(first);
        }
    }
}

/// Most classes of slots that are dealt out apart.
const MAX_CLASSES: usize = 8;

/// Binary logarithm of the number of classes of slots: those that are equal in so many low bits.
///
/// A backend claims slots of all classes in turn, so that it has as many in each. A client's
/// consecutive ports meet slots class by class ([`crate::Tuple::hash`]), and so meet every backend
/// equally often. Each class is a small table of its own, though, and the smaller a table, the more
/// a backend that goes moves: only large tables have classes, those of many backends, whose shares
/// are small and would deviate most. It depends on nothing but the size: another number of classes
/// is another table.
fn class_bits(bits: u32) -> u32 {
    if bits < 14 {
        0
    } else {
        MAX_CLASSES.trailing_zeros()
    }
}

/// A backend that takes its turn in claiming slots, in the order of its own permutation.
struct Turn {
    identity: Identity,
    index: u32,
    claims: usize,
    /// How far it is in its permutation, for each class.
    walks: [Walk; MAX_CLASSES],
    class_bits: u32,
    permutation: Permutation,
}

impl Turn {
    fn new(identity: Identity, index: u32, bits: u32) -> Self {
        let class_bits = class_bits(bits);
        Self {
            identity,
            index,
            claims: hash::address(identity.addr, u64::from(identity.port), 0x636c_6173) as usize,
            walks: [Walk::default(); MAX_CLASSES],
            class_bits,
            permutation: Permutation::new(identity, bits - class_bits),
        }
    }

    /// Claims the first free slot: of the class whose turn it is, else of the next one. There must
    /// be one.
    fn claim(&mut self, table: &mut [u32], free: u32) {
        let classes = 1_usize << self.class_bits;
        for offset in 0..classes {
            let class = self.claims.wrapping_add(offset) & (classes - 1);
            let Some(walk) = self.walks.get_mut(class) else {
                return;
            };
            while let Some(slot) = walk.step(&self.permutation, class as u32) {
                let slot = (slot as usize) << self.class_bits | class;
                if let Some(owner) = table.get_mut(slot).filter(|owner| **owner == free) {
                    *owner = self.index;
                    self.claims = self.claims.wrapping_add(1);
                    return;
                }
            }
        }
    }
}

/// A walk through a permutation, several steps at a time: they need not wait for each other.
#[derive(Clone, Copy, Default)]
struct Walk {
    /// Where the next block begins.
    next: u32,
    block: [u32; BLOCK],
    /// How many slots of the block are left, its last ones.
    left: usize,
}

/// Steps at a time; no class has fewer slots.
const BLOCK: usize = 16;

impl Walk {
    /// The next slot of a class, until all have been visited.
    #[inline]
    fn step(&mut self, permutation: &Permutation, class: u32) -> Option<u32> {
        if self.left == 0 {
            if self.next > permutation.mask {
                return None;
            }
            // Every class begins elsewhere in the same order.
            self.block = permutation.block(self.next + class * 0x55);
            self.next += BLOCK as u32;
            self.left = BLOCK;
        }
        let slot = self.block.get(BLOCK - self.left).copied();
        self.left -= 1;
        slot
    }
}

/// A pseudo-random order of all slots.
///
/// The paper walks by a constant step. Two backends whose steps are alike then dispute the same
/// slots again and again, and with few backends one that goes may move half the table. Here each
/// step is a bijection of the numbers of `bits` bits: an odd multiplier, and a shift.
struct Permutation {
    /// Multiplier, which is odd, and summand of each round.
    rounds: [(u32, u32); Self::ROUNDS],
    /// The largest of the numbers.
    mask: u32,
    half: u32,
}

impl Permutation {
    /// With fewer, one pair of backends in ten thousand has orders that are alike.
    const ROUNDS: usize = 4;

    fn new(identity: Identity, bits: u32) -> Self {
        let hash = |seed| hash::address(identity.addr, u64::from(identity.port), seed);
        let mut seeds = 0..;
        // Bits above those of a slot are nothing to it.
        let mut next = || hash(seeds.next().unwrap_or(0)) as u32;
        Self {
            rounds: core::array::from_fn(|_| (next() | 1, next())),
            mask: (1 << bits) - 1,
            half: bits.div_ceil(2),
        }
    }

    /// The slots at `first` and after it; the one after the last is the first.
    fn block(&self, first: u32) -> [u32; BLOCK] {
        let mut slots: [u32; BLOCK] =
            core::array::from_fn(|place| (first + place as u32) & self.mask);
        for (multiplier, summand) in self.rounds {
            for slot in &mut slots {
                let mixed = slot.wrapping_mul(multiplier).wrapping_add(summand) & self.mask;
                *slot = mixed ^ mixed >> self.half;
            }
        }
        slots
    }

    /// Where in the order these slots are.
    fn places_of(&self, slots: &[u32]) -> Vec<u32> {
        let mut places = slots.to_vec();
        for (multiplier, summand) in self.rounds.iter().rev() {
            let inverse = inverse(*multiplier);
            for place in &mut places {
                // The shift has left the upper half as it was.
                let mixed = *place ^ *place >> self.half;
                *place = mixed.wrapping_sub(*summand).wrapping_mul(inverse) & self.mask;
            }
        }
        places
    }
}

/// What an odd number has to be multiplied by to get 1, modulo 2^32.
fn inverse(odd: u32) -> u32 {
    // Right in its lowest three bits, then in twice as many each time.
    (0..4).fold(odd, |inverse, _| {
        inverse.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(inverse)))
    })
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn backends(n: usize, seed: u32) -> Vec<Identity> {
        (0..n as u32)
            .map(|i| Identity {
                addr: Ipv4Addr::from_bits(0x0af4_0000 + seed.wrapping_mul(2053) % 0xffff + i)
                    .into(),
                port: 8000,
            })
            .collect()
    }

    fn owners(backends: &[Identity], bits: u32) -> Vec<Identity> {
        populate(backends, bits)
            .into_iter()
            .map(|i| backends[i as usize])
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_backend_is_within_one_percent_of_its_share(n in 1..200_usize, seed: u32) {
            let backends = backends(n, seed);
            let table = populate(&backends, bits_for(n));
            let mut counts = vec![0_u32; n];
            for owner in &table {
                counts[*owner as usize] += 1;
            }
            let share = table.len() as f64 / n as f64;
            for count in counts {
                prop_assert!((f64::from(count) - share).abs() <= (share * 0.01).max(1.0));
            }
        }

        #[test]
        fn removing_one_backend_moves_at_most_five_percent_of_the_other_slots(
            n in 2..100_usize, seed: u32, victim: prop::sample::Index,
        ) {
            let all = backends(n, seed);
            let bits = bits_for(n);
            let gone = all[victim.index(n)];
            let rest: Vec<_> = all.iter().copied().filter(|b| *b != gone).collect();
            let (before, after) = (owners(&all, bits), owners(&rest, bits));
            let moved = before.iter().zip(&after)
                .filter(|(b, a)| **b != gone && b != a)
                .count();
            prop_assert!(moved as f64 <= 0.05 * before.len() as f64, "{moved} of {}", before.len());
        }

        #[test]
        fn the_order_of_backends_does_not_matter(
            order in Just(backends(37, 1)).prop_shuffle(), bits in MIN_BITS..13,
        ) {
            prop_assert_eq!(owners(&order, bits), owners(&backends(37, 1), bits));
        }
    }

    proptest! {
        #[test]
        fn order_of_a_backend_can_be_read_both_ways(seed: u32, bits in MIN_BITS..=MAX_BITS, index: u32) {
            let permutation = Permutation::new(backends(1, seed)[0], bits);
            let slots = permutation.block(index & permutation.mask);
            let places = (0..BLOCK as u32).map(|place| (index.wrapping_add(place)) & permutation.mask);
            prop_assert_eq!(permutation.places_of(&slots), places.collect::<Vec<_>>());
        }

        /// A table must never change for the way it is computed: other nodes have it, too.
        #[test]
        fn last_slots_are_dealt_out_as_if_everybody_went_through_his_order(
            n in 1..64_usize, seed: u32, more in 0..2_u32,
        ) {
            let backends = backends(n, seed);
            let bits = (bits_for(n) + more).min(13);
            let mut turns: Vec<Turn> = (0..n)
                .map(|index| Turn::new(backends[index], index as u32, bits))
                .collect();
            turns.sort_unstable_by_key(|turn| turn.identity);
            let mut table = vec![u32::MAX; 1 << bits];
            for turn in (0..n).cycle().take(1 << bits) {
                turns[turn].claim(&mut table, u32::MAX);
            }
            prop_assert_eq!(populate(&backends, bits), table);
        }
    }

    #[test]
    fn a_table_has_a_hundred_slots_for_each_backend() {
        assert_eq!(bits_for(1), 7);
        assert_eq!(bits_for(3), 9);
        assert_eq!(bits_for(100), 14);
    }

    #[test]
    fn nobody_owns_the_table_of_no_backends() {
        assert!(populate(&[], 7).is_empty());
    }
}
