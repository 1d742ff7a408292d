//! Packets at tc that are turned into answers to their senders.

use core::hint::black_box;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_pull_data},
};
use bytemuck::Pod;
use lb_common::{
    answer::{self, Resize},
    packet::{Family, Offsets, Packet, Parsed},
    path::Scratch,
    rewrite::PacketMut,
};

use crate::linear::{self, Linear};

/// The context of a tc program, away from the way of most packets.
///
/// There are many accesses here, and the compiler would keep the addresses of the context's fields
/// for the next one: the verifier refuses to read through anything but the context itself.
struct Skb {
    skb: *mut __sk_buff,
}

impl Linear for Skb {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let skb = black_box(self.skb);
        // SAFETY: the kernel passes a valid context.
        let data = unsafe { (*skb).data as usize };
        let skb = black_box(self.skb);
        // SAFETY: as above.
        (data, unsafe { (*skb).data_end as usize })
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        linear::read(self, offset)
    }
}

impl PacketMut for Skb {
    #[inline(always)]
    fn store<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
        linear::store(self, offset, value)
    }
}

impl Resize for Skb {
    #[inline(always)]
    fn set_len(&mut self, len: usize) -> Option<()> {
        // SAFETY: the kernel passes a valid context.
        let done = unsafe { bpf_skb_change_tail(self.skb, len as u32, 0) } == 0
            // SAFETY: as above.
            && unsafe { bpf_skb_pull_data(self.skb, len as u32) } == 0;
        done.then_some(())
    }

    /// The kernel's helper leaves the field of such a packet as it is, unless the change concerns
    /// the pseudo-header.
    #[inline(always)]
    fn is_checksum_partial(&mut self, offset: usize) -> bool {
        const PROBE: u64 = 1;
        let Some(before) = self.read::<u16>(offset) else {
            return false;
        };
        // SAFETY: the kernel passes a valid context.
        if unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, PROBE, 0) } != 0 {
            return false;
        }
        match self.read::<u16>(offset) {
            Some(after) => after == before,
            None => false,
        }
    }
}

/// Makes the packet the answer that nobody serves what it dials. False if it is to be dropped.
///
/// Out of line, as [`echo`]: the stack of all calls together is small.
#[inline(never)]
pub(crate) fn reject<F: Family>(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    offsets: Offsets,
) -> bool {
    let Scratch { parsed, quote, .. } = scratch;
    answer::reject::<F, _>(&mut Skb { skb }, parsed, offsets, quote).is_some()
}

/// Makes an ICMP echo request the answer to it. False if it is to be dropped.
#[inline(never)]
pub(crate) fn echo<F: Family>(skb: *mut __sk_buff, parsed: &Parsed, offsets: Offsets) -> bool {
    answer::echo::<F, _>(&mut Skb { skb }, parsed, offsets).is_some()
}
