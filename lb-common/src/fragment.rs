//! Packets in pieces, of which only the first one has the ports.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, Protocol, flow::Now};

/// Bytes of a frame that can be held back: one of a network with jumbo frames of up to 9,500 bytes.
pub const HELD_LEN: usize = 9600;

/// Pieces of a packet that can be held back: those of a packet of 24,000 bytes, all of which come before
/// the first one. The verifier follows each.
pub const HELD_MAX: u32 = 16;

/// How long the pieces of a packet belong together, in seconds: `net.ipv4.ipfrag_time`, after which
/// Linux gives a packet up.
const LIFETIME_S: u32 = 30;

/// Key of `FRAGMENTS`: what the pieces of a packet have in common (RFC 791, 3.2; RFC 8200, 4.5), and
/// where they are met: each hook sees the first one for itself, and puts in again what it has held.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification, as it stands on the wire.
    pub id: u32,
    /// IP protocol number.
    pub protocol: Protocol,
    /// A [`Hook`](crate::counter::Hook) as a number.
    pub hook: u8,
    /// Zero.
    pub pad_half: u16,
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Value of `FRAGMENTS`: what is known of a packet in pieces.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Fragments {
    /// Kernel tick of the last piece that changed this.
    pub seen_tick: u64,
    /// Source port, host byte order; 0 until the first piece has come.
    pub src_port: u16,
    /// Destination port, host byte order; 0 until the first piece has come.
    pub dst_port: u16,
    /// Later pieces that are held back until it comes.
    pub held: u16,
    /// 1 once it has come.
    pub is_known: u16,
}

const _: () = assert!(size_of::<Fragments>() == 16);

impl Fragments {
    /// Whether this is about an earlier packet, which had the same identification.
    #[inline(always)]
    #[must_use]
    pub fn is_expired(&self, now: Now) -> bool {
        let lifetime = u64::from(LIFETIME_S).wrapping_mul(u64::from(now.ticks_per_second));
        now.is_after(self.seen_tick.wrapping_add(lifetime))
    }
}

/// Key of `HELD`: a piece that came too early.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct HeldKey {
    /// Its packet.
    pub packet: FragmentKey,
    /// How many came before it.
    pub index: u32,
}

const _: () = assert!(size_of::<HeldKey>() == 44);

/// Value of `HELD`: a whole frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Held {
    /// Its length in bytes.
    pub len: u32,
    /// Interface index of the device that it was met at.
    pub ifindex: u32,
    /// Its bytes, and then what nobody reads.
    pub frame: [u8; HELD_LEN],
}
