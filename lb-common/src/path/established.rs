//! Segments that need nothing of their connection's record; see [`Mark`].

use super::{
    Env, Scratch,
    forward::{Found, Nat, Site},
};
use crate::{
    Hop,
    flow::Mark,
    wire::tcp::{FIN, RST},
};

/// Whether the packet may go by a mark. Its backend sees its client, so that nothing else of it changes; and the
/// way of a pod's packet to another pod of the node may change with the switches of a bridge, which the record
/// follows within a second.
#[inline(always)]
fn may_go_by_mark(scratch: &Scratch, site: Site) -> bool {
    scratch.parsed.is_routine()
        && scratch.leg.nat == Nat::KEEP
        && (site == Site::Wire || scratch.leg.is_local == 0)
}

/// Gets the marks of a pod's connections before it is known whether the packet may go by one, as most may: where
/// nothing is in a cache, the processor waits for them and for the slot at the same time. Of packets of a wire, most
/// may not.
#[inline(always)]
pub(super) fn expect_marks<E: Env>(env: &E, scratch: &mut Scratch, site: Site) {
    if site != Site::Wire && scratch.parsed.is_routine() {
        get_marks(env, scratch);
    }
}

#[inline(always)]
fn get_marks<E: Env>(env: &E, scratch: &mut Scratch) {
    let tuple = &scratch.parsed.tuple;
    let client = (tuple.src, tuple.src_port);
    scratch.marks = env.marks(Mark::index_of(client, env.config().mark_buckets));
}

/// Whether the packet goes on with the candidate, by its connection's mark.
#[inline(always)]
pub(super) fn goes_by_mark<E: Env>(env: &E, scratch: &mut Scratch, site: Site) -> bool {
    if !may_go_by_mark(scratch, site) {
        return false;
    }
    if site == Site::Wire {
        get_marks(env, scratch);
    }
    let (tuple, leg) = (&scratch.parsed.tuple, &scratch.leg);
    scratch.mark = Mark::of(
        (tuple.src, tuple.src_port),
        scratch.hash,
        leg.reference,
        site.edge(leg.nat),
        scratch.now,
        env.config().mark_buckets,
    );
    scratch.hop = Hop::device(0);
    scratch.mark.is_in(scratch.marks)
}

/// Marks the connection of a packet that was found with the candidate, if its next ones may go by that: no flood
/// displaces its record, and nobody has ended it.
#[inline(always)]
pub(super) fn mark<E: Env>(env: &E, scratch: &Scratch, site: Site, found: Found) {
    let goes_on = found.has(Found::KEPT) && !found.has(Found::ENDED);
    if goes_on && may_go_by_mark(scratch, site) && scratch.hop.ifindex == 0 {
        env.leave_mark(scratch.mark);
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

/// Lets the records of the client's connections be asked for their next segments.
#[inline(always)]
pub(super) fn remove_marks<E: Env>(env: &E, scratch: &Scratch) {
    let tuple = &scratch.parsed.tuple;
    env.remove_marks((tuple.src, tuple.src_port));
}
