//! How packets for a backend elsewhere leave, without asking each of their records.

use bytemuck::{Pod, Zeroable};

use super::{Hop, Now};
use crate::{Addr, BackendRef};

/// Value of `ROUTES`: what one flow with a backend elsewhere got when it last asked the routing table. It is nobody
/// else's by itself: a flow goes by it if its [`Mark`](super::Mark) says that its record has the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CachedRoute {
    /// Who is reached by it.
    pub backend: BackendRef,
    /// Zero.
    pub pad: u32,
    /// Kernel tick at which it was asked for.
    pub asked_tick: u64,
    /// The next hop.
    pub hop: Hop,
    /// The address that packets leave with.
    pub snat: Addr,
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

    /// Takes the answer of the routing table down, for a flow that leaves with the address `snat`. Once a tick at most:
    /// under a flood, all CPUs would write the same line of memory.
    #[inline(always)]
    pub fn learn(&mut self, backend: BackendRef, hop: &Hop, snat: &Addr, now: Now) {
        if self.backend == backend && self.asked_tick == now.tick {
            return;
        }
        self.backend = backend;
        self.asked_tick = now.tick;
        self.hop = hop.by_words();
        self.snat = snat.by_words();
    }

    /// Forgets how a backend was reached.
    #[inline(always)]
    pub fn forget(&mut self, backend: BackendRef) {
        if self.backend == backend {
            self.backend = BackendRef::NONE;
        }
    }

    /// Whether this was learnt for a backend, within the last second: routes are followed so soon.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, backend: BackendRef, now: Now) -> bool {
        let last_tick = self.asked_tick.wrapping_add(now.ticks_per_second.into());
        self.backend == backend && !now.is_after(last_tick)
    }
}

const _: () = assert!(size_of::<CachedRoute>() == 48);

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    const HOP: Hop = Hop {
        ifindex: 7,
        macs: [1, 2, 3],
    };

    fn at(tick: u64) -> Now {
        Now {
            tick,
            ticks_per_second: 250,
        }
    }

    fn learnt(backend: BackendRef, tick: u64) -> CachedRoute {
        let mut route = CachedRoute::zeroed();
        let snat = Ipv4Addr::new(192, 0, 2, 1).into();
        route.learn(backend, &HOP, &snat, at(tick));
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
        route.learn(backend, &Hop::NONE, &elsewhere, at(1000));
        assert_eq!(route, learnt(backend, 1000));
        route.learn(backend, &HOP, &elsewhere, at(1001));
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
}
