//! The first packet of a flow.

use core::hint::black_box;

use super::{
    Env, Route, Scratch, cached, choose,
    forward::{Found, Nat, Site, first_port, moving_hash, other_port, set_key, set_leg},
    pin::pin,
    within::stay_within,
};
use crate::{
    Addr, FrontendKey, Hop, Interface,
    addresses::{Place, Role},
    counter::Outcome,
    flow::confirmed,
    frontend::flags,
    protocol, select, vip,
};

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
    Unknown,
    Martian,
}

/// Tries before a flow that is opening displaces another one, where few others are opening.
const PATIENCE: u32 = select::PROBES / 2;
/// So many ports of those that are looked at, held by flows that have not gone on, are a flood: to look
/// at more of them costs much, and finds nothing better.
const FLOODED: u32 = select::LOOKS / 2;

/// Opens a flow with the slot's owner, or with another backend or port if its reply could not be
/// told from another connection's. `found` says what stands where its record would be.
#[inline(never)]
pub(super) fn open<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site, found: Found) -> Opened {
    if scratch.parsed.is_error() {
        return Opened::Unknown;
    }
    if !choose::may_begin(env, scratch) {
        return Opened::NotAllowed;
    }
    let may_be_from_a_service =
        site == Site::Wire && env.may_be(Place::of(scratch.parsed.tuple.src, Role::Vip));
    if may_be_from_a_service && is_from_a_service(env, scratch) {
        return Opened::Martian;
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
    match way(env, scratch, site) {
        Opened::Send => {}
        no_way => return no_way,
    }
    // Of a record of another backend nothing is known yet.
    let is_slots = !by_chance && !is_recalled;
    scratch.is_stale = u32::from(!is_slots || found == Found::STALE);
    let mut is_first_taken = is_slots && found == Found::TAKEN;
    if scratch.leg.nat == Nat::SNAT && scratch.parsed.goes_on() {
        if !reclaim(env, scratch, site, is_recalled) {
            return Opened::NoSnatPort;
        }
        (is_first_taken, scratch.is_stale) = (false, 1);
    }
    insert_somewhere(env, scratch, site, is_first_taken)
}

/// Inserts the flow's record for the first candidate whose place is free; that of the very first one may be known to be
/// taken.
#[inline(always)]
fn insert_somewhere<E: Env>(
    env: &mut E,
    scratch: &mut Scratch,
    site: Site,
    is_first_taken: bool,
) -> Opened {
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
    scratch.may_displace = 0;
    if !is_first_taken && insert_first(env, scratch, site) {
        choose::bind(env, scratch);
        return Opened::Send;
    }
    for attempt in 1..select::PROBES {
        scratch.may_displace = (attempt >= PATIENCE).into();
        let is_candidate = if site == Site::Wire && scratch.nat == Nat::SNAT {
            free_port(env, scratch, site, attempt)
        } else {
            alternative(env, scratch, site, attempt)
        };
        if is_candidate && insert(env, scratch, site, attempt) {
            choose::bind(env, scratch);
            return Opened::Send;
        }
    }
    Opened::NoSnatPort
}

/// Tries to insert the flow's record for the first candidate, of which it may be known that nobody stands in its place.
#[inline(always)]
fn insert_first<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> bool {
    if scratch.is_stale != 0 {
        return insert(env, scratch, site, 0);
    }
    set_key(scratch, site);
    insert_if_free(env, scratch, 0)
}

/// Whether a packet of a wire claims to come from a Service or from the node itself: its answer would
/// be for a Service again, and so on (RFC 2827).
///
/// An external address may be another host's, too, which sends from it: only from its frontends'
/// ports nobody does.
#[inline(never)]
fn is_from_a_service<E: Env>(env: &E, scratch: &mut Scratch) -> bool {
    let tuple = &scratch.parsed.tuple;
    let Some(vip) = env.vip(&tuple.src) else {
        return false;
    };
    if vip.has(vip::flags::CLUSTER_IP | vip::flags::NODE) {
        return true;
    }
    // The frontend that is dialled has been found: its key is needed no more.
    scratch.frontend_key = FrontendKey::new(tuple.src, tuple.src_port, tuple.protocol);
    env.frontend(&scratch.frontend_key).is_some()
}

/// Lets a connection that goes on take its place back from one that has not yet: a flood of SYNs has
/// taken it meanwhile. From another port, its backend would not know it. False if whoever has it now may
/// still go on, unless it is certain whose it was: the client sends again.
#[inline(never)]
fn reclaim<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site, is_certain: bool) -> bool {
    set_key(scratch, site);
    let Scratch {
        parsed, now, key, ..
    } = scratch;
    let Some(flow) = env.look_up(key) else {
        return true;
    };
    if flow.admits(&parsed.tuple, parsed.is_syn()) {
        return true;
    }
    if flow.confirmed != confirmed::NO {
        return true;
    }
    let may = is_certain || flow.is_displaceable(*now);
    if may {
        env.displace(key);
    }
    may
}

/// Tries to insert the flow's record for the `attempt`-th candidate.
#[inline(always)]
fn insert<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site, attempt: u32) -> bool {
    make_room(env, scratch, site) && insert_if_free(env, scratch, attempt)
}

/// Inserts the record of the key that is set, unless there is one; one that admits the packet is as
/// good: another CPU has met the flow's first packet at the same time. Out of line: the verifier forgets
/// what it has seen on the way there.
#[inline(never)]
fn insert_if_free<E: Env>(env: &mut E, scratch: &mut Scratch, attempt: u32) -> bool {
    let leg = &scratch.leg;
    scratch.flow.backend = leg.reference;
    let is_elsewhere = leg.reference.index() != scratch.first.index()
        || leg.source_port != first_port(env, scratch, leg.nat);
    // A pin that there is must say where the connection is now, and one that has displaced another one
    // must know that it has been there.
    let has_displaced = attempt != 0 && scratch.may_displace != 0;
    let is_pinned =
        is_elsewhere || has_displaced || scratch.has_pin != 0 || choose::needs_pin(scratch);
    scratch.flow.pinned = u8::from(is_pinned);
    if env.insert_if_absent(&scratch.key, &scratch.flow) {
        env.count(Outcome::NewFlow);
    } else if !join(env, scratch) {
        return false;
    }
    if is_pinned {
        pin(env, scratch);
    }
    true
}

/// Lets the packet go on by the record of the key that is set, if that admits it. What else there is to
/// do for the flow waits for its next packet.
#[inline(always)]
fn join<E: Env>(env: &mut E, scratch: &mut Scratch) -> bool {
    let Scratch {
        parsed,
        key,
        flow,
        snat,
        hop,
        ..
    } = scratch;
    let there = env.look_up(key);
    let Some(there) = there.filter(|there| there.admits(&parsed.tuple, parsed.is_syn())) else {
        return false;
    };
    there.pinned |= flow.pinned;
    (*snat, *hop) = (there.snat.by_words(), there.forward.by_words());
    true
}

/// Sets the candidate's key, and removes a record that stands there if it gives way to this packet's
/// flow. False if one stays.
#[inline(never)]
fn make_room<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> bool {
    set_key(scratch, site);
    let (is_syn, now) = (scratch.parsed.is_syn(), scratch.now);
    let Some(flow) = env.look_up(&scratch.key) else {
        return true;
    };
    if flow.gives_way(is_syn, now) || flow.is_left() && flow.is_owned_by(&scratch.parsed.tuple) {
        env.remove(&scratch.key);
    } else if flow.admits(&scratch.parsed.tuple, is_syn) {
        return true;
    } else if scratch.may_displace != 0 && flow.is_displaceable(now) {
        env.displace(&scratch.key);
    } else {
        return false;
    }
    true
}

/// Sets the next hop of a candidate, and its SNAT address, if it has one.
#[inline(always)]
fn way<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> Opened {
    match site {
        Site::Pod(ifindex) => {
            scratch.snat = Addr::unspecified();
            stay_within(env, scratch, ifindex);
            Opened::Send
        }
        Site::Wire => way_out(env, scratch),
    }
}

/// Sets the SNAT address and the next hop of a candidate that needs them. Out of line, as
/// [`alternative`]: the stack of all calls together is small.
#[inline(never)]
fn way_out<E: Env>(env: &mut E, scratch: &mut Scratch) -> Opened {
    if scratch.leg.nat != Nat::SNAT {
        scratch.hop = Hop::device(0);
        scratch.snat = Addr::unspecified();
        return Opened::Send;
    }
    if cached::share(env, scratch)
        && let Some(interface) = env.interface(scratch.hop.ifindex)
        && interface.is_by_destination(scratch.leg.addr.is_v4())
    {
        return leaves_by(scratch, &interface);
    }
    match env.route(&scratch.parsed, scratch.leg.addr) {
        Route::Via(hop) => {
            scratch.has_asked = 1;
            scratch.hop = hop;
        }
        Route::Defer => return Opened::Defer,
        Route::Unreachable => return Opened::Unroutable,
    }
    let Some(interface) = env.interface(scratch.hop.ifindex) else {
        return Opened::Unroutable;
    };
    let opened = leaves_by(scratch, &interface);
    if opened == Opened::Send {
        cached::keep(env, scratch);
    }
    opened
}

/// Sets the SNAT address of a candidate whose packets leave by a device.
#[inline(always)]
fn leaves_by(scratch: &mut Scratch, interface: &Interface) -> Opened {
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
        // Whether this one is at the client's bridge, the slow tick finds out.
        scratch.hop = Hop::device(0);
        scratch.flow.forward = scratch.hop.by_words();
        return slot.is_some_and(|slot| set_leg(env, scratch, site, slot.current))
            && scratch.leg.nat == Nat::KEEP;
    }
    if scratch.parsed.tuple.protocol == protocol::SCTP {
        return false;
    }
    if keeps_port && !set_leg(env, scratch, site, scratch.first) {
        return false;
    }
    scratch.leg.source_port = other_port(env, scratch, scratch.leg.nat, attempt);
    true
}

/// Makes a port of SNAT that nobody has the candidate's, if there is one among some. Many flows share
/// the range, so that most of its ports may be taken. Then it is that of a flow which has not gone on, at
/// the last tries, or at once under a flood: of those that were looked at the one that has had the most time.
/// A handshake that takes longer than others would lose its port too soon, and a backend that has got
/// another flow's SYN from there answers this one's segments with challenges (RFC 9293, 3.10.7.4).
#[inline(never)]
fn free_port<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site, attempt: u32) -> bool {
    if scratch.parsed.tuple.protocol == protocol::SCTP {
        return false;
    }
    set_key(scratch, site);
    scratch.victims = 0;
    let hash = moving_hash(scratch, attempt);
    let ports = env.config().ports(scratch.parsed.tuple.src, true);
    for look in 0..select::LOOKS {
        // Hidden from the optimiser, which would count by what follows from it: the verifier would
        // see no end to that.
        let look = black_box(look);
        let port = select::any_port(ports, hash, attempt * select::LOOKS + look);
        if is_free(env, scratch, port) {
            scratch.leg.source_port = port;
            scratch.may_displace = 0;
            return true;
        }
    }
    let victims = scratch.victims;
    if victims >= FLOODED || victims > 0 && attempt >= PATIENCE {
        scratch.leg.source_port = scratch.victim_port;
        scratch.may_displace = 1;
        return true;
    }
    false
}

/// Whether a port of SNAT is free. If not, who holds it may become a victim.
#[inline(always)]
fn is_free<E: Env>(env: &mut E, scratch: &mut Scratch, port: u16) -> bool {
    scratch.key.dst_port = port;
    let Some(flow) = env.glance(&scratch.key, true) else {
        return true;
    };
    if flow.gives_way(scratch.parsed.is_syn(), scratch.now) {
        return true;
    }
    if flow.is_displaceable(scratch.now) {
        let seen_tick = flow.seen_tick;
        if scratch.victims == 0 || is_before(seen_tick, scratch.victim_tick) {
            (scratch.victim_tick, scratch.victim_port) = (seen_tick, port);
        }
        scratch.victims += 1;
    }
    false
}

/// Whether a tick is older than another one: ticks of different CPUs may be apart, and order is all that
/// counts.
#[inline(always)]
fn is_before(one: u64, other: u64) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}
