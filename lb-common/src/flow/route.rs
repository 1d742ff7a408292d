//! How packets for a backend elsewhere leave, without asking each of their records.

use bytemuck::{Pod, Zeroable};

use super::{Hop, Now};
use crate::{Addr, BackendRef, hash};

/// Value of `ROUTES`: what one flow with a backend elsewhere got when it last asked the routing table.
///
/// Flows that there are go by it if their [`Mark`](super::Mark) says that their records have the same; new ones take its
/// hop where destinations alone decide about ways.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CachedRoute {
    /// Who is reached by it.
    pub backend: BackendRef,
    /// The interface at which whoever asked was met.
    pub asked_at: u32,
    /// Kernel tick at which it was asked for.
    pub asked_tick: u64,
    /// The next hop.
    pub hop: Hop,
    /// The address that packets of that flow leave with.
    pub snat: Addr,
    /// A hash of all but the address: other CPUs may be writing.
    pub sealed: u64,
}

impl CachedRoute {
    /// Elements of `ROUTES`: about as many backends elsewhere as a node talks to at a time. Those that have one
    /// in common take turns.
    pub const ELEMENTS: usize = 4096;

    /// Where a backend's is.
    #[inline(always)]
    #[must_use]
    pub fn index(backend: BackendRef) -> u32 {
        backend.index() % Self::ELEMENTS as u32
    }

    /// Takes the answer of the routing table down, for a flow that is met at an interface, and leaves with the address
    /// `snat`. Once a tick at most: under a flood, all CPUs would write the same line of memory.
    #[inline(always)]
    pub fn learn(&mut self, backend: BackendRef, at: u32, hop: &Hop, snat: &Addr, now: Now) {
        if self.backend == backend && self.asked_tick == now.tick {
            return;
        }
        self.backend = backend;
        self.asked_at = at;
        self.asked_tick = now.tick;
        self.hop = hop.by_words();
        self.snat = snat.by_words();
        self.sealed = Self::seal(backend, at, now.tick, hop);
    }

    /// Forgets how a backend was reached.
    #[inline(always)]
    pub fn forget(&mut self, backend: BackendRef) {
        if self.backend == backend {
            self.backend = BackendRef::NONE;
        }
    }

    /// Whether this was learnt for a backend, within the last second: flows that there are follow routes so soon.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, backend: BackendRef, now: Now) -> bool {
        self.is_younger(backend, now.ticks_per_second, now)
    }

    /// Next hop of a new flow with a backend that is met at an interface, if it was learnt there a quarter of a second ago
    /// at most. The flow asks for itself a second after it has begun.
    #[inline(always)]
    pub fn share(&self, backend: BackendRef, at: u32, now: Now, hop: &mut Hop) -> bool {
        *hop = self.hop.by_words();
        let seal = Self::seal(backend, at, self.asked_tick, hop);
        self.is_younger(backend, now.ticks_per_second / 4, now) && self.sealed == seal
    }

    #[inline(always)]
    fn is_younger(&self, backend: BackendRef, ticks: u32, now: Now) -> bool {
        let last_tick = self.asked_tick.wrapping_add(ticks.into());
        self.backend == backend && !now.is_after(last_tick)
    }

    /// A hash of all that a new flow goes by.
    #[inline(always)]
    fn seal(backend: BackendRef, at: u32, tick: u64, hop: &Hop) -> u64 {
        let who = u64::from(backend.bits) | u64::from(at) << 32;
        hash::mix(hash::mix(hop.mixed(0), who), tick)
    }
}

const _: () = assert!(size_of::<CachedRoute>() == 56);

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    const HOP: Hop = Hop {
        ifindex: 7,
        macs: [1, 2, 3],
    };

    /// An interface.
    const AT: u32 = 3;

    fn at(tick: u64) -> Now {
        Now {
            tick,
            ticks_per_second: 250,
        }
    }

    fn learnt(backend: BackendRef, tick: u64) -> CachedRoute {
        let mut route = CachedRoute::zeroed();
        let snat = Ipv4Addr::new(192, 0, 2, 1).into();
        route.learn(backend, AT, &HOP, &snat, at(tick));
        assert_eq!((route.hop, route.snat), (HOP, snat));
        route
    }

    #[test]
    fn route_is_known_for_a_second() {
        let backend = BackendRef::new(1, 1);
        let route = learnt(backend, 1000);
        // Ticks of different CPUs may be apart.
        for (tick, is_known) in [(999, true), (1000, true), (1250, true), (1251, false)] {
            assert_eq!(route.is_of(backend, at(tick)), is_known, "{tick}");
        }
        let before_the_ticks_wrap = learnt(backend, u64::MAX);
        assert!(before_the_ticks_wrap.is_of(backend, at(249)));
        assert!(!before_the_ticks_wrap.is_of(backend, at(250)));
    }

    #[test]
    fn route_is_learnt_once_a_tick() {
        let backend = BackendRef::new(1, 1);
        let mut route = learnt(backend, 1000);
        let elsewhere = Ipv4Addr::new(192, 0, 2, 2).into();
        route.learn(backend, AT, &Hop::NONE, &elsewhere, at(1000));
        assert_eq!(route, learnt(backend, 1000));
        route.learn(backend, AT, &HOP, &elsewhere, at(1001));
        assert_eq!(route.snat, elsewhere);
    }

    #[test]
    fn route_is_of_one_backend_until_that_is_forgotten() {
        let backend = BackendRef::new(1, 1);
        let same_place = BackendRef::new(1 + CachedRoute::ELEMENTS as u32, 1);
        assert_eq!(CachedRoute::index(backend), CachedRoute::index(same_place));
        let mut route = learnt(backend, 1000);
        for other in [same_place, BackendRef::new(1, 2), BackendRef::NONE] {
            assert!(!route.is_of(other, at(1000)), "{other:?}");
            route.forget(other);
        }
        assert!(route.is_of(backend, at(1000)));
        route.forget(backend);
        assert!(!route.is_of(backend, at(1000)));
    }

    /// What a new flow gets.
    fn shared(route: &CachedRoute, backend: BackendRef, interface: u32, tick: u64) -> Option<Hop> {
        let mut hop = Hop::NONE;
        let is_known = route.share(backend, interface, at(tick), &mut hop);
        is_known.then_some(hop)
    }

    #[test]
    fn route_is_shared_for_a_quarter_of_a_second_at_the_interface_that_it_was_learnt_at() {
        let backend = BackendRef::new(1, 1);
        let route = learnt(backend, 1000);
        assert_eq!(shared(&route, backend, AT, 1062), Some(HOP));
        assert_eq!(shared(&route, backend, AT, 1063), None);
        assert_eq!(shared(&route, backend, AT + 1, 1000), None);
        assert_eq!(shared(&route, BackendRef::new(1, 2), AT, 1000), None);
    }

    /// Another CPU has written a part of it. The address is not shared.
    #[test]
    fn route_in_parts_of_two_is_not_shared() {
        const SNAT: core::ops::Range<usize> = 8..12;
        let backend = BackendRef::new(1, 1);
        let old = learnt(backend, 1000);
        let mut new = old;
        let hop = Hop {
            ifindex: 8,
            macs: [4, 5, 6],
        };
        new.learn(backend, AT, &hop, &old.snat, at(1001));
        let (old, new) = (
            bytemuck::cast::<_, [u32; 14]>(old),
            bytemuck::cast::<_, [u32; 14]>(new),
        );
        assert_eq!(old[SNAT], new[SNAT]);
        for parts in 1..(1_u32 << 14) - 1 {
            let part = |at| {
                if parts >> at & 1 == 0 {
                    old[at]
                } else {
                    new[at]
                }
            };
            let words = core::array::from_fn(part);
            if words != old && words != new {
                let torn: CachedRoute = bytemuck::cast(words);
                assert_eq!(shared(&torn, backend, AT, 1001), None, "{torn:?}");
            }
        }
    }
}
