//! Ways to backends elsewhere that are known without asking the routing table; see
//! [`CachedRoute`](crate::flow::CachedRoute).

use super::{Env, Scratch};

/// Lets the packet leave as others for the candidate did within the last second. Whether its own flow has the
/// same address and next hop, its mark says.
#[inline(always)]
pub(super) fn take<E: Env>(env: &mut E, scratch: &mut Scratch) -> bool {
    let Some(route) = env.cached_route(scratch.leg.reference) else {
        return false;
    };
    scratch.snat = route.snat.by_words();
    scratch.hop = route.hop.by_words();
    route.is_of(scratch.leg.reference, scratch.now)
}

/// Lets a flow that is being opened leave as others for the candidate did within the last second, if it would get the same
/// answer as they.
#[inline(always)]
pub(super) fn share<E: Env>(env: &mut E, scratch: &mut Scratch) -> bool {
    let at = env.ifindex();
    let Scratch {
        leg,
        hop,
        snat,
        now,
        ..
    } = scratch;
    let route = env.cached_route(leg.reference);
    let is_known = route.is_some_and(|route| route.share(leg.reference, at, *now, hop, snat));
    is_known && env.can_send(hop)
}

/// Keeps what the routing table has just answered. Where no neighbour is known, everybody has to ask.
#[inline(always)]
pub(super) fn keep<E: Env>(env: &mut E, scratch: &Scratch, shared_at: u32) {
    let Scratch {
        leg,
        hop,
        snat,
        now,
        ..
    } = scratch;
    if let Some(route) = env.cached_route(leg.reference) {
        if hop.has_neighbour() {
            route.learn(leg.reference, hop, snat, shared_at, *now);
        } else {
            route.forget(leg.reference);
        }
    }
}
