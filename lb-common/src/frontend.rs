//! What a client dials, and where its look-up tables are.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, Protocol};

pub mod index;

/// Key of `FRONTENDS`: address, port and protocol that a client dials.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FrontendKey {
    /// A VIP, a node address, or a loopback address (met by socket translation only).
    pub addr: Addr,
    /// Host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: Protocol,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<FrontendKey>() == 20);

impl FrontendKey {
    /// The key for a client that dials `addr`:`port`.
    #[inline(always)]
    #[must_use]
    pub fn new(addr: Addr, port: u16, protocol: Protocol) -> Self {
        Self {
            addr,
            port,
            protocol,
            pad: 0,
        }
    }
}

/// A look-up table in the arena `SLOTS`: a header element, then 2^`bits` slots.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Extent {
    /// Index of the header element in `SLOTS`.
    pub offset: u32,
    /// Binary logarithm of the number of slots; 0 means that the table is empty: no backend.
    pub bits: u32,
}

impl Extent {
    /// No table: there is no backend to choose.
    pub const EMPTY: Self = Self { offset: 0, bits: 0 };

    /// Whether there is nothing to choose from.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(self) -> u32 {
        if self.is_empty() { 0 } else { 1 << self.bits }
    }

    /// Number of arena elements: the slots and their header.
    #[must_use]
    pub fn elements(self) -> u32 {
        if self.is_empty() { 0 } else { self.slots() + 1 }
    }

    /// Arena index of the slot that `hash` selects.
    ///
    /// The upper bits of the hash choose, so that a table of twice the size splits every slot in
    /// two: slot `i` of the smaller table is slots `2i` and `2i + 1` of the larger.
    #[inline(always)]
    #[must_use]
    pub fn slot_index(self, hash: u32) -> u32 {
        self.offset
            .wrapping_add(1)
            .wrapping_add(hash >> (32_u32.wrapping_sub(self.bits) & 31))
    }
}

/// Value of `FRONTENDS`: the commit point of a Service port. Programs find it by its copy ([`index`]), which is
/// exchanged right after it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Frontend {
    /// Identifies the Service port; all frontends of a port share it.
    pub service: u32,
    /// Generation of the tables; equals the generation in the header of each extent.
    pub generation: u32,
    /// For clients outside the cluster.
    pub outside: Extent,
    /// For pods and processes of this node.
    pub inside: Extent,
    /// Session affinity by client address in seconds; 0 is off.
    pub affinity_timeout_s: u32,
    /// Bits of [`flags`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Frontend>() == 32);

/// Bits of [`Frontend::flags`].
pub mod flags {
    /// The address is one of the node's own: a NodePort.
    pub const NODE_PORT: u32 = 1;
    /// Clients outside are served by backends of this node only.
    pub const OUTSIDE_LOCAL: u32 = 1 << 1;
    /// Clients of this node are served by backends of this node only.
    pub const INSIDE_LOCAL: u32 = 1 << 2;
    /// Some node has a usable endpoint: where a table is empty, a traffic policy is the reason, and
    /// packets are dropped rather than rejected (items 41, 42).
    pub const HAS_ENDPOINTS: u32 = 1 << 3;
    /// New connections get a backend by chance.
    pub const RANDOM: u32 = 1 << 4;
    /// Only clients in `SOURCE_RANGES` are served (item 46).
    pub const SOURCE_RANGES: u32 = 1 << 5;
    /// The node's own addresses are not in the source ranges: its processes are not served.
    pub const NODE_DENIED: u32 = 1 << 6;
    /// Never in a map: the programs' own word for a cluster address without this port.
    pub(crate) const UNSERVED: u32 = 1 << 31;
}
