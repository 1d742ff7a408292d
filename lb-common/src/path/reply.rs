//! From a backend back towards the client.

use super::{Action, Env, Route, Scratch, send::leave};
use crate::{
    Flow, FlowKey, Hop, Tuple,
    addresses::Place,
    counter::Outcome,
    flow::{Direction, edge},
    rewrite::Endpoint,
    wire::tcp::RST,
};

/// Looks up the record of the key that is set, and notes the reply if it is `expected`: then
/// `src`, `dst` and `hop` of the scratch memory are the record's. Says whether what the record
/// caches is to be renewed.
#[inline(always)]
fn undo<E: Env>(
    env: &mut E,
    scratch: &mut Scratch,
    expected: impl FnOnce(&Flow, &Tuple) -> bool,
) -> Option<bool> {
    if !env.may_be(Place::of_backend(scratch.key.src, scratch.key.src_port)) {
        return None;
    }
    let now = env.now();
    let Scratch {
        parsed,
        src,
        dst,
        hop,
        key,
        leg,
        ..
    } = scratch;
    if parsed.tcp_flags & RST != 0 {
        // The client's next segment has to take it back, should it go on. Whether there is a record or not: a
        // backend that does not know the connection is not the one whose mark led there.
        env.remove_marks((key.dst, key.dst_port));
    }
    let flow = env.look_up(key)?;
    if !expected(flow, &parsed.tuple) || parsed.is_error() && flow.is_left() {
        // What has become of a datagram is of no interest to a client that is with another backend.
        return None;
    }
    let mut due = false;
    if !parsed.is_error() {
        due = flow.note(Direction::Reply, parsed.tcp_flags, now);
        // A later piece has no numbers.
        if parsed.has_ports() {
            let [sequence, _] = parsed.tcp_numbers;
            flow.expect_ack(parsed.tcp_flags, sequence);
        }
    }
    *src = Endpoint {
        addr: flow.frontend.by_words(),
        port: flow.frontend_port,
    };
    *dst = Endpoint {
        addr: flow.client.by_words(),
        port: flow.client_port,
    };
    *hop = flow.reply.by_words();
    // If the reply is dropped, it is known whose it was.
    leg.reference = flow.backend;
    if parsed.tcp_flags & RST != 0 {
        // Of a client whose address the backend does not see.
        env.remove_marks((dst.addr, dst.port));
    }
    Some(due)
}

/// A reply on its way out of the node, to a client that was not SNATed: it gets the frontend
/// back as its source. Nothing if it is no reply.
#[inline(always)]
pub fn unmask<E: Env>(env: &mut E, scratch: &mut Scratch, edge: u32) -> Option<Action> {
    scratch.key = FlowKey::of_reply(&scratch.parsed.tuple, edge);
    undo(env, scratch, |_, _| true)?;
    Some(if scratch.dst.port == scratch.parsed.tuple.dst_port {
        Action::ToClient
    } else {
        scratch.remaps(Outcome::Replied)
    })
}

/// A reply to an SNAT address: both ends are translated back, and it leaves at once. Nothing if
/// it is no such reply.
#[inline(always)]
pub fn unsnat<E: Env>(env: &mut E, scratch: &mut Scratch) -> Option<Action> {
    scratch.key = FlowKey::of_reply(&scratch.parsed.tuple, edge::WIRE_INGRESS);
    let due = undo(env, scratch, |flow, tuple| {
        flow.snat.to_wire_words() == tuple.dst.to_wire_words()
    })?;
    if due || scratch.hop.ifindex == 0 {
        let hop = match env.route(&scratch.parsed, scratch.dst.addr) {
            Route::Via(hop) => {
                scratch.has_asked = 1;
                hop
            }
            // A later hook asks again.
            Route::Defer => Hop::device(0),
            // As for what goes to a backend.
            Route::Unreachable => Hop::device(scratch.hop.ifindex),
        };
        scratch.hop = hop;
        if let Some(flow) = env.look_up(&scratch.key) {
            flow.reply = hop;
        }
    }
    if !env.can_send(&scratch.hop) {
        return Some(Action::Defer);
    }
    Some(leave(env, scratch))
}

/// A reply of a pod to itself: both ends are translated back, and it returns to the pod.
#[inline(always)]
pub fn unhairpin<E: Env>(env: &mut E, scratch: &mut Scratch, ifindex: u32) -> Option<Action> {
    scratch.key = FlowKey::of_reply(&scratch.parsed.tuple, ifindex);
    undo(env, scratch, |_, _| true)?;
    Some(Action::Bounce)
}

/// A client that opens a connection to a backend's own address must not meet the flow of an
/// earlier connection to a frontend with the same ports: its replies would be translated. Unless it
/// `was_seen_to` already.
#[inline(always)]
pub fn forget<E: Env>(
    env: &mut E,
    scratch: &mut Scratch,
    edge: u32,
    was_seen_to: impl FnOnce(&E) -> bool,
) {
    let tuple = &scratch.parsed.tuple;
    let may_be_backends = |env: &E| env.may_be(Place::of_backend(tuple.dst, tuple.dst_port));
    if !scratch.parsed.opens() || !may_be_backends(env) || was_seen_to(env) {
        return;
    }
    let reply = Tuple {
        src: tuple.dst,
        dst: tuple.src,
        src_port: tuple.dst_port,
        dst_port: tuple.src_port,
        protocol: tuple.protocol,
    };
    scratch.key = FlowKey::of_reply(&reply, edge);
    env.remove(&scratch.key);
}
