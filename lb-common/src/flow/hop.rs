//! Where a packet goes next.

use bytemuck::{Pod, Zeroable};

use crate::hash;

/// Next hop of a redirected packet, as the routing table had it at the last slow tick.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Hop {
    /// Interface that the packet leaves by; 0 is none.
    pub ifindex: u32,
    /// The first twelve bytes of its frame, in wire order: destination, then source MAC address;
    /// zero where the neighbour is not known. Words, since twelve bytes on a program's stack
    /// would be accessed unaligned.
    pub macs: [u32; 3],
}

const _: () = assert!(size_of::<Hop>() == 16);

impl Hop {
    /// No next hop: the packet goes up the stack.
    pub const NONE: Self = Self {
        ifindex: 0,
        macs: [0; 3],
    };

    /// A device whose neighbour is not known; 0 is [`NONE`](Self::NONE).
    ///
    /// Written word by word, for the reason of [`Addr::unspecified`](crate::Addr::unspecified).
    #[inline(always)]
    #[must_use]
    pub fn device(ifindex: u32) -> Self {
        let zero = core::hint::black_box(0);
        Self {
            ifindex,
            macs: [zero, zero, zero],
        }
    }

    /// A device and the MAC addresses of the neighbour and of the device itself.
    #[inline(always)]
    #[must_use]
    pub fn neighbour(ifindex: u32, dst: &[u8; 6], src: &[u8; 6]) -> Self {
        let [d0, d1, d2, d3, d4, d5] = *dst;
        let [s0, s1, s2, s3, s4, s5] = *src;
        Self {
            ifindex,
            macs: [
                u32::from_ne_bytes([d0, d1, d2, d3]),
                u32::from_ne_bytes([d4, d5, s0, s1]),
                u32::from_ne_bytes([s2, s3, s4, s5]),
            ],
        }
    }

    /// The same hop, read word by word, for the reason of [`Addr::by_words`](crate::Addr::by_words).
    #[inline(always)]
    #[must_use]
    pub fn by_words(&self) -> Self {
        let [a, b, c] = self.macs;
        Self {
            ifindex: self.ifindex,
            macs: [a, b, c],
        }
    }

    /// A hash of it and of something else.
    #[inline(always)]
    pub(crate) fn mixed(&self, state: u64) -> u64 {
        let [a, b, c] = self.macs;
        let first = u64::from(self.ifindex) | u64::from(a) << 32;
        let rest = u64::from(b) | u64::from(c) << 32;
        hash::mix(hash::mix(state, first), rest)
    }

    /// Whether the neighbour is known.
    #[inline(always)]
    #[must_use]
    pub fn has_neighbour(&self) -> bool {
        let [a, b, c] = self.macs;
        a | b | c != 0
    }
}
