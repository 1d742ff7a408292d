//! Packets that stay within a bridge.

use super::{Env, Route, Scratch, forward::Nat};
use crate::Hop;

/// Lets a packet for a pod at the client's own bridge go by the bridge, where netfilter does not see
/// what comes back: it is to see both directions of a connection or none. Else, it has no hop.
#[inline(never)]
pub(super) fn stay_within<E: Env>(env: &E, scratch: &mut Scratch, ifindex: u32) {
    scratch.hop = Hop::device(0);
    let leg = &scratch.leg;
    if leg.nat != Nat::KEEP || leg.is_local == 0 {
        return;
    }
    let bridge = match env.interface(ifindex) {
        Some(interface) if interface.is_direct(leg.addr.is_v4()) => interface.bridge,
        _ => return,
    };
    if let Route::Via(hop) = env.route(&scratch.parsed, leg.addr)
        && hop.ifindex == bridge
    {
        scratch.hop = Hop::device(bridge);
    }
}
