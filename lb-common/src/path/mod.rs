//! The way of a packet: what each hook does, decided here for every hook and both families.
//!
//! The functions are generic over [`Env`]: in the kernel it is the maps and the device of one
//! program run, on the host whatever a test makes it.

mod action;
mod cached;
mod choose;
mod established;
pub mod forward;
pub mod fragments;
pub mod hooks;
mod open;
mod pin;
mod recall;
pub mod reply;
mod send;
pub mod sockets;
mod tend;
pub mod unserved;
mod within;

pub use self::action::{Action, way};
use bytemuck::Zeroable;

use crate::{
    Addr, Affinity, AffinityKey, Backend, BackendRef, DatapathConfig, Extent, Flow, FlowKey,
    FragmentKey, Fragments, Frontend, FrontendKey, HeldKey, Hop, Interface, Pin, PinKey, Slot,
    SourceRange, Vip,
    addresses::Place,
    answer::{Message, Quote, Spent},
    counter::Outcome,
    flow::{CachedRoute, Mark, Marks, Now},
    packet::{OFFSET_MAX, Offsets, Parsed, Walk},
    path::forward::Leg,
    rewrite::Endpoint,
    wire::ethernet,
};

/// The tables that the agent fills, and those that the programs keep for themselves.
pub trait Tables {
    /// Constants of this load of the programs.
    fn config(&self) -> DatapathConfig;
    /// The time.
    fn now(&self) -> Now;
    /// Whether the bit at this place of `ADDRESSES` is set; if not, no table knows what it stands for.
    fn may_be(&self, place: Place) -> bool;
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
    /// The pin that `OPENING_PINS` has of a key.
    fn opening_pin(&self, key: &PinKey) -> Option<Pin>;
    /// Inserts or replaces the pin of a flow that no client has confirmed. Best effort: it is forgotten when several others
    /// have come to the same place.
    fn insert_pin(&self, key: &PinKey, pin: &Pin);
    /// Inserts or replaces the pin of a flow that a client has confirmed, of which no flood leaves less.
    /// Best effort, too.
    fn keep_pin(&self, key: &PinKey, pin: &Pin);
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

/// The store of flows: those that are opening, of which the ones used least make room for new
/// ones, and those that were promoted, which stay until they are removed. A key has one record.
pub trait FlowStore {
    /// Looks a record up, to be read or changed in place.
    fn look_up(&mut self, key: &FlowKey) -> Option<&mut Flow>;
    /// The same for less, where what is missed leads to [`insert_if_absent`](Self::insert_if_absent): one
    /// that another CPU is promoting at this moment may be missed. Where a flow probably `is_new`, it is asked first
    /// whether there can be a record that was promoted.
    fn glance(&mut self, key: &FlowKey, is_new: bool) -> Option<&mut Flow>;
    /// Inserts the record of an opening flow unless its key is there. False if it is, or if there
    /// is no room.
    #[must_use]
    fn insert_if_absent(&mut self, key: &FlowKey, flow: &Flow) -> bool;
    /// Moves the record of an opening flow to those that stay; `flow` is what it has to be there.
    /// False if there is no room: it stays where it is.
    #[must_use]
    fn promote(&mut self, key: &FlowKey, flow: &Flow) -> bool;
    /// Removes the record of an opening flow; one that is not there is no error.
    fn displace(&mut self, key: &FlowKey);
    /// Removes a record, and the marks of its client; one that is not there is no error.
    fn remove(&mut self, key: &FlowKey);
    /// The words of an element of `ESTABLISHED`; zeros if there is none.
    fn marks(&self, index: u32) -> [u32; Marks::WAYS];
    /// An element of `ROUTES`, to be read or changed in place: how packets for a backend left, or for another one that
    /// has the same place.
    fn cached_route(&mut self, backend: BackendRef) -> Option<&mut CachedRoute>;
    /// Leaves a mark there. Best effort: it takes the place of another one.
    fn leave_mark(&self, mark: Mark);
    /// Removes all marks of a client, and of those that share their place. `client` is an address, and a port in
    /// host byte order.
    fn remove_marks(&self, client: (Addr, u16));
}

/// What is remembered of packets in pieces.
pub trait FragmentStore {
    /// An element of `FRAGMENTS`.
    fn fragments(&self, key: &FragmentKey) -> Option<Fragments>;
    /// Inserts or replaces an element of `FRAGMENTS`. Best effort: the map forgets the oldest.
    fn insert_fragments(&self, key: &FragmentKey, fragments: &Fragments);
}

/// The device at which a packet is met, and the ways from there.
pub trait Device {
    /// Index of the interface.
    fn ifindex(&self) -> u32;
    /// Where a packet for `dst` of `parsed`'s size leaves.
    fn route(&self, parsed: &Parsed, dst: Addr) -> Route;
    /// Whether this hook can send by `hop`.
    fn can_send(&self, hop: &Hop) -> bool;
    /// How large a packet may be that the device of `hop` takes, in bytes, if this one is larger; else 0.
    fn too_big_for(&self, parsed: &Parsed, hop: &Hop) -> u32;
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
    /// Marks of its client's connections, if it may go by one.
    pub marks: [u32; Marks::WAYS],
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
    /// How many of the ports that were looked at are held by flows that may be displaced.
    pub victims: u32,
    /// The port of the one that was seen last before all others of them.
    pub victim_port: u16,
    /// Zero.
    pub pad: u16,
    /// When it was seen, in kernel ticks.
    pub victim_tick: u64,
    /// Whether it may displace a flow that has not gone on.
    pub may_displace: u32,
    /// SNAT address of the flow; unspecified without.
    pub snat: Addr,
    /// Next hop of the flow.
    pub hop: Hop,
    /// Whether the routing table has just answered with a hop.
    pub has_asked: u32,
    /// What the packet's source becomes.
    pub src: Endpoint,
    /// What the packet's destination becomes.
    pub dst: Endpoint,
    /// Key of the frontend that is dialled.
    pub frontend_key: FrontendKey,
    /// What the store says about it.
    pub found: u32,
    /// Key of the record in question.
    pub key: FlowKey,
    /// Key of the packet's pin.
    pub pin_key: PinKey,
    /// A record that is being inserted.
    pub flow: Flow,
    /// A pin that is being inserted, or was found.
    pub pin: Pin,
    /// Whether one was found: 1 in `PINS`, 2 in `OPENING_PINS`.
    pub has_pin: u32,
    /// Key of the client's affinity.
    pub affinity_key: AffinityKey,
    /// A client in question.
    pub client: SourceRange,
    /// The client's affinity.
    pub affinity: Affinity,
    /// What is counted of a packet that is dropped, or remapped, or whose sender is told.
    pub outcome: Outcome,
    /// What the packet's sender is told.
    pub message: Message,
    /// What an answer quotes.
    pub quote: Quote,
    /// The only thing here that outlives a packet.
    pub spent: Spent,
    /// Where the transport header of a packet begins that is not as most are, in bytes from the
    /// frame's start, or the ICMP header of an error; 0 if nothing is left to decide.
    pub l4: u32,
    /// Whether the packet has headers as most have, which XDP understands, too.
    pub is_plain: u32,
    /// How far its headers have been followed.
    pub walk: Walk,
    /// What becomes of an ICMP error: a constant of [`way`].
    pub way: u32,
    /// A packet in pieces, and which of those that came too early is meant.
    pub held_key: HeldKey,
    /// What is known of the packet.
    pub fragments: Fragments,
}

impl Scratch {
    /// The family of the packet.
    #[inline(always)]
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.parsed.tuple.src.is_v4()
    }

    /// Where the packet's headers are.
    #[inline(always)]
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        Offsets {
            l3: ethernet::HEADER_LEN,
            l4: self.l4 as usize & OFFSET_MAX,
        }
    }
}
