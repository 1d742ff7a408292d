//! Packets for addresses of Services that no frontend is there for.

use super::{Action, Scratch, Tables};
use crate::{
    Addr, FrontendKey,
    counter::Outcome,
    frontend,
    vip::{flags, net_flags},
};

/// What is to be done about a packet that no frontend is there for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Its destination is no cluster address.
    NotOurs,
    /// It may belong to a connection to a Service that there was.
    Resume,
    /// Its sender is told that nobody serves it.
    Reject,
    /// Nobody has the address.
    Drop,
}

/// Judges a packet for a port that nobody serves, or of a protocol without ports.
///
/// It must not go on: the default gateway could send it back, and so on until its time to live has
/// passed (item 44). A connection outlives its Service (item 58).
#[inline(never)]
pub(super) fn judge<T: Tables>(env: &T, scratch: &mut Scratch) -> Judgement {
    let net = env.service_net(scratch.parsed.tuple.dst);
    if net & net_flags::IN_USE == 0 {
        return Judgement::NotOurs;
    }
    let is_known = net & net_flags::KNOWN != 0;
    let resumed = scratch.flags & frontend::flags::UNSERVED != 0;
    if is_known && !resumed && !scratch.parsed.opens() {
        scratch.flags = frontend::flags::UNSERVED;
        return Judgement::Resume;
    }
    match env.vip(&scratch.parsed.tuple.dst) {
        Some(vip) if vip.has(flags::CLUSTER_IP) => Judgement::Reject,
        None if is_known => Judgement::Drop,
        _ => Judgement::NotOurs,
    }
}

impl Judgement {
    /// What is done where there is nothing to resume.
    #[inline(always)]
    pub(super) fn action(self, scratch: &mut Scratch) -> Option<Action> {
        match self {
            Self::NotOurs => None,
            Self::Resume | Self::Reject => Some(Action::Reject),
            Self::Drop => Some(scratch.drops(Outcome::Unallocated)),
        }
    }
}

/// A packet of a protocol without ports. Nothing if its destination is no cluster address.
#[inline(always)]
pub fn reject<T: Tables>(env: &T, scratch: &mut Scratch) -> Option<Action> {
    scratch.flags = frontend::flags::UNSERVED;
    judge(env, scratch).action(scratch)
}

/// An ICMP echo request: a Service that has endpoints answers (item 29).
#[inline(always)]
pub fn echo<T: Tables>(env: &T, scratch: &mut Scratch) -> Option<Action> {
    match env.vip(&scratch.parsed.tuple.dst) {
        Some(vip) if vip.has(flags::SERVED) => Some(Action::Echo),
        _ => reject(env, scratch),
    }
}

/// Whether a packet that goes back to where it came from is for an address of a Service, and is
/// not what a Service answers: it would come again, and go again, until its time to live has passed.
///
/// A Service's answer comes from a frontend. A packet of a pod that the node has given its own
/// address to does not; of what has no ports, the address alone must tell.
#[inline(always)]
pub fn leads_back<T: Tables>(env: &T, scratch: &mut Scratch) -> bool {
    let tuple = &scratch.parsed.tuple;
    if env.vip(&tuple.dst).is_none() {
        return false;
    }
    if tuple.src_port == 0 {
        return env.vip(&tuple.src).is_none();
    }
    scratch.frontend_key = FrontendKey::new(tuple.src, tuple.src_port, tuple.protocol);
    env.frontend(&scratch.frontend_key).is_none()
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
    if net & net_flags::IN_USE == 0 {
        return Answer::None;
    }
    match env.vip(addr) {
        Some(vip) if vip.has(flags::CLUSTER_IP) => Answer::Refused,
        None if net & net_flags::KNOWN != 0 => Answer::Unreachable,
        _ => Answer::None,
    }
}
