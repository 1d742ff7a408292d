//! One function for each hook.

use super::{
    Action, Env, Scratch,
    forward::{Site, forward},
    reply::{forget, unhairpin, unmask, unsnat},
    unserved,
};
use crate::{
    counter::Outcome,
    flow::edge,
    packet::{Icmp, Parsed},
    protocol,
};

/// XDP on an uplink: what it leaves alone, [`wire_ingress`] decides.
#[inline(always)]
pub fn xdp<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    snat_reply(env, scratch)
        .or_else(|| forward(env, scratch, Site::Wire, false))
        .unwrap_or(Action::Pass)
}

/// tcx ingress of an uplink.
#[inline(always)]
pub fn wire_ingress<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    match snat_reply(env, scratch).or_else(|| forward(env, scratch, Site::Wire, true)) {
        Some(action) => action,
        None => {
            forget(env, scratch, edge::WIRE_EGRESS);
            Action::Pass
        }
    }
}

/// tcx ingress of a tunnel: replies to an SNAT address.
#[inline(always)]
pub fn tunnel_ingress<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    snat_reply(env, scratch).unwrap_or(Action::Pass)
}

/// tcx egress of an uplink: replies of local backends to clients outside.
#[inline(always)]
pub fn wire_egress<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    unmask(env, scratch, edge::WIRE_EGRESS).unwrap_or(Action::Pass)
}

/// tcx ingress of a pod's veth: the pod as a client.
#[inline(always)]
pub fn pod_ingress<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    let ifindex = env.ifindex();
    if may_be_snat_reply(env, &scratch.parsed)
        && let Some(action) = unhairpin(env, scratch, ifindex)
    {
        return action;
    }
    match forward(env, scratch, Site::Pod(ifindex), true) {
        Some(action) => action,
        None => {
            forget(env, scratch, ifindex);
            Action::Pass
        }
    }
}

/// tcx egress of a pod's veth: replies to the pod as a client.
#[inline(always)]
pub fn pod_egress<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    unmask(env, scratch, env.ifindex()).unwrap_or(Action::Pass)
}

/// A packet without ports, at a hook where clients' packets enter.
#[inline(always)]
pub fn portless<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    let action = match scratch.parsed.icmp() {
        Some(Icmp::EchoRequest) => unserved::echo(env, scratch),
        // An error, or an answer: nobody answers these, and nobody is there for them.
        Some(Icmp::Other) => {
            unserved::reject(env, scratch).map(|_| Action::Drop(Outcome::Unallocated))
        }
        None => unserved::reject(env, scratch),
    };
    action.unwrap_or(Action::Pass)
}

#[inline(always)]
fn snat_reply<E: Env>(env: &mut E, scratch: &mut Scratch) -> Option<Action> {
    if may_be_snat_reply(env, &scratch.parsed) {
        unsnat(env, scratch)
    } else {
        None
    }
}

/// Only ports of the SNAT range, and of SCTP, whose ports stay as they are, can be replies to an
/// SNAT address: all else costs no look-up.
#[inline(always)]
fn may_be_snat_reply<E: Env>(env: &E, parsed: &Parsed) -> bool {
    env.config().is_snat_port(parsed.tuple.dst_port) || parsed.tuple.protocol == protocol::SCTP
}
