//! What is kept of clients apart from their connections: affinity, and who may dial at all.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, BackendRef};

/// Key of `AFFINITY`: a client of a Service port. All frontends of the port share it (item 49).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct AffinityKey {
    /// The client's address; unspecified for processes of the node.
    pub client: Addr,
    /// The Service port.
    pub service: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 20);

/// Value of `AFFINITY`: who has served the client.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Affinity {
    /// Kernel tick of the client's last new connection.
    pub used_tick: u64,
    /// Who served it.
    pub backend: BackendRef,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Affinity>() == 16);

/// Key of `SOURCE_RANGES`, a trie of prefixes: a network whose clients a Service port serves.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct SourceRange {
    /// Significant bits of `service` and `addr` together: 32, and those of the prefix, which for
    /// IPv4 is 96 longer than one writes it.
    pub prefix_len: u32,
    /// The Service port.
    pub service: u32,
    /// The network's address.
    pub addr: Addr,
}

const _: () = assert!(size_of::<SourceRange>() == 24);

impl SourceRange {
    /// Bits of `service`, which are significant always.
    pub const SERVICE_BITS: u32 = 32;

    /// The key that asks for `client` alone.
    #[inline(always)]
    #[must_use]
    pub fn of_client(service: u32, client: &Addr) -> Self {
        Self {
            prefix_len: Self::SERVICE_BITS + 128,
            service,
            addr: client.by_words(),
        }
    }
}
