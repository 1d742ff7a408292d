//! Flows whose backend is not what their slot says.

use super::{
    Env, Scratch,
    established::remove_marks,
    forward::{Found, Site, find, reopen, set_key, set_leg},
    pin::{keep_pin, pin},
    tend::tend,
};
use crate::{
    BackendRef, config,
    flow::{Pin, confirmed},
    protocol,
    vip::net_flags,
};

/// Where a pin was found, for [`Scratch::has_pin`].
const KEPT: u32 = 1;
const OPENING: u32 = 2;

/// What is known of a packet's flow. Numbers: see [`Found`].
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recalled {
    /// Nothing.
    Unknown,
    /// It goes on with the backend that is the candidate now.
    Send,
    /// Its backend is gone, and so is the connection.
    Reset,
    /// Nothing here; an earlier program, or netfilter, may know it.
    Behind,
}

/// Finds a flow whose backend is not what its slot says: the slot's previous owner, or the one
/// that the flow is pinned to.
#[inline(never)]
pub(super) fn recall<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> Recalled {
    scratch.has_pin = 0;
    scratch.pin = Pin {
        backend: scratch.slot.previous,
        source_port: 0,
        pad: 0,
    };
    let mut found = if scratch.pin.backend == BackendRef::NONE {
        Found::FREE
    } else {
        follow(env, scratch, site)
    };
    let is_previous = found.has(Found::OURS);
    if !is_previous {
        scratch.pin_key = scratch.parsed.tuple.pin();
        if let Some(pin) = env.pin(&scratch.pin_key) {
            scratch.pin = pin;
            scratch.has_pin = KEPT;
        } else if let Some(pin) = env.opening_pin(&scratch.pin_key) {
            scratch.pin = pin;
            scratch.has_pin = OPENING;
        }
        if scratch.has_pin != 0 {
            found = follow(env, scratch, site);
        }
    }
    if found.has(Found::OURS) {
        // Here: the stack of all calls together is small.
        tend(env, scratch, site, found);
        // At once: the slot forgets its previous owner with the table's next change. And again
        // now and then: the pins that are not noted again are forgotten first.
        if is_previous && !found.has(Found::PINNED) || found.has(Found::DUE) {
            note_pin(env, scratch);
        }
        return go_on(env, scratch);
    }
    let is_elsewhere =
        scratch.has_pin != 0 && scratch.pin.is_elsewhere() && !scratch.parsed.opens();
    if is_elsewhere
        || env.service_net(scratch.parsed.tuple.dst) & net_flags::PREDECESSORS != 0
            && is_left_behind(env, scratch, site)
    {
        Recalled::Behind
    } else {
        Recalled::Unknown
    }
}

/// Pins the flow whose key is set to its backend, and notes that in its record. In `PINS`, whose element was looked up is as good as
/// new.
#[inline(never)]
fn note_pin<E: Env>(env: &mut E, scratch: &mut Scratch) {
    let mut confirmed = confirmed::NO;
    if let Some(flow) = env.look_up(&scratch.key) {
        flow.pinned = 1;
        confirmed = flow.confirmed;
    }
    if confirmed != confirmed::YES {
        pin(env, scratch);
    } else if scratch.has_pin != KEPT {
        keep_pin(env, scratch);
    }
}

/// Whether a packet is for earlier programs: which port and which backend they have given its connection
/// stands in their maps. Of a SYN that is repeated, these have only that its port is taken.
#[inline(never)]
fn is_left_behind<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> bool {
    if !scratch.parsed.opens() {
        return true;
    }
    if scratch.has_pin != 0 && is_reserved(env, scratch, site, scratch.pin.source_port) {
        return true;
    }
    scratch.pin.backend = scratch.slot.current;
    is_reserved(env, scratch, site, 0)
}

/// Whether the record of the backend `scratch.pin` is no more than a place that is kept for the packet's
/// flow. A port of 0 is the one that the backend sees if nothing speaks against it.
#[inline(always)]
fn is_reserved<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site, source_port: u16) -> bool {
    if !set_leg(env, scratch, site, scratch.pin.backend) {
        return false;
    }
    if source_port != 0 {
        scratch.leg.source_port = source_port;
    }
    set_key(scratch, site);
    let Scratch { parsed, key, .. } = scratch;
    let there = env.look_up(key);
    there.is_some_and(|flow| flow.is_reserved_for(&parsed.tuple))
}

/// A flow that was found goes on, unless it is a connection to a backend that is gone and those are
/// to end. Its record stays: all that the client still sends is answered alike.
#[inline(always)]
fn go_on<E: Env>(env: &E, scratch: &Scratch) -> Recalled {
    if env.config().has(config::flags::RESET_VANISHED) && scratch.leg.serves == 0 {
        Recalled::Reset
    } else {
        Recalled::Send
    }
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
    // Whoever is missed here begins elsewhere: no insertion of the same key would tell.
    let found = find(env, scratch, site, E::look_up);
    if !found.has(Found::OURS) {
        return Found::FREE;
    }
    // A datagram can go anywhere; only a connection is worth a backend that is gone. Should it return,
    // the client is with another one.
    if scratch.parsed.tuple.protocol != protocol::TCP && scratch.leg.serves == 0 {
        if !scratch.parsed.is_error()
            && let Some(flow) = env.look_up(&scratch.key)
        {
            flow.leave(scratch.now);
            remove_marks(env, scratch);
        }
        return Found::FREE;
    }
    if scratch.parsed.is_syn() && !keeps_its_backend(env, scratch, found) {
        // What it leaves behind must not be taken for it later.
        env.remove(&scratch.key);
        return Found::FREE;
    }
    found
}

/// Whether a SYN that was found goes where its flow is; where it does not, it goes where the table says
/// now.
///
/// It may repeat one that is under way, whose answer has got lost. In a connection that nobody has
/// ended it may be forged, and only the backend can tell: it asks the client, whose RST ends the
/// connection if it has begun anew (RFC 5961, 4.2).
#[inline(always)]
fn keeps_its_backend<E: Env>(env: &mut E, scratch: &mut Scratch, found: Found) -> bool {
    if found.has(Found::OPENING) {
        return scratch.leg.serves != 0;
    }
    if found.has(Found::ENDED) {
        return false;
    }
    if scratch.leg.is_active != 0 {
        reopen(env, scratch)
    } else {
        scratch.leg.serves != 0
    }
}
