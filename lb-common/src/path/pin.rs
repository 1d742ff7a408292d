//! Notes where a flow is, if the tables do not say.

use super::{Env, Scratch};
use crate::flow::Pin;

/// Pins the packet's flow, which no client has confirmed, to the candidate.
#[inline(always)]
pub(super) fn pin<E: Env>(env: &E, scratch: &mut Scratch) {
    set_pin(scratch);
    env.insert_pin(&scratch.pin_key, &scratch.pin);
}

/// The same for a flow that a client has confirmed.
#[inline(always)]
pub(super) fn keep_pin<E: Env>(env: &E, scratch: &mut Scratch) {
    set_pin(scratch);
    env.keep_pin(&scratch.pin_key, &scratch.pin);
}

#[inline(always)]
fn set_pin(scratch: &mut Scratch) {
    scratch.pin_key = scratch.parsed.tuple.pin();
    scratch.pin = Pin {
        backend: scratch.leg.reference,
        source_port: scratch.leg.source_port,
        pad: 0,
    };
}
