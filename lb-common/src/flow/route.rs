//! How packets for a backend elsewhere leave, without asking each of their records.

use bytemuck::{Pod, Zeroable};

use super::{Hop, Marked, Now};
use crate::{Addr, BackendRef, hash};

/// Value of `ROUTES`: what one flow with a backend elsewhere got when it last asked the routing table.
///
/// Flows that there are go by it if their [`Mark`](super::Mark) says that their records have the same; new ones, if it
/// is [shared](Self::share).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CachedRoute {
    /// Who is reached by it.
    pub backend: BackendRef,
    /// The interface at which all flows with this backend would get the same; 0 if that is not known.
    pub shared_at: u32,
    /// Kernel tick at which it was asked for.
    pub asked_tick: u64,
    /// The next hop.
    pub hop: Hop,
    /// The address that packets leave with.
    pub snat: Addr,
    /// [`seal`](Self::seal) of the others, where it is shared: other CPUs may be writing.
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

    /// Takes the answer of the routing table down, for a flow that leaves with the address `snat`; `shared_at` says who
    /// else would have got it. Once a tick at most: under a flood, all CPUs would write the same line of memory.
    #[inline(always)]
    pub fn learn(&mut self, backend: BackendRef, hop: &Hop, snat: &Addr, shared_at: u32, now: Now) {
        if self.backend == backend && self.asked_tick == now.tick {
            return;
        }
        self.backend = backend;
        self.shared_at = shared_at;
        self.asked_tick = now.tick;
        self.hop = hop.by_words();
        self.snat = snat.by_words();
        self.sealed = Self::seal(backend, shared_at, now.tick, hop, snat);
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

    /// Next hop and address of a new flow with a backend that is met at an interface, if they are known without asking.
    #[inline(always)]
    pub fn share(
        &self,
        backend: BackendRef,
        at: u32,
        now: Now,
        hop: &mut Hop,
        snat: &mut Addr,
    ) -> bool {
        *hop = self.hop.by_words();
        *snat = self.snat.by_words();
        let seal = Self::seal(backend, at, self.asked_tick, hop, snat);
        self.is_of(backend, now) && self.shared_at == at && self.sealed == seal
    }

    /// A hash of all of it.
    #[inline(always)]
    fn seal(backend: BackendRef, at: u32, tick: u64, hop: &Hop, snat: &Addr) -> u64 {
        let who = u64::from(backend.bits) | u64::from(at) << 32;
        hash::mix(hash::mix(Marked::source(*snat, 0, hop), who), tick)
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
        route.learn(backend, &HOP, &snat, AT, at(tick));
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
        route.learn(backend, &Hop::NONE, &elsewhere, AT, at(1000));
        assert_eq!(route, learnt(backend, 1000));
        route.learn(backend, &HOP, &elsewhere, AT, at(1001));
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
    fn shared(
        route: &CachedRoute,
        backend: BackendRef,
        interface: u32,
        tick: u64,
    ) -> Option<(Hop, Addr)> {
        let (mut hop, mut snat) = (Hop::NONE, Addr::UNSPECIFIED);
        let is_known = route.share(backend, interface, at(tick), &mut hop, &mut snat);
        is_known.then_some((hop, snat))
    }

    #[test]
    fn route_is_shared_for_a_second_at_the_interface_that_it_was_learnt_at() {
        let backend = BackendRef::new(1, 1);
        let route = learnt(backend, 1000);
        let known = Some((route.hop, route.snat));
        assert_eq!(shared(&route, backend, AT, 1250), known);
        assert_eq!(shared(&route, backend, AT, 1251), None);
        assert_eq!(shared(&route, backend, AT + 1, 1000), None);
        assert_eq!(shared(&route, BackendRef::new(1, 2), AT, 1000), None);
        let mut own = route;
        own.learn(backend, &route.hop, &route.snat, 0, at(1001));
        assert!(own.is_of(backend, at(1001)));
        assert_eq!(shared(&own, backend, AT, 1001), None);
    }

    /// Another CPU has written a part of it.
    #[test]
    fn route_in_parts_of_two_is_not_shared() {
        let backend = BackendRef::new(1, 1);
        let old = learnt(backend, 1000);
        let mut new = old;
        let (hop, snat) = (
            Hop {
                ifindex: 8,
                macs: [4, 5, 6],
            },
            Ipv4Addr::new(198, 51, 100, 1).into(),
        );
        new.learn(backend, &hop, &snat, AT, at(1001));
        let (old, new) = (
            bytemuck::cast::<_, [u32; 14]>(old),
            bytemuck::cast::<_, [u32; 14]>(new),
        );
        for parts in 1..(1_u32 << 14) - 1 {
            let words = core::array::from_fn(|at| {
                if parts >> at & 1 == 0 {
                    old[at]
                } else {
                    new[at]
                }
            });
            if words != old && words != new {
                let torn: CachedRoute = bytemuck::cast(words);
                assert_eq!(shared(&torn, backend, AT, 1001), None, "{torn:?}");
            }
        }
    }
}
