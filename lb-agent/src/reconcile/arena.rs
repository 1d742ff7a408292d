//! Places for look-up tables in the arena `SLOTS`.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use lb_common::Extent;

/// How long the place of a replaced table is left alone. Programs that still read it took its
/// frontend before the change; they run for microseconds.
const GRACE: Duration = Duration::from_secs(1);

/// Free and used parts of the arena.
#[derive(Clone, Debug)]
pub struct Allocator {
    /// Free runs: first element → number of elements. No two of them touch.
    free: BTreeMap<u32, u32>,
    /// Elements of the tables that are in use.
    used: u64,
    /// Places that are free once their grace is over, the oldest first.
    released: VecDeque<(Instant, Extent)>,
}

impl Allocator {
    /// An arena of `elements`, with `used` tables in it. The first element is never used: it is
    /// where an empty extent points.
    #[must_use]
    pub fn new(elements: u32, used: impl IntoIterator<Item = Extent>) -> Self {
        let mut places: Vec<(u32, u32)> = used
            .into_iter()
            .filter(|extent| !extent.is_empty())
            .map(|extent| (extent.offset, extent.elements()))
            .collect();
        places.sort_unstable();
        places.dedup();
        let used = places.iter().map(|(_, len)| u64::from(*len)).sum();
        let mut free = BTreeMap::new();
        let mut next = 1;
        for (offset, len) in places {
            if offset > next {
                free.insert(next, offset - next);
            }
            next = next.max(offset.saturating_add(len));
        }
        if elements > next {
            free.insert(next, elements - next);
        }
        Self {
            free,
            used,
            released: VecDeque::new(),
        }
    }

    /// A place for a table of 2^`bits` slots; the first that fits.
    pub fn allocate(&mut self, bits: u32, now: Instant) -> Option<Extent> {
        self.reclaim(now);
        let wanted = Extent { offset: 0, bits }.elements();
        let (offset, len) = self
            .free
            .iter()
            .find(|(_, len)| **len >= wanted)
            .map(|(offset, len)| (*offset, *len))?;
        self.used += u64::from(wanted);
        self.free.remove(&offset);
        if len > wanted {
            self.free.insert(offset + wanted, len - wanted);
        }
        Some(Extent { offset, bits })
    }

    /// Gives a place back; it is used again after a grace period.
    pub fn release(&mut self, extent: Extent, now: Instant) {
        if !extent.is_empty() {
            self.used = self.used.saturating_sub(extent.elements().into());
            self.released.push_back((now, extent));
        }
    }

    /// Gives back a place that nobody has looked at.
    pub(super) fn give_back(&mut self, extent: Extent) {
        self.used = self.used.saturating_sub(extent.elements().into());
        self.insert(extent.offset, extent.elements());
    }

    /// Elements of the tables that are in use: of those that are released, none.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    fn reclaim(&mut self, now: Instant) {
        while let Some((at, extent)) = self.released.front().copied() {
            if now.saturating_duration_since(at) < GRACE {
                return;
            }
            self.released.pop_front();
            self.insert(extent.offset, extent.elements());
        }
    }

    /// Adds a free run, joined with its neighbours.
    fn insert(&mut self, mut offset: u32, mut len: u32) {
        if let Some((before, before_len)) = self.free.range(..offset).next_back()
            && before + before_len == offset
        {
            (offset, len) = (*before, before_len + len);
        }
        if let Some(after_len) = self.free.remove(&(offset + len)) {
            len += after_len;
        }
        self.free.insert(offset, len);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overlap(a: Extent, b: Extent) -> bool {
        a.offset < b.offset + b.elements() && b.offset < a.offset + a.elements()
    }

    proptest! {
        #[test]
        fn places_never_overlap_and_all_come_back(steps in prop::collection::vec((0..5_u32, any::<prop::sample::Index>()), 1..80)) {
            let start = Instant::now();
            let mut arena = Allocator::new(4096, []);
            let mut held: Vec<Extent> = Vec::new();
            for (step, (kind, which)) in steps.into_iter().enumerate() {
                let now = start + GRACE * step as u32 * 2;
                if kind == 0 && !held.is_empty() {
                    arena.release(held.swap_remove(which.index(held.len())), now);
                } else if let Some(extent) = arena.allocate(7 + kind % 3, now) {
                    prop_assert!(extent.offset > 0 && extent.offset + extent.elements() <= 4096);
                    prop_assert!(held.iter().all(|other| !overlap(*other, extent)));
                    held.push(extent);
                }
            }
            let end = start + GRACE * 1000;
            for extent in held {
                arena.release(extent, end);
            }
            prop_assert_eq!(arena.used(), 0);
            prop_assert!(arena.allocate(11, end + GRACE).is_some());
            prop_assert_eq!(arena.free.len(), 1);
        }
    }

    #[test]
    fn a_released_place_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut arena = Allocator::new(130, []);
        let extent = arena.allocate(7, now).expect("one table fits");
        arena.release(extent, now);
        assert_eq!(arena.allocate(7, now), None);
        assert_eq!(arena.allocate(7, now + GRACE), Some(extent));
    }

    #[test]
    fn tables_that_are_there_already_are_not_given_away() {
        let used = Extent { offset: 1, bits: 7 };
        let mut arena = Allocator::new(300, [used, used]);
        let extent = arena.allocate(7, Instant::now()).expect("two tables fit");
        assert_eq!(extent.offset, 130);
        assert_eq!(arena.used(), 2 * 129);
    }
}
