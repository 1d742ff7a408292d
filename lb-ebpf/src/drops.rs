//! Packets that go no further: counted by reason, and a few of them described.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use lb_common::{
    Counter, DropKey,
    counter::{Hook, Outcome},
    drops::Event,
    path::Scratch,
};

use crate::maps::{COUNTERS, DROPS, EVENTS, LAST_DROPS, SAMPLED};

/// Counts a dropped packet, and samples it. `scratch` belongs to it; none if it was dropped before
/// it was parsed.
///
/// Out of line, and a leaf: it is rare, and the stack of all calls together is small.
#[inline(never)]
pub(crate) fn record(ifindex: u32, hook: Hook, reason: Outcome, scratch: Option<&Scratch>) {
    let key = DropKey::new(ifindex, hook, reason, scratch);
    count(&key, hook, reason);
    // SAFETY: takes no argument and has no effect.
    let tick = unsafe { bpf_jiffies64() };
    if !is_first(reason, tick) {
        return;
    }
    // SAFETY: as above.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    if let Some(last) = LAST_DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the element is this CPU's own.
        unsafe { &mut *last }.fill(time_ns, &key, scratch);
    }
    // `Seen` is no reason: its element is for all reasons together.
    if is_first(Outcome::Seen, tick)
        && let Some(mut entry) = EVENTS.reserve(0)
    {
        // SAFETY: the entry has room for an event, whose bytes may be anything before they are
        // written.
        let event: &mut Event = unsafe { &mut *entry.as_mut_ptr() };
        event.fill(time_ns, &key, scratch);
        entry.submit(0);
    }
}

/// Counts a socket call that is refused. It may be interrupted by a packet, so it is no sample.
#[inline(always)]
pub(crate) fn refused(reason: Outcome) {
    count(
        &DropKey::new(0, Hook::Socket, reason, None),
        Hook::Socket,
        reason,
    );
}

#[inline(always)]
fn count(key: &DropKey, hook: Hook, reason: Outcome) {
    let counter = Counter {
        hook,
        outcome: reason,
    };
    increment(COUNTERS.get_ptr_mut(counter.index()));
    match DROPS.get_ptr_mut(key) {
        None => {
            // Where there is no room, `COUNTERS` has more than `DROPS` together.
            let _ = DROPS.insert(key, 1, 0);
        }
        counter => increment(counter),
    }
}

#[inline(always)]
fn increment(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: the element is this CPU's own.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// Whether this is the first drop of its kind in this tick, on this CPU.
#[inline(always)]
fn is_first(kind: Outcome, tick: u64) -> bool {
    let Some(last) = SAMPLED.get_ptr_mut(kind as u32) else {
        return false;
    };
    // SAFETY: the element is this CPU's own.
    unsafe {
        let is_first = *last != tick;
        *last = tick;
        is_first
    }
}
