//! From a backend back towards the client.

use super::{Action, Env, Route, Scratch};
use crate::{
    Flow, FlowKey, Hop,
    flow::{Direction, edge},
    packet::Parsed,
    rewrite::{Endpoint, Rewrite},
};

struct Undo {
    client: Endpoint,
    frontend: Endpoint,
    hop: Hop,
    due: bool,
}

#[inline(always)]
fn undo<E: Env>(
    env: &E,
    parsed: &Parsed,
    key: &FlowKey,
    expected: impl FnOnce(&Flow) -> bool,
) -> Option<Undo> {
    let (tick, hz) = (env.tick(), env.config().ticks_per_second);
    env.look_up(key, |flow| {
        if !expected(flow) {
            return None;
        }
        let due = flow.note(Direction::Reply, parsed.tcp_flags, tick, hz);
        Some(Undo {
            client: Endpoint {
                addr: flow.client,
                port: flow.client_port,
            },
            frontend: Endpoint {
                addr: flow.frontend,
                port: flow.frontend_port,
            },
            hop: flow.reply,
            due,
        })
    })?
}

/// A reply on its way out of the node, to a client that was not SNATed: it gets the frontend
/// back as its source. Nothing if it is no reply.
#[inline(always)]
pub fn unmask<E: Env>(
    env: &E,
    scratch: &mut Scratch,
    parsed: &Parsed,
    edge: u32,
) -> Option<Action> {
    scratch.key = FlowKey::of_reply(&parsed.tuple, edge);
    let undo = undo(env, parsed, &scratch.key, |_| true)?;
    Some(Action::Stack(Rewrite {
        src: Some(undo.frontend),
        dst: None,
        routed: false,
    }))
}

/// A reply to an SNAT address: both ends are translated back, and it leaves at once. Nothing if
/// it is no such reply.
#[inline(always)]
pub fn unsnat<E: Env>(env: &E, scratch: &mut Scratch, parsed: &Parsed) -> Option<Action> {
    scratch.key = FlowKey::of_reply(&parsed.tuple, edge::WIRE_INGRESS);
    let dst = parsed.tuple.dst.to_wire_words();
    let undo = undo(env, parsed, &scratch.key, |flow| {
        flow.snat.to_wire_words() == dst
    })?;
    let hop = if undo.due || undo.hop.ifindex == 0 {
        match env.route(parsed, undo.client.addr) {
            Route::Via(hop) => {
                let _ = env.look_up(&scratch.key, |flow| flow.reply = hop);
                hop
            }
            Route::Defer | Route::Unreachable if undo.hop.ifindex != 0 => undo.hop,
            Route::Defer => return Some(Action::Defer),
            Route::Unreachable => return Some(Action::Drop(crate::counter::Outcome::Unroutable)),
        }
    } else {
        undo.hop
    };
    if !env.can_send(&hop) {
        return Some(Action::Defer);
    }
    Some(Action::Out(
        Rewrite {
            src: Some(undo.frontend),
            dst: Some(undo.client),
            routed: true,
        },
        hop,
    ))
}

/// A reply of a pod to itself: both ends are translated back, and it returns to the pod.
#[inline(always)]
pub fn unhairpin<E: Env>(
    env: &E,
    scratch: &mut Scratch,
    parsed: &Parsed,
    ifindex: u32,
) -> Option<Action> {
    scratch.key = FlowKey::of_reply(&parsed.tuple, ifindex);
    let undo = undo(env, parsed, &scratch.key, |_| true)?;
    Some(Action::Bounce(Rewrite {
        src: Some(undo.frontend),
        dst: Some(undo.client),
        routed: false,
    }))
}

/// A client that opens a connection to a backend's own address must not meet the flow of an
/// earlier connection to a frontend with the same ports: its replies would be translated.
#[inline(always)]
pub fn forget<E: Env>(env: &E, scratch: &mut Scratch, parsed: &Parsed, edge: u32) {
    if !parsed.opens() {
        return;
    }
    let tuple = &parsed.tuple;
    let reply = crate::Tuple {
        src: tuple.dst,
        dst: tuple.src,
        src_port: tuple.dst_port,
        dst_port: tuple.src_port,
        protocol: tuple.protocol,
    };
    scratch.key = FlowKey::of_reply(&reply, edge);
    env.remove(&scratch.key);
}
