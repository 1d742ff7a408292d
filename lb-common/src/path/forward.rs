//! From a client towards a backend.
//!
//! The way of an established flow is inlined into every hook. What only the first packets of a
//! flow need is out of line ([`super::recall`], [`super::tend`], [`super::open`]): the verifier follows it once per call, and
//! both families share it.

use core::hint::black_box;

use bytemuck::Zeroable;

use super::{
    Action, Env, Scratch, choose,
    established::{expect_marks, goes_by_mark, mark, remove_marks, remove_marks_at_the_end},
    open::{Opened, open},
    recall::{Recalled, recall},
    send::send,
    tend::tend,
    unserved::{self, Judgement},
};
use crate::{
    Addr, BackendRef, Extent, Flow, FlowKey, Frontend, Slot, Tuple,
    addresses::{Place, Role},
    backend::Backend,
    counter::Outcome,
    flow::{Direction, confirmed, edge},
    frontend::flags,
    hash, protocol, select,
};

/// Where a client's packets enter the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The veth of a pod of this node, by interface index.
    Pod(u32),
    /// An uplink: the client is outside this node.
    Wire,
}

impl Site {
    #[inline(always)]
    fn extent(self, frontend: &Frontend) -> Extent {
        match self {
            Self::Pod(_) => frontend.inside,
            Self::Wire => frontend.outside,
        }
    }

    #[inline(always)]
    pub(super) fn edge(self, nat: u32) -> u32 {
        match self {
            Self::Pod(ifindex) => ifindex,
            Self::Wire if nat == Nat::SNAT => edge::WIRE_INGRESS,
            Self::Wire => edge::WIRE_EGRESS,
        }
    }
}

/// What happens to a flow's source address. Numbers, since they lie in [`Scratch`].
pub(super) struct Nat;

impl Nat {
    /// It is kept.
    pub(super) const KEEP: u32 = 0;
    /// It becomes the address of the device that the packet leaves by.
    pub(super) const SNAT: u32 = 1;
    /// Client and backend are one pod: it becomes the frontend's address.
    pub(super) const HAIRPIN: u32 = 2;
}

/// A backend as a candidate for a packet's flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Leg {
    /// Address of the backend.
    pub addr: Addr,
    /// Which backend it is.
    pub reference: BackendRef,
    /// What happens to the source address.
    pub(super) nat: u32,
    /// Port of the backend, host byte order.
    pub port: u16,
    /// Source port that the backend sees, host byte order.
    pub source_port: u16,
    /// Whether the backend serves the flows that it has.
    pub(super) serves: u16,
    /// Whether it gets new ones.
    pub(super) is_active: u16,
    /// Whether it is on this node.
    pub(super) is_local: u16,
    pub(super) pad: u16,
}

/// What the store says about a candidate: bits, all of which are always known. An enum with fields
/// leaves the fields of its other variants undefined, and the verifier refuses to look at those.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Found(u32);

impl Found {
    /// Nothing.
    pub(super) const FREE: Self = Self(0);
    /// Another client's record, and alive.
    pub(super) const TAKEN: Self = Self(1);
    /// A record that gives way.
    pub(super) const STALE: Self = Self(2);
    /// This client's flow: `snat` and `hop` of the scratch memory are the record's.
    pub(super) const OURS: u32 = 4;
    /// … no reply has been seen yet.
    pub(super) const OPENING: u32 = 8;
    /// … the slow tick: what is cached is to be renewed.
    pub(super) const DUE: u32 = 16;
    /// … it has a pin.
    pub(super) const PINNED: u32 = 32;
    /// … one side has ended it.
    pub(super) const ENDED: u32 = 64;
    /// … this packet confirms it.
    pub(super) const CONFIRMED: u32 = 128;
    /// … an earlier one did, and no flood displaces it.
    pub(super) const KEPT: u32 = 256;

    #[inline(always)]
    pub(super) fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

/// Translates the packet `scratch.parsed` if it dials a frontend. Nothing if it dials none, unless
/// this hook `decides_all`: then it is about cluster addresses that have no such port, too.
#[inline(always)]
pub fn forward<E: Env>(
    env: &mut E,
    scratch: &mut Scratch,
    site: Site,
    decides_all: bool,
) -> Option<Action> {
    let tuple = &scratch.parsed.tuple;
    if tuple.dst.is_loopback() || site == Site::Wire && tuple.src.is_loopback() {
        // Localhost NodePorts are for sockets of the node, never for packets (item 22).
        return match site {
            Site::Pod(_) => None,
            Site::Wire => Some(scratch.drops(Outcome::Martian)),
        };
    }
    let dialled = if env.may_be(Place::of(tuple.dst, Role::Dialled)) {
        scratch.frontend_key = tuple.frontend();
        env.frontend(&scratch.frontend_key)
    } else {
        None
    };
    let Some(frontend) = dialled else {
        return if decides_all {
            without_frontend(env, scratch, site)
        } else {
            None
        };
    };
    if site == Site::Wire && !scratch.parsed.tuple.src.is_of_a_host() {
        return Some(scratch.drops(Outcome::Martian));
    }
    remove_marks_at_the_end(env, scratch);
    expect_marks(env, scratch);
    scratch.hash = scratch.parsed.tuple.hash(env.config().seed);
    scratch.service = frontend.service;
    scratch.flags = frontend.flags;
    scratch.affinity_timeout_s = frontend.affinity_timeout_s;
    scratch.extent = site.extent(&frontend);
    scratch.now = env.now();
    if scratch.extent.is_empty() {
        return Some(serve_no_more(env, scratch, site));
    }
    match slot(env, &frontend, scratch.extent, scratch.hash) {
        Some(slot) => scratch.slot = slot,
        None => return Some(scratch.drops(Outcome::TornTable)),
    }
    if frontend.affinity_timeout_s != 0 {
        choose::prefer(env, scratch, site);
    }
    Some(serve(env, scratch, site))
}

/// Nobody serves this port; a connection that there was may go on.
#[inline(always)]
fn without_frontend<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> Option<Action> {
    scratch.flags = 0;
    match unserved::judge(env, scratch) {
        Judgement::Resume => {
            remove_marks_at_the_end(env, scratch);
            scratch.hash = scratch.parsed.tuple.hash(env.config().seed);
            scratch.now = env.now();
            Some(serve_no_more(env, scratch, site))
        }
        Judgement::Reject if scratch.parsed.is_error() => Some(scratch.drops(Outcome::UnknownFlow)),
        other => other.action(scratch),
    }
}

/// There is nobody for new connections; those that there are may go on with who they have.
#[inline(always)]
fn serve_no_more<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> Action {
    scratch.slot = Slot {
        current: BackendRef::NONE,
        previous: BackendRef::NONE,
    };
    match recall(env, scratch, site) {
        Recalled::Send => return send(env, scratch, site),
        Recalled::Reset => return Action::Reset,
        Recalled::Behind => return Action::Pass,
        Recalled::Unknown => {}
    }
    if scratch.parsed.is_error() {
        return scratch.drops(Outcome::UnknownFlow);
    }
    if !choose::may_begin(env, scratch) {
        return scratch.drops(Outcome::NotAllowed);
    }
    if scratch.flags & flags::UNSERVED != 0 {
        return unserved::judge(env, scratch)
            .action(scratch)
            .unwrap_or(Action::Pass);
    }
    // A policy that finds nobody here drops; a Service without anybody rejects (items 41, 42).
    if scratch.flags & flags::HAS_ENDPOINTS != 0 {
        scratch.drops(Outcome::NoBackend)
    } else {
        Action::Reject
    }
}

/// The slot that `hash` selects, if the extent still is this frontend's.
#[inline(always)]
pub(super) fn slot<E: super::Tables>(
    env: &E,
    frontend: &Frontend,
    extent: Extent,
    hash: u32,
) -> Option<Slot> {
    let header = env.slot(extent.offset)?;
    if header != Slot::header(frontend.service, frontend.generation) {
        return None;
    }
    env.slot(extent.slot_index(hash))
}

#[inline(always)]
fn serve<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> Action {
    if !set_leg(env, scratch, site, scratch.slot.current) {
        return scratch.drops(Outcome::TornTable);
    }
    if goes_by_mark(env, scratch, site) {
        return send(env, scratch, site);
    }
    let is_new = scratch.parsed.opens();
    let found = find(env, scratch, site, |env, key| env.glance(key, is_new));
    if found.has(Found::OURS) {
        if scratch.parsed.is_syn() && !found.has(Found::OPENING) && !reopen(env, scratch) {
            return scratch.drops(Outcome::NotAllowed);
        }
        tend(env, scratch, site, found);
        mark(env, scratch, site, found);
        return send(env, scratch, site);
    }
    match recall(env, scratch, site) {
        Recalled::Send => return send(env, scratch, site),
        Recalled::Reset => return Action::Reset,
        Recalled::Behind => return Action::Pass,
        Recalled::Unknown => {}
    }
    match open(env, scratch, site, found) {
        Opened::Send => send(env, scratch, site),
        Opened::Defer => Action::Defer,
        Opened::NoSnatPort => scratch.drops(Outcome::NoSnatPort),
        Opened::Unroutable => scratch.drops(Outcome::Unroutable),
        Opened::TornTable => scratch.drops(Outcome::TornTable),
        Opened::NotAllowed => scratch.drops(Outcome::NotAllowed),
        Opened::Unknown => scratch.drops(Outcome::UnknownFlow),
        Opened::Martian => scratch.drops(Outcome::Martian),
    }
}

/// A connection begins anew on the ports of one that there was. False if the client may not.
#[inline(never)]
pub(super) fn reopen<E: Env>(env: &mut E, scratch: &mut Scratch) -> bool {
    if !choose::may_begin(env, scratch) {
        return false;
    }
    choose::bind(env, scratch);
    remove_marks(env, scratch);
    if let Some(flow) = env.look_up(&scratch.key) {
        flow.reopen(scratch.now);
    }
    true
}

/// Makes `reference` the candidate. False if it means an earlier incarnation, or nothing.
#[inline(always)]
pub(super) fn set_leg<E: Env>(
    env: &E,
    scratch: &mut Scratch,
    site: Site,
    reference: BackendRef,
) -> bool {
    let Some(backend) = env.backend(reference.index()) else {
        return false;
    };
    if !backend.is(reference) {
        return false;
    }
    let nat = nat_of(&backend, &scratch.parsed.tuple, site);
    scratch.leg = Leg {
        addr: backend.addr.by_words(),
        reference,
        nat,
        port: backend.port,
        source_port: first_port(env, scratch, nat),
        serves: backend.serves().into(),
        is_active: backend.is_active().into(),
        is_local: (backend.local != 0).into(),
        pad: 0,
    };
    true
}

#[inline(always)]
fn nat_of(backend: &Backend, tuple: &Tuple, site: Site) -> u32 {
    match site {
        Site::Pod(_) if backend.addr.to_wire_words() == tuple.src.to_wire_words() => Nat::HAIRPIN,
        Site::Wire if backend.local == 0 => Nat::SNAT,
        _ => Nat::KEEP,
    }
}

/// The port that a backend sees as source, if nothing speaks against it.
#[inline(always)]
pub(super) fn first_port<E: Env>(env: &E, scratch: &Scratch, nat: u32) -> u16 {
    // SCTP's checksum covers its ports, and is no sum of differences: they stay.
    if nat == Nat::KEEP || scratch.parsed.tuple.protocol == protocol::SCTP {
        scratch.parsed.tuple.src_port
    } else {
        other_port(env, scratch, nat, 0)
    }
}

/// A port that the backend may see as source, by the flow's hash.
#[inline(always)]
pub(super) fn other_port<E: Env>(env: &E, scratch: &Scratch, nat: u32, attempt: u32) -> u16 {
    let hash = moving_hash(scratch, attempt);
    let tuple = &scratch.parsed.tuple;
    let ports = env.config().ports(tuple.src, nat == Nat::SNAT);
    select::source_port(ports, tuple, hash, attempt)
}

/// The hash that selects what is tried at the `attempt`-th time. Alternatives are remembered by a
/// pin, so they may move with time: a client that found all of them taken and tries again meets
/// others.
#[inline(always)]
pub(super) fn moving_hash(scratch: &Scratch, attempt: u32) -> u32 {
    if attempt == 0 {
        scratch.hash
    } else {
        scratch
            .hash
            .wrapping_add((scratch.now.tick as u32).wrapping_mul(hash::GOLDEN))
    }
}

/// Makes the key of the reply that the candidate would send.
#[inline(always)]
pub(super) fn set_key(scratch: &mut Scratch, site: Site) {
    let (tuple, leg) = (&scratch.parsed.tuple, &scratch.leg);
    let reply = Tuple {
        src: leg.addr,
        dst: if leg.nat == Nat::HAIRPIN {
            tuple.dst
        } else {
            tuple.src
        },
        src_port: leg.port,
        dst_port: leg.source_port,
        protocol: tuple.protocol,
    };
    scratch.key = FlowKey::of_reply(&reply, site.edge(leg.nat));
}

#[inline(always)]
pub(super) fn find<E: Env>(
    env: &mut E,
    scratch: &mut Scratch,
    site: Site,
    look_up: impl for<'a> FnOnce(&'a mut E, &FlowKey) -> Option<&'a mut Flow>,
) -> Found {
    set_key(scratch, site);
    scratch.found = meet(env, scratch, look_up).0;
    // Read back from the scratch memory, of which the verifier knows nothing: else it follows the
    // packet's further way once for each of these combinations, and for each of the store's maps.
    Found(black_box(&*scratch).found)
}

/// Notes the packet in the record of the key that is set.
#[inline(always)]
fn meet<E: Env>(
    env: &mut E,
    scratch: &mut Scratch,
    look_up: impl for<'a> FnOnce(&'a mut E, &FlowKey) -> Option<&'a mut Flow>,
) -> Found {
    let Scratch {
        parsed,
        now,
        snat,
        hop,
        key,
        ..
    } = scratch;
    let Some(flow) = look_up(env, key) else {
        return Found::FREE;
    };
    if flow.is_expired(*now) {
        return Found::STALE;
    }
    if !flow.is_owned_by(&parsed.tuple) {
        return if flow.gives_way(parsed.is_syn(), *now) {
            Found::STALE
        } else {
            Found::TAKEN
        };
    }
    if flow.is_left() {
        return Found::STALE;
    }
    let opening = if flow.is_opening() { Found::OPENING } else { 0 };
    let ended = u32::from(flow.ends != 0) * Found::ENDED;
    let due = !parsed.is_error() && flow.note(Direction::Forward, parsed.tcp_flags, *now);
    (*snat, *hop) = (flow.snat.by_words(), flow.forward.by_words());
    let [_, ack] = parsed.tcp_numbers;
    let is_confirmed = !parsed.is_error() && flow.is_confirmed_by(parsed.tcp_flags, ack, due);
    let confirmed = if is_confirmed { Found::CONFIRMED } else { 0 };
    let due = if due { Found::DUE } else { 0 };
    let pinned = u32::from(flow.pinned & 1) * Found::PINNED;
    let kept = u32::from(flow.confirmed == confirmed::YES) * Found::KEPT;
    Found(Found::OURS | opening | ended | due | pinned | confirmed | kept)
}
