//! Packets at tc, away from the way of most packets.

use core::hint::black_box;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_pull_data},
};
use bytemuck::Pod;
use lb_common::{answer::Resize, packet::Packet, rewrite::PacketMut};

use crate::linear::{self, Linear};

/// The context of a tc program.
///
/// There are many accesses here, and the compiler would keep the addresses of the context's fields
/// for the next one: the verifier refuses to read through anything but the context itself.
pub(crate) struct Skb {
    pub(crate) skb: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// Interface index of the device.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*black_box(self.skb)).ifindex }
    }

    /// Length of the frame in bytes.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*black_box(self.skb)).len }
    }

    /// Makes the first `len` bytes linear, or the whole frame if it is shorter, so that they can be
    /// read in place. What cannot be pulled is not read.
    #[inline(always)]
    pub(crate) fn pull(&self, len: u32) {
        let len = len.min(self.len());
        // SAFETY: the kernel passes a valid context.
        let _ = unsafe { bpf_skb_pull_data(self.skb, len) };
    }
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
