//! The way of a packet: what each hook does, decided here for every hook and both families.
//!
//! The functions are generic over [`Env`]: in the kernel it is the maps and the device of one
//! program run, on the host whatever a test makes it.

mod choose;
pub mod forward;
pub mod hooks;
mod open;
mod recall;
pub mod reply;
pub mod sockets;
pub mod unserved;

use bytemuck::Zeroable;

use crate::{
    Addr, Affinity, AffinityKey, Backend, BackendRef, DatapathConfig, Extent, Flow, FlowKey,
    Frontend, FrontendKey, Hop, Interface, Pin, PinKey, Slot, SourceRange, Vip,
    answer::Quote,
    counter::Outcome,
    flow::Now,
    packet::Parsed,
    path::forward::Leg,
    rewrite::{Endpoint, Rewrite},
};

/// The tables that the agent fills, and those that the programs keep for themselves.
pub trait Tables {
    /// Constants of this load of the programs.
    fn config(&self) -> DatapathConfig;
    /// The time.
    fn now(&self) -> Now;
    /// An element of `FRONTENDS`.
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// An element of `SLOTS`.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// An element of `BACKENDS`.
    fn backend(&self, index: u32) -> Option<Backend>;
    /// An element of `INTERFACES`.
    fn interface(&self, ifindex: u32) -> Option<Interface>;
    /// An element of `PINS`.
    fn pin(&self, key: &PinKey) -> Option<Pin>;
    /// Inserts or replaces an element of `PINS`. Best effort: the map forgets the oldest.
    fn insert_pin(&self, key: &PinKey, pin: &Pin);
    /// An element of `AFFINITY`.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Inserts or replaces an element of `AFFINITY`. Best effort: the map forgets the oldest.
    fn insert_affinity(&self, key: &AffinityKey, affinity: &Affinity);
    /// Whether a network of `SOURCE_RANGES` contains a client.
    fn is_in_source_ranges(&self, key: &SourceRange) -> bool;
    /// An element of `VIPS`.
    fn vip(&self, addr: &Addr) -> Option<Vip>;
    /// [`ServiceNets::flags_of`](crate::ServiceNets::flags_of) the networks in `SERVICE_NETS`.
    fn service_net(&self, addr: Addr) -> u32;
    /// A number by chance.
    fn random(&self) -> u32;
    /// Counts an outcome of this hook.
    fn count(&self, outcome: Outcome);
}

/// The store of flows.
pub trait FlowStore {
    /// Looks a record up, to be read or changed in place.
    fn look_up(&mut self, key: &FlowKey) -> Option<&mut Flow>;
    /// Inserts a record unless its key is there. False if it is, or if there is no room.
    #[must_use]
    fn insert_if_absent(&mut self, key: &FlowKey, flow: &Flow) -> bool;
    /// Removes a record; one that is not there is no error.
    fn remove(&mut self, key: &FlowKey);
}

/// The device at which a packet is met, and the ways from there.
pub trait Device {
    /// Index of the interface.
    fn ifindex(&self) -> u32;
    /// Where a packet for `dst` of `parsed`'s size leaves.
    fn route(&self, parsed: &Parsed, dst: Addr) -> Route;
    /// Whether this hook can send by `hop`.
    fn can_send(&self, hop: &Hop) -> bool;
    /// Whether the packet is not larger than the device of `hop` takes.
    fn fits(&self, parsed: &Parsed, hop: &Hop) -> bool;
}

/// Everything that a hook works with.
pub trait Env: Tables + FlowStore + Device {}
impl<T: Tables + FlowStore + Device> Env for T {}

/// Answer of the routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Leaves by this hop.
    Via(Hop),
    /// This hook cannot tell or cannot send there; a later one may.
    Defer,
    /// There is no way.
    Unreachable,
}

/// What is to be done with a packet.
///
/// Where to, the scratch memory says: an enum with addresses in it would live on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// It is no Service's business: it goes on as it came.
    Pass,
    /// It goes on as it came, to a hook that can do more.
    Defer,
    /// It is dropped.
    Drop(Outcome),
    /// Its sender is told that nobody serves it: [`answer::reject`](crate::answer::reject).
    Reject,
    /// It is an ICMP echo request, which is answered: [`answer::echo`](crate::answer::echo).
    Echo,
    /// Its destination becomes [`Scratch::dst`], and it goes on its way through the stack.
    ToBackend,
    /// Its source becomes [`Scratch::src`], and it goes on its way.
    ToClient,
    /// Both ends are rewritten, and it goes on its way: the client's own port was taken. What
    /// counts is which way it goes.
    Remap(Outcome),
    /// Both ends are rewritten, and it leaves by [`Scratch::hop`] at once.
    Out,
    /// Both ends are rewritten, and it goes back to where it came from: the pod at the veth's
    /// other end.
    Bounce,
}

impl Action {
    /// What becomes of the packet's headers.
    #[inline(always)]
    #[must_use]
    pub fn rewrite(self, scratch: &Scratch) -> Rewrite {
        let (src, dst) = (scratch.src.by_words(), scratch.dst.by_words());
        let (src, dst) = match self {
            Self::Out | Self::Bounce | Self::Remap(_) => (Some(src), Some(dst)),
            Self::ToBackend => (None, Some(dst)),
            Self::ToClient => (Some(src), None),
            Self::Pass | Self::Defer | Self::Drop(_) | Self::Reject | Self::Echo => (None, None),
        };
        Rewrite {
            src,
            dst,
            routed: matches!(self, Self::Out),
        }
    }
}

/// Working memory of one packet: what map operations take by address, and what the parts
/// of a program hand to each other.
///
/// A program's own stack is too small for it (512 bytes), and must be accessed aligned, which
/// packets need not be: the compiler does not tell the two apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Zeroable)]
pub struct Scratch {
    /// The packet.
    pub parsed: Parsed,
    /// Its flow's hash.
    pub hash: u32,
    /// When it came.
    pub now: Now,
    /// The Service port that it dials.
    pub service: u32,
    /// Bits of [`crate::frontend::flags`].
    pub flags: u32,
    /// Session affinity of the Service port in seconds; 0 is off.
    pub affinity_timeout_s: u32,
    /// The table that it is looked up in.
    pub extent: Extent,
    /// What it finds there.
    pub slot: Slot,
    /// The backend in question.
    pub leg: Leg,
    /// What happens to the source address of a flow that is being opened.
    pub nat: u32,
    /// The backend that it ought to get.
    pub first: BackendRef,
    /// Whether an outdated record stands where the flow's own would be.
    pub is_stale: u32,
    /// SNAT address of the flow; unspecified without.
    pub snat: Addr,
    /// Next hop of the flow.
    pub hop: Hop,
    /// What the packet's source becomes.
    pub src: Endpoint,
    /// What the packet's destination becomes.
    pub dst: Endpoint,
    /// Key of the frontend that is dialled.
    pub frontend_key: FrontendKey,
    /// Key of the record in question.
    pub key: FlowKey,
    /// Key of the packet's pin.
    pub pin_key: PinKey,
    /// A record that is being inserted.
    pub flow: Flow,
    /// A pin that is being inserted, or was found.
    pub pin: Pin,
    /// Whether one was found.
    pub has_pin: u32,
    /// Key of the client's affinity.
    pub affinity_key: AffinityKey,
    /// A client in question.
    pub client: SourceRange,
    /// The client's affinity.
    pub affinity: Affinity,
    /// What an answer quotes.
    pub quote: Quote,
}
