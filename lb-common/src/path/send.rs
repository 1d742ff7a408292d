//! How a packet of a known flow goes on.

use super::{
    Action, Env, Scratch,
    forward::{Nat, Site},
};
use crate::{answer::Message, counter::Outcome, rewrite::Endpoint};

/// Lets a packet leave by `hop`, unless it has lived too long, or is too big: no router comes between
/// that could tell its sender. One that may be fragmented is left to the device, or the tunnel.
#[inline(always)]
pub(super) fn leave<E: Env>(env: &E, scratch: &mut Scratch) -> Action {
    let Scratch {
        parsed,
        hop,
        message,
        outcome,
        ..
    } = scratch;
    if parsed.ttl <= 1 {
        *message = Message::time_exceeded(parsed.tuple.src.is_v4());
        *outcome = Outcome::TtlExceeded;
        return Action::Tell;
    }
    if !parsed.may_fragment {
        let size = env.too_big_for(parsed, hop);
        if size != 0 {
            *message = Message::too_big(parsed.tuple.src.is_v4(), size);
            *outcome = Outcome::TooBig;
            return Action::Tell;
        }
    }
    Action::Out
}

/// Sends a packet of a known flow on its way.
#[inline(always)]
pub(super) fn send<E: Env>(env: &E, scratch: &mut Scratch, site: Site) -> Action {
    let Scratch {
        parsed,
        leg,
        snat,
        hop,
        src,
        dst,
        ..
    } = scratch;
    *dst = Endpoint {
        addr: leg.addr.by_words(),
        port: leg.port,
    };
    src.port = leg.source_port;
    match leg.nat {
        Nat::HAIRPIN => {
            src.addr = parsed.tuple.dst.by_words();
            Action::Bounce
        }
        Nat::SNAT if !env.can_send(hop) => Action::Defer,
        Nat::SNAT => {
            src.addr = snat.by_words();
            leave(env, scratch)
        }
        _ if matches!(site, Site::Pod(_)) && hop.ifindex != 0 => {
            src.addr = parsed.tuple.src.by_words();
            scratch.remaps(Outcome::Direct)
        }
        _ if leg.source_port != parsed.tuple.src_port => {
            src.addr = parsed.tuple.src.by_words();
            scratch.remaps(Outcome::ToStack)
        }
        _ => Action::ToBackend,
    }
}
