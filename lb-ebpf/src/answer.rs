//! Packets at tc that are turned into answers to their senders.
//!
//! Out of line: the stack of all calls together is small.

use aya_ebpf::bindings::__sk_buff;
use lb_common::{
    answer,
    packet::{Family, Offsets, Parsed},
    path::Scratch,
};

use crate::slow::Skb;

/// Makes the packet the answer `scratch.message`. False if it is to be dropped.
#[inline(never)]
pub(crate) fn tell<F: Family>(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    offsets: Offsets,
) -> bool {
    let Scratch {
        parsed,
        quote,
        message,
        ..
    } = scratch;
    answer::tell::<F, _>(&mut Skb::new(skb), parsed, offsets, quote, *message).is_some()
}

/// Makes an ICMP echo request the answer to it. False if it is to be dropped.
#[inline(never)]
pub(crate) fn echo<F: Family>(skb: *mut __sk_buff, parsed: &Parsed, offsets: Offsets) -> bool {
    answer::echo::<F, _>(&mut Skb::new(skb), parsed, offsets).is_some()
}
