//! Flows whose backend is not what their slot says.

use super::{
    Env, Scratch,
    forward::{Found, Site, find, pin, renew_if_due, reopen, set_leg},
};
use crate::{flow::Pin, protocol};

/// Finds a flow whose backend is not what its slot says: the slot's previous owner, or the one
/// that the flow is pinned to.
#[inline(never)]
pub(super) fn recall<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> bool {
    scratch.has_pin = 0;
    scratch.pin = Pin {
        backend: scratch.slot.previous,
        source_port: 0,
        pad: 0,
    };
    let found = follow(env, scratch, site);
    if found.has(Found::OURS) {
        // At once: the slot forgets its previous owner with the table's next change. And again
        // now and then: the pins that are not used are forgotten first.
        if !found.has(Found::PINNED) || found.has(Found::DUE) {
            pin(env, scratch);
            if let Some(flow) = env.look_up(&scratch.key) {
                flow.pinned = 1;
            }
        }
        return true;
    }
    scratch.pin_key = scratch.parsed.tuple.pin();
    let Some(pin) = env.pin(&scratch.pin_key) else {
        return false;
    };
    scratch.pin = pin;
    scratch.has_pin = 1;
    follow(env, scratch, site).has(Found::OURS)
}

/// What is known of the packet's flow, if it is where `scratch.pin` says, and may stay there; else
/// nothing. A port of 0 is the one that the backend sees if nothing speaks against it.
///
/// Out of line: the stack of all calls together is small.
#[inline(never)]
fn follow<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> Found {
    if !set_leg(env, scratch, site, scratch.pin.backend) {
        return Found::FREE;
    }
    if scratch.pin.source_port != 0 {
        scratch.leg.source_port = scratch.pin.source_port;
    }
    // A datagram can go anywhere; only a connection is worth a backend that is gone.
    if scratch.parsed.tuple.protocol != protocol::TCP && scratch.leg.serves == 0 {
        return Found::FREE;
    }
    let found = find(env, scratch, site);
    if !found.has(Found::OURS) {
        return Found::FREE;
    }
    if scratch.parsed.is_syn() {
        // It may repeat one that is under way, whose answer has got lost. Where it does not, it goes
        // where the table says now; what it leaves behind must not be taken for it later.
        let goes_on = if found.has(Found::OPENING) {
            scratch.leg.serves != 0
        } else {
            !found.has(Found::ENDED) && scratch.leg.is_active != 0 && reopen(env, scratch)
        };
        if !goes_on {
            env.remove(&scratch.key);
            return Found::FREE;
        }
    }
    renew_if_due(env, scratch, found);
    found
}
