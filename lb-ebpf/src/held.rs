//! Later pieces of packets that come before the first one: kept, and put in again when it has come.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{
        bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use lb_common::{
    Held,
    fragment::{HELD_LEN, HELD_MAX},
    path::Scratch,
};

use crate::{
    maps::{HELD, held_buffer},
    slow::Skb,
};

/// Where a piece is put in again: where it came in.
pub(crate) const INGRESS: u64 = BPF_F_INGRESS as u64;
/// … or where it was about to leave.
pub(crate) const EGRESS: u64 = 0;

/// Keeps a piece as `scratch.held_key` says. False if it is too long, or there
/// is no room.
#[inline(never)]
pub(crate) fn hold(skb: *mut __sk_buff, scratch: &mut Scratch) -> bool {
    let Some(buffer) = held_buffer() else {
        return false;
    };
    if !save(skb, buffer) {
        return false;
    }
    HELD.insert(&scratch.held_key, buffer, 0).is_ok()
}

/// Takes back what [`hold`] has kept.
#[inline(always)]
pub(crate) fn take_back(scratch: &Scratch) {
    let _ = HELD.remove(&scratch.held_key);
}

/// Puts in again the first `count` pieces of a packet whose first piece this skb is. False if that
/// has broken the piece.
#[inline(never)]
pub(crate) fn release(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    count: u32,
    direction: u64,
) -> bool {
    let Some(buffer) = held_buffer() else {
        return true;
    };
    if !save(skb, buffer) {
        return true;
    }
    for index in 0..HELD_MAX {
        if index >= count {
            break;
        }
        release_one(skb, scratch, index, direction);
    }
    become_frame(skb, buffer)
}

/// Out of line: the verifier need not remember what happened to the others.
#[inline(never)]
fn release_one(skb: *mut __sk_buff, scratch: &mut Scratch, index: u32, direction: u64) {
    scratch.held_key.index = index;
    let Some(held) = HELD.get_ptr(&scratch.held_key) else {
        return;
    };
    // SAFETY: the pointer was checked, and map memory outlives the program's run. An element that
    // is recycled meanwhile is another frame for this host.
    if become_frame(skb, unsafe { &*held }) {
        // SAFETY: as above.
        let ifindex = unsafe { (*held).ifindex };
        // SAFETY: takes the context, and numbers. The kernel copies what it queues.
        let _ = unsafe { bpf_clone_redirect(skb, ifindex, direction) };
    }
    let _ = HELD.remove(&scratch.held_key);
}

/// The length as the verifier wants it: neither nothing, nor too much.
///
/// Where the compiler knows both bounds, it compares the length less one, and passes on the length: verifiers
/// before Linux 6.18 do not see that the one bounds the other.
#[inline(always)]
fn bounded(len: u32) -> Option<u32> {
    let last = core::hint::black_box(u64::from(len).wrapping_sub(1));
    (last < HELD_LEN as u64).then_some(last as u32 + 1)
}

#[inline(always)]
fn save(skb: *mut __sk_buff, buffer: &mut Held) -> bool {
    let Some(len) = bounded(Skb::new(skb).len()) else {
        return false;
    };
    buffer.len = len;
    buffer.ifindex = Skb::new(skb).ifindex();
    let frame = (&raw mut buffer.frame).cast();
    // SAFETY: the buffer has room for `len` bytes.
    unsafe { bpf_skb_load_bytes(skb.cast(), 0, frame, len) == 0 }
}

/// Makes the skb's frame another one. The first piece of a packet lends its skb to the others:
/// a program cannot make one.
#[inline(always)]
fn become_frame(skb: *mut __sk_buff, held: &Held) -> bool {
    let Some(len) = bounded(held.len) else {
        return false;
    };
    // SAFETY: the kernel passes a valid context.
    if unsafe { bpf_skb_change_tail(skb, len, 0) } != 0 {
        return false;
    }
    let frame = (&raw const held.frame).cast_mut().cast();
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    // SAFETY: `len` bytes of the frame are there.
    unsafe { bpf_skb_store_bytes(skb, 0, frame, len, flags) == 0 }
}
