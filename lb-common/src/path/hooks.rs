//! One function for each hook.

use super::{
    Action, Env, Scratch, Tables,
    forward::{Site, forward},
    reply::{forget, unhairpin, unmask, unsnat},
    unserved,
};
use crate::{
    counter::Outcome,
    flow::edge,
    interface::flags,
    packet::{Icmp, Parsed},
    protocol,
};

/// XDP on an uplink: what it leaves alone, [`wire_ingress`] decides.
#[inline(always)]
pub fn xdp<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    match snat_reply(env, scratch).or_else(|| forward(env, scratch, Site::Wire, false)) {
        Some(action) => action,
        None => {
            forget(env, scratch, edge::WIRE_EGRESS, |_| false);
            Action::Pass
        }
    }
}

/// tcx ingress of an uplink.
#[inline(always)]
pub fn wire_ingress<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    match snat_reply(env, scratch).or_else(|| forward(env, scratch, Site::Wire, true)) {
        Some(action) => action,
        None => {
            let is_plain = scratch.is_plain != 0;
            forget(env, scratch, edge::WIRE_EGRESS, |env| {
                is_plain && is_behind_xdp(env)
            });
            Action::Pass
        }
    }
}

/// Whether XDP has met the packets of this device before, and has seen what they were for.
///
/// What it says about those that it has changed is lost where the kernel copies the packet, for a packet
/// socket that somebody listens at: that a SYN was for a Service cannot be told any more.
#[inline(always)]
fn is_behind_xdp<E: Env>(env: &E) -> bool {
    let interface = env.interface(env.ifindex());
    interface.is_some_and(|interface| interface.flags & flags::XDP != 0)
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
    if may_be_hairpin_reply(env, &scratch.parsed)
        && let Some(action) = unhairpin(env, scratch, ifindex)
    {
        return action;
    }
    match forward(env, scratch, Site::Pod(ifindex), true) {
        Some(action) => action,
        None => {
            forget(env, scratch, ifindex, |_| false);
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
pub fn portless<E: Tables>(env: &E, scratch: &mut Scratch) -> Action {
    let action = match scratch.parsed.icmp() {
        Some(Icmp::EchoRequest) => unserved::echo(env, scratch),
        // An error, or an answer: nobody answers these, and nobody is there for them.
        Some(Icmp::Other) => {
            unserved::reject(env, scratch).map(|_| scratch.drops(Outcome::Unallocated))
        }
        None => unserved::reject(env, scratch),
    };
    action.unwrap_or(Action::Pass)
}

/// A packet whose headers lead nowhere, at a hook where clients' packets enter.
#[inline(always)]
pub fn malformed<E: Tables>(env: &E, scratch: &mut Scratch) -> Action {
    match unserved::reject(env, scratch) {
        Some(_) => scratch.drops(Outcome::Malformed),
        None => Action::Pass,
    }
}

#[inline(always)]
fn snat_reply<E: Env>(env: &mut E, scratch: &mut Scratch) -> Option<Action> {
    let tuple = &scratch.parsed.tuple;
    // All else costs no look-up. SCTP's ports stay as they are.
    if env.config().may_be_snat(tuple.dst, tuple.dst_port) || tuple.protocol == protocol::SCTP {
        unsnat(env, scratch)
    } else {
        None
    }
}

/// Only ports of the range that is common to all addresses, and of SCTP, whose ports stay as they
/// are, can be a pod's replies to itself.
#[inline(always)]
fn may_be_hairpin_reply<E: Env>(env: &E, parsed: &Parsed) -> bool {
    env.config().is_snat_port(parsed.tuple.dst_port) || parsed.tuple.protocol == protocol::SCTP
}
