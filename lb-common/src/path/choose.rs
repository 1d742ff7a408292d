//! Whom a new connection gets, where the slot does not say; and whether it may begin at all.

use super::{Scratch, Tables, forward::Site};
use crate::{
    Affinity, AffinityKey, Backend, BackendRef, Frontend, Slot, SourceRange, backend::sets,
    flow::Now, frontend::flags,
};

/// Whether the flow's backend does not follow from its slot, so that it has to be pinned.
#[inline(always)]
pub(super) fn needs_pin(scratch: &Scratch) -> bool {
    scratch.affinity_timeout_s | scratch.flags & flags::RANDOM != 0
}

/// Whether a client who was served by `backend` stays there: it is in the set that the client may
/// have, and the time has not passed (item 49).
///
/// `is_local` is the flag that limits such clients to backends of this node.
#[inline(always)]
fn is_bound(
    affinity: &Affinity,
    backend: &Backend,
    is_local: u32,
    timeout_s: u32,
    now: Now,
) -> bool {
    let set = if is_local == 0 {
        sets::CLUSTER
    } else {
        sets::LOCAL
    };
    let timeout = u64::from(timeout_s).wrapping_mul(u64::from(now.ticks_per_second));
    backend.is(affinity.backend)
        && backend.sets & set != 0
        && !now.is_after(affinity.used_tick.wrapping_add(timeout))
}

/// The same for a process of the node.
#[inline(always)]
pub(super) fn binds(affinity: &Affinity, backend: &Backend, frontend: &Frontend, now: Now) -> bool {
    let is_local = frontend.flags & flags::INSIDE_LOCAL;
    is_bound(
        affinity,
        backend,
        is_local,
        frontend.affinity_timeout_s,
        now,
    )
}

/// Lets the backend that the client has affinity to own the slot. The slot's own backend counts
/// as its previous owner: flows from before the affinity are found there.
#[inline(never)]
pub(super) fn prefer<T: Tables>(env: &T, scratch: &mut Scratch, site: Site) {
    let is_local = match site {
        Site::Pod(_) => scratch.flags & flags::INSIDE_LOCAL,
        Site::Wire => scratch.flags & flags::OUTSIDE_LOCAL,
    };
    set_key(scratch);
    let Some(affinity) = env.affinity(&scratch.affinity_key) else {
        return;
    };
    let Some(backend) = env.backend(affinity.backend.index()) else {
        return;
    };
    let is_owner = affinity.backend == scratch.slot.current;
    if !is_owner
        && is_bound(
            &affinity,
            &backend,
            is_local,
            scratch.affinity_timeout_s,
            scratch.now,
        )
    {
        scratch.slot = Slot {
            current: affinity.backend,
            previous: scratch.slot.current,
        };
    }
}

#[inline(always)]
fn set_key(scratch: &mut Scratch) {
    scratch.affinity_key = AffinityKey {
        client: scratch.parsed.tuple.src.by_words(),
        service: scratch.service,
    };
}

/// Remembers who serves the client from now on.
#[inline(always)]
pub(super) fn bind<T: Tables>(env: &T, scratch: &mut Scratch) {
    if scratch.affinity_timeout_s == 0 {
        return;
    }
    // Nobody has looked it up where there is no table.
    set_key(scratch);
    scratch.affinity = Affinity {
        used_tick: scratch.now.tick,
        backend: scratch.leg.reference,
        pad: 0,
    };
    env.insert_affinity(&scratch.affinity_key, &scratch.affinity);
}

/// The backend of a slot by chance.
#[inline(always)]
pub(super) fn any<T: Tables>(env: &T, scratch: &Scratch) -> BackendRef {
    let slot = env.slot(scratch.extent.slot_index(env.random()));
    slot.map_or(BackendRef::NONE, |slot| slot.current)
}

/// Whether the client may begin a connection (item 46).
#[inline(always)]
pub(super) fn may_begin<T: Tables>(env: &T, scratch: &mut Scratch) -> bool {
    if scratch.flags & flags::SOURCE_RANGES == 0 {
        return true;
    }
    scratch.client = SourceRange::of_client(scratch.service, &scratch.parsed.tuple.src);
    env.is_in_source_ranges(&scratch.client)
}
