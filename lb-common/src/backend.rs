//! What serves a frontend, and references to it that outlive it safely.

use core::fmt;

use bytemuck::{Pod, Zeroable};

use crate::Addr;

/// A reference to one incarnation of an element of `BACKENDS`.
///
/// The index in the upper 24 bits, the generation in the lower 8. A generation is never 0, so
/// zeroed memory refers to nothing, and a recycled index is never taken for its predecessor.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct BackendRef {
    /// `index << 8 | generation`.
    pub bits: u32,
}

impl BackendRef {
    /// Refers to nothing.
    pub const NONE: Self = Self { bits: 0 };
    /// Largest index that a reference can hold.
    pub const MAX_INDEX: u32 = (1 << 24) - 1;

    /// A reference to the incarnation `generation` of the element `index`.
    #[must_use]
    pub fn new(index: u32, generation: u8) -> Self {
        Self {
            bits: index << 8 | generation as u32,
        }
    }

    /// Index into `BACKENDS`.
    #[inline(always)]
    #[must_use]
    pub fn index(self) -> u32 {
        self.bits >> 8
    }

    /// The incarnation that is meant.
    #[inline(always)]
    #[must_use]
    pub fn generation(self) -> u8 {
        (self.bits & 0xff) as u8
    }

    /// Whether this refers to nothing.
    #[inline(always)]
    #[must_use]
    pub fn is_none(self) -> bool {
        self.bits == 0
    }
}

impl fmt::Debug for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.index(), self.generation())
    }
}

/// One element of a look-up table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Slot {
    /// The backend that new connections get.
    pub current: BackendRef,
    /// The backend that held this slot before, for the flows it still serves.
    pub previous: BackendRef,
}

const _: () = assert!(size_of::<Slot>() == 8);

impl Slot {
    /// The header of an extent in the form of a slot: {service, generation}.
    #[must_use]
    pub fn header(service: u32, generation: u32) -> Self {
        Self {
            current: BackendRef { bits: service },
            previous: BackendRef { bits: generation },
        }
    }
}

/// Life of a backend, as Kubernetes tells it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// The element is free, or its backend left every EndpointSlice.
    Gone = 0,
    /// Takes new connections.
    Active = 1,
    /// Serves the connections that it has, until they close.
    Terminating = 2,
}

/// Value of `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Backend {
    /// Address of the pod.
    pub addr: Addr,
    /// Service port that this backend belongs to.
    pub service: u32,
    /// Port of the pod, host byte order.
    pub port: u16,
    /// Incarnation; equals [`BackendRef::generation`] of every valid reference.
    pub generation: u8,
    /// A [`BackendState`] as a number.
    pub state: u8,
    /// 1 if the backend runs on this node.
    pub local: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Bits of [`sets`]: which clients' new connections it may have.
    pub sets: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<Backend>() == 28);

/// Bits of [`Backend::sets`].
pub mod sets {
    /// It is in the set for traffic of policy `Cluster`.
    pub const CLUSTER: u8 = 1;
    /// It is in the set for traffic of policy `Local`.
    pub const LOCAL: u8 = 2;
}

impl Backend {
    /// Whether `reference` means this incarnation.
    #[inline(always)]
    #[must_use]
    pub fn is(&self, reference: BackendRef) -> bool {
        self.generation == reference.generation() && !reference.is_none()
    }

    /// Whether a flow that has this backend may go on with it.
    #[inline(always)]
    #[must_use]
    pub fn serves(&self) -> bool {
        self.state != BackendState::Gone as u8
    }

    /// Whether new connections may go to it.
    #[inline(always)]
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == BackendState::Active as u8
    }
}
