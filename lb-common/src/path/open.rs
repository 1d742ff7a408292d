//! The first packet of a flow.

use super::{
    Env, Route, Scratch, choose,
    forward::{Found, Nat, Site, moving_hash, other_port, pin, set_key, set_leg},
};
use crate::{Addr, Hop, counter::Outcome, frontend::flags, protocol, select};

/// How the first packet of a flow goes on. `leg`, `snat` and `hop` of the scratch memory are set
/// if it is to be sent.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    Send,
    Defer,
    NoSnatPort,
    Unroutable,
    TornTable,
    NotAllowed,
}

/// Opens a flow with the slot's owner, or with another backend or port if its reply could not be
/// told from another connection's. `found` says what stands where its record would be.
#[inline(never)]
pub(super) fn open<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site, found: Found) -> Opened {
    if !choose::may_begin(env, scratch) {
        return Opened::NotAllowed;
    }
    // A connection whose record was forgotten, while its pin was not, goes on where it was.
    let is_recalled = scratch.has_pin != 0
        && !scratch.parsed.opens()
        && set_leg(env, scratch, site, scratch.pin.backend);
    let by_chance =
        !is_recalled && scratch.flags & flags::RANDOM != 0 && scratch.affinity_timeout_s == 0;
    scratch.first = if is_recalled {
        scratch.leg.source_port = scratch.pin.source_port;
        scratch.pin.backend
    } else if by_chance {
        choose::any(env, scratch)
    } else {
        scratch.slot.current
    };
    if !is_recalled && !set_leg(env, scratch, site, scratch.first) {
        return Opened::TornTable;
    }
    match way_out(env, scratch) {
        Opened::Send => {}
        no_way => return no_way,
    }
    let Scratch {
        parsed,
        now,
        snat,
        hop,
        flow,
        ..
    } = scratch;
    flow.begin(&parsed.tuple, parsed.tcp_flags, snat, hop, *now);
    scratch.nat = scratch.leg.nat;
    // Of a record of another backend nothing is known yet.
    let is_slots = !by_chance && !is_recalled;
    scratch.is_stale = u32::from(!is_slots || found == Found::STALE);
    for attempt in u32::from(is_slots && found == Found::TAKEN)..select::PROBES {
        let is_candidate = attempt == 0 || alternative(env, scratch, site, attempt);
        if is_candidate && insert(env, scratch, site, attempt) {
            choose::bind(env, scratch);
            env.count(Outcome::NewFlow);
            return Opened::Send;
        }
    }
    Opened::NoSnatPort
}

/// Tries to insert the flow's record for the `attempt`-th candidate. Out of line: the verifier
/// forgets what it has seen on the way there.
#[inline(never)]
fn insert<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site, attempt: u32) -> bool {
    scratch.flow.backend = scratch.leg.reference;
    // A pin that there is must say where the connection is now.
    let is_pinned = attempt != 0 || scratch.has_pin != 0 || choose::needs_pin(scratch);
    scratch.flow.pinned = u8::from(is_pinned);
    set_key(scratch, site);
    if (attempt != 0 || scratch.is_stale != 0) && is_stale(env, scratch) {
        env.remove(&scratch.key);
    }
    if !env.insert_if_absent(&scratch.key, &scratch.flow) {
        return false;
    }
    if is_pinned {
        pin(env, scratch);
    }
    true
}

/// Whether the record of the key that is set gives way to this packet's flow.
#[inline(always)]
fn is_stale<E: Env>(env: &mut E, scratch: &Scratch) -> bool {
    let (is_syn, now) = (scratch.parsed.is_syn(), scratch.now);
    env.look_up(&scratch.key)
        .is_some_and(|flow| flow.gives_way(is_syn, now))
}

/// Sets the SNAT address and the next hop of a candidate that needs them. Out of line, as
/// [`alternative`]: the stack of all calls together is small.
#[inline(never)]
fn way_out<E: Env>(env: &E, scratch: &mut Scratch) -> Opened {
    if scratch.leg.nat != Nat::SNAT {
        scratch.hop = Hop::device(0);
        scratch.snat = Addr::unspecified();
        return Opened::Send;
    }
    match env.route(&scratch.parsed, scratch.leg.addr) {
        Route::Via(hop) => scratch.hop = hop,
        Route::Defer => return Opened::Defer,
        Route::Unreachable => return Opened::Unroutable,
    }
    let Some(interface) = env.interface(scratch.hop.ifindex) else {
        return Opened::Unroutable;
    };
    scratch.snat = if scratch.leg.addr.is_v4() {
        interface.snat4.by_words()
    } else {
        interface.snat6.by_words()
    };
    if scratch.snat == Addr::UNSPECIFIED {
        return Opened::Unroutable;
    }
    Opened::Send
}

/// Makes another backend the candidate at the first attempts, if the client's own port is kept; else
/// the first backend by another port. False if there is none at this attempt.
#[inline(never)]
fn alternative<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site, attempt: u32) -> bool {
    /// Tries to find another backend.
    const BACKENDS: u32 = select::PROBES / 2;
    let keeps_port = scratch.nat == Nat::KEEP;
    // Another backend is less of a change than another port, unless the client is bound to this one.
    if keeps_port && attempt < BACKENDS && scratch.affinity_timeout_s == 0 {
        let hash = select::probe(moving_hash(scratch, attempt), attempt);
        let slot = env.slot(scratch.extent.slot_index(hash));
        return slot.is_some_and(|slot| set_leg(env, scratch, site, slot.current))
            && scratch.leg.nat == Nat::KEEP;
    }
    if scratch.parsed.tuple.protocol == protocol::SCTP {
        return false;
    }
    if keeps_port && !set_leg(env, scratch, site, scratch.first) {
        return false;
    }
    scratch.leg.source_port = other_port(env, scratch, attempt);
    true
}
