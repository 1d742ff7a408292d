//! What a packet of a known flow gives occasion to.

use super::{
    Env, Route, Scratch, cached,
    forward::{Found, Nat, Site},
    pin::keep_pin,
    within::stay_within,
};
use crate::{Hop, counter::Outcome, flow::confirmed};

/// Does what a packet of a known flow gives occasion to.
#[inline(always)]
pub(super) fn tend<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site, found: Found) {
    if found.has(Found::CONFIRMED) {
        confirm(env, scratch);
    }
    match site {
        Site::Pod(ifindex) if found.has(Found::DUE) => {
            stay_within(env, scratch, ifindex);
            keep_hop(env, scratch);
        }
        Site::Pod(_) => {}
        Site::Wire => {
            if scratch.leg.nat == Nat::SNAT && (found.has(Found::DUE) || scratch.hop.ifindex == 0) {
                renew(env, scratch);
            }
        }
    }
}

/// Keeps the hop in the record of the key that is set.
#[inline(always)]
fn keep_hop<E: Env>(env: &mut E, scratch: &Scratch) {
    if let Some(flow) = env.look_up(&scratch.key) {
        flow.forward = scratch.hop.by_words();
    }
}

/// Moves the record of the key that is set to those that no flood displaces. Where there is no room,
/// the flow is served from where it is.
#[inline(never)]
fn confirm<E: Env>(env: &mut E, scratch: &mut Scratch) {
    let Scratch {
        parsed, key, flow, ..
    } = scratch;
    let Some(record) = env.look_up(key) else {
        return;
    };
    flow.confirm(record);
    // A record that is displaced is another flow's at once: what was copied must be ours still.
    let is_ours = flow.is_owned_by(&parsed.tuple)
        && env
            .look_up(key)
            .is_some_and(|record| record.is_owned_by(&parsed.tuple));
    if !is_ours {
        return;
    }
    if env.promote(key, flow) {
        if flow.pinned != 0 {
            keep_pin(env, scratch);
        }
        return;
    }
    env.count(Outcome::TableFull);
    if let Some(record) = env.look_up(key) {
        record.confirmed = confirmed::REFUSED;
    }
}

/// Asks the routing table again for the next hop of the flow whose key is set, as it may have
/// changed. Where this hook cannot tell, the record forgets it, so that a later hook asks.
#[inline(never)]
fn renew<E: Env>(env: &mut E, scratch: &mut Scratch) {
    scratch.hop = match env.route(&scratch.parsed, scratch.leg.addr) {
        Route::Via(hop) => {
            scratch.has_asked = 1;
            hop
        }
        Route::Defer => Hop::device(0),
        // Nobody goes on to a neighbour to whom no route leads any more: the kernel says what it has against it.
        Route::Unreachable => Hop::device(scratch.hop.ifindex),
    };
    cached::keep(env, scratch);
    keep_hop(env, scratch);
}
