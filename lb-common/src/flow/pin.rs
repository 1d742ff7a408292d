//! Where a flow is, if the tables do not say.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, BackendRef, Protocol};

/// Key of `PINS`: a forward 5-tuple. Ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct PinKey {
    /// The client.
    pub src: Addr,
    /// What it dials.
    pub dst: Addr,
    /// The client's port.
    pub src_port: u16,
    /// The port that it dials.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: Protocol,
    /// Zero.
    pub pad: u8,
    /// Zero.
    pub pad_half: u16,
}

const _: () = assert!(size_of::<PinKey>() == 40);

/// Value of `PINS` and `OPENING_PINS`: what the tables do not say about a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Pin {
    /// Who serves the flow.
    pub backend: BackendRef,
    /// The port that the backend sees as source, host byte order.
    pub source_port: u16,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<Pin>() == 8);

impl Pin {
    /// Of a flow that is none of these programs': netfilter translates it, by rules of a proxy that was
    /// there before.
    pub const ELSEWHERE: Self = Self {
        backend: BackendRef::NONE,
        source_port: 0,
        pad: 0,
    };

    /// It as a word; 0 is [`ELSEWHERE`](Self::ELSEWHERE).
    #[inline(always)]
    #[must_use]
    pub fn word(self) -> u64 {
        u64::from(self.backend.bits) | u64::from(self.source_port) << 32
    }

    /// The pin that is this word.
    #[inline(always)]
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self {
            backend: BackendRef { bits: word as u32 },
            source_port: (word >> 32) as u16,
            pad: 0,
        }
    }

    /// Whether the flow is none of these programs'.
    #[inline(always)]
    #[must_use]
    pub fn is_elsewhere(self) -> bool {
        self.backend.is_none()
    }
}
