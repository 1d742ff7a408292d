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

/// Sets the hop of a flow that is being opened to that of others with the candidate which have been asked for a moment
/// ago. False if none is known, or the routing table has to be asked for this one all the same: nobody forwards what comes from an
/// address of one link only.
#[inline(always)]
pub(super) fn share<E: Env>(env: &mut E, scratch: &mut Scratch) -> bool {
    let at = env.ifindex();
    let Scratch {
        parsed,
        leg,
        hop,
        now,
        ..
    } = scratch;
    let route = env.cached_route(leg.reference);
    let is_known = route.is_some_and(|route| route.share(leg.reference, at, *now, hop));
    is_known && !parsed.tuple.src.is_of_a_link() && env.can_send(hop)
}

/// Keeps what the routing table has just answered. Where no neighbour is known, everybody has to ask.
#[inline(always)]
pub(super) fn keep<E: Env>(env: &mut E, scratch: &Scratch) {
    let at = env.ifindex();
    let Scratch {
        leg,
        hop,
        snat,
        now,
        ..
    } = scratch;
    if let Some(route) = env.cached_route(leg.reference) {
        if hop.has_neighbour() {
            route.learn(leg.reference, at, hop, snat, *now);
        } else {
            route.forget(leg.reference);
        }
    }
}
