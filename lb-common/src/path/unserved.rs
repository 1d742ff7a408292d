//! Packets for addresses of Services that no frontend is there for.

use super::{Action, Scratch, Tables};
use crate::{
    Addr,
    counter::Outcome,
    vip::{flags, net_flags},
};

/// A packet for a port that nobody serves, or of a protocol without ports. Nothing if its
/// destination is no cluster address.
///
/// It must not go on: the default gateway could send it back, and so on until its time to live has
/// passed (item 44).
#[inline(never)]
pub fn reject<T: Tables>(env: &T, scratch: &mut Scratch) -> Option<Action> {
    let net = env.service_net(scratch.parsed.tuple.dst);
    if net == 0 {
        return None;
    }
    match env.vip(&scratch.parsed.tuple.dst) {
        Some(vip) if vip.has(flags::CLUSTER_IP) => Some(Action::Reject),
        Some(_) => None,
        None if net & net_flags::KNOWN != 0 => Some(Action::Drop(Outcome::Unallocated)),
        None => None,
    }
}

/// An ICMP echo request: a Service that has endpoints answers (item 29).
#[inline(always)]
pub fn echo<T: Tables>(env: &T, scratch: &mut Scratch) -> Option<Action> {
    match env.vip(&scratch.parsed.tuple.dst) {
        Some(vip) if vip.has(flags::SERVED) => Some(Action::Echo),
        _ => reject(env, scratch),
    }
}

/// What a process of the node that dials `addr` is told, if nobody serves the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is no cluster address.
    None,
    /// A Service has the address, but not this port.
    Refused,
    /// No Service has the address.
    Unreachable,
}

/// The same for sockets.
#[inline(always)]
pub(super) fn answer<T: Tables>(env: &T, addr: &Addr) -> Answer {
    let net = env.service_net(*addr);
    if net == 0 {
        return Answer::None;
    }
    match env.vip(addr) {
        Some(vip) if vip.has(flags::CLUSTER_IP) => Answer::Refused,
        None if net & net_flags::KNOWN != 0 => Answer::Unreachable,
        _ => Answer::None,
    }
}
