//! One function for each hook.

use super::{
    Action, Env, Scratch,
    forward::{Site, forward},
    reply::{forget, unhairpin, unmask, unsnat},
};
use crate::flow::edge;

/// XDP on an uplink: what it leaves alone, [`wire_ingress`] decides.
#[inline(always)]
pub fn xdp<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    snat_reply(env, scratch)
        .or_else(|| forward(env, scratch, Site::Wire))
        .unwrap_or(Action::Pass)
}

/// tcx ingress of an uplink.
#[inline(always)]
pub fn wire_ingress<E: Env>(env: &mut E, scratch: &mut Scratch) -> Action {
    match snat_reply(env, scratch).or_else(|| forward(env, scratch, Site::Wire)) {
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
    if env.config().is_snat_port(scratch.parsed.tuple.dst_port)
        && let Some(action) = unhairpin(env, scratch, ifindex)
    {
        return action;
    }
    match forward(env, scratch, Site::Pod(ifindex)) {
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

/// Only ports of the SNAT range can be replies to an SNAT address: all else costs no look-up.
#[inline(always)]
fn snat_reply<E: Env>(env: &mut E, scratch: &mut Scratch) -> Option<Action> {
    if env.config().is_snat_port(scratch.parsed.tuple.dst_port) {
        unsnat(env, scratch)
    } else {
        None
    }
}
