//! Packets that need nothing of their connection's record; see [`Mark`].

use super::{
    Env, Scratch, cached,
    forward::{Found, Nat, Site},
};
use crate::{
    Hop,
    flow::{Mark, Marked},
    wire::tcp::{FIN, RST},
};

/// Whether the packet may go by a mark. The way of a pod's packet to another pod of the node may change with the
/// switches of a bridge, which the record follows within a second; and what a pod sends to itself is rare.
#[inline(always)]
fn may_go_by_mark(scratch: &Scratch, site: Site) -> bool {
    let leg = &scratch.leg;
    scratch.parsed.is_routine() && (site == Site::Wire || leg.nat == Nat::KEEP && leg.is_local == 0)
}

/// Gets the marks of the client's connections before it is known whether the packet may go by one, as most may: where
/// nothing is in a cache, the processor waits for them and for the slot at the same time.
#[inline(always)]
pub(super) fn expect_marks<E: Env>(env: &E, scratch: &mut Scratch) {
    if scratch.parsed.is_routine() {
        let tuple = &scratch.parsed.tuple;
        let client = (tuple.src, tuple.src_port);
        scratch.marks = env.marks(Mark::index_of(client, env.config().mark_buckets));
    }
}

/// The mark of the packet's connection, if it is with the candidate, and leaves by `scratch.hop` with the source
/// `scratch.snat`.
#[inline(always)]
fn own_mark<E: Env>(env: &E, scratch: &Scratch, site: Site) -> Mark {
    let (tuple, leg, config) = (&scratch.parsed.tuple, &scratch.leg, env.config());
    let marked = Marked {
        hash: scratch.hash,
        backend: leg.reference,
        edge: site.edge(leg.nat),
        source: if leg.nat == Nat::SNAT {
            Marked::source(scratch.snat, leg.source_port, &scratch.hop)
        } else {
            0
        },
    };
    let client = (tuple.src, tuple.src_port);
    Mark::of(
        client,
        marked,
        scratch.now,
        config.mark_buckets,
        config.mark_seed,
    )
}

/// Whether the packet goes on with the candidate, by its connection's mark.
#[inline(always)]
pub(super) fn goes_by_mark<E: Env>(env: &mut E, scratch: &mut Scratch, site: Site) -> bool {
    if !may_go_by_mark(scratch, site) {
        return false;
    }
    if scratch.leg.nat == Nat::SNAT {
        if !cached::take(env, scratch) {
            return false;
        }
    } else {
        scratch.hop = Hop::device(0);
    }
    own_mark(env, scratch, site).is_in(scratch.marks)
}

/// Marks the connection of a packet that was found with the candidate, if its next ones may go by that: no flood
/// displaces its record, and nobody has ended it. One that is marked as it is has another way than others.
#[inline(always)]
pub(super) fn mark<E: Env>(env: &E, scratch: &Scratch, site: Site, found: Found) {
    let goes_on = found.has(Found::KEPT) && !found.has(Found::ENDED);
    let has_way = if scratch.leg.nat == Nat::SNAT {
        scratch.hop.has_neighbour()
    } else {
        scratch.hop.ifindex == 0
    };
    if goes_on && has_way && may_go_by_mark(scratch, site) {
        let mark = own_mark(env, scratch, site);
        if !mark.is_in(scratch.marks) {
            env.leave_mark(mark);
        }
    }
}

/// Lets the record of a connection that its client ends or refuses be asked for what is left of it. One that
/// begins anew is found by its record, and [`remove_marks`] is called there; the marks of one that begins are gone, or
/// were with another backend.
#[inline(always)]
pub(super) fn remove_marks_at_the_end<E: Env>(env: &E, scratch: &Scratch) {
    if scratch.parsed.tcp_flags & (FIN | RST) != 0 {
        remove_marks(env, scratch);
    }
}

/// Lets the records of the client's connections be asked for their next packets.
#[inline(always)]
pub(super) fn remove_marks<E: Env>(env: &E, scratch: &Scratch) {
    let tuple = &scratch.parsed.tuple;
    env.remove_marks((tuple.src, tuple.src_port));
}
