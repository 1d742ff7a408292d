//! What the programs count.

use bytemuck::Zeroable;

/// Where a packet is met; rows of `COUNTERS`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// XDP on an uplink.
    Xdp = 0,
    /// tcx ingress of an uplink or a tunnel.
    WireIngress = 1,
    /// tcx egress of an uplink.
    WireEgress = 2,
    /// tcx ingress of a pod's veth: from the pod.
    PodIngress = 3,
    /// tcx egress of a pod's veth: to the pod.
    PodEgress = 4,
    /// Socket calls of the node's processes.
    Socket = 5,
}

/// What became of a packet; columns of `COUNTERS`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Zeroable)]
pub enum Outcome {
    /// Parsed: it has a 5-tuple, and no earlier hook has finished it.
    Seen = 0,
    /// Given a backend, and passed on to the node's stack.
    ToStack = 1,
    /// Given a backend, and redirected to its next hop.
    Redirected = 2,
    /// A reply, given its frontend back.
    Replied = 3,
    /// Left untouched for the next hook, which can do what this one cannot.
    Deferred = 4,
    /// Dropped: a traffic policy leaves the frontend without a backend here.
    NoBackend = 5,
    /// Dropped: every port that was tried (or, where the client's port is kept, every backend)
    /// would give two connections the same reply.
    NoSnatPort = 6,
    /// Dropped: a table was replaced while the packet was looking into it.
    TornTable = 7,
    /// Dropped: the packet could not be changed.
    NotWritable = 8,
    /// A connection that was new.
    NewFlow = 9,
    /// Finished by an earlier hook of the same packet.
    Finished = 10,
    /// Dropped: the SNATed packet has nowhere to go: no route, or no address of the device.
    Unroutable = 11,
    /// Answered with a RST or an ICMP error: the frontend has no endpoint on any node, or nobody
    /// serves this port of a cluster address.
    Rejected = 12,
    /// Dropped: the client is not in the frontend's source ranges.
    NotAllowed = 13,
    /// Dropped: no Service has this cluster address, or nobody serves this port of an external one
    /// and the router that sent the packet would get it back.
    Unallocated = 14,
    /// Dropped: an address that no packet of a wire may have.
    Martian = 15,
    /// An ICMP echo request, answered for a Service.
    Echoed = 16,
    /// A confirmed connection that `FLOWS` has no room for: it stays where a flood can evict it.
    TableFull = 17,
    /// Dropped: an ICMP error about a connection to a Service that is not known, or a later piece of
    /// a packet that needs an answer.
    UnknownFlow = 18,
    /// A piece of a packet that came before the first one, and waits for it.
    FragmentHeld = 19,
    /// Dropped: such a piece, for which there was no room.
    FragmentLost = 20,
    /// Answered with an ICMP error: the packet is too big for the device that it would leave by.
    TooBig = 21,
    /// Answered with an ICMP error: the packet's time to live has passed.
    TtlExceeded = 22,
    /// Dropped: the headers of a packet for a Service make no sense.
    Malformed = 24,
    /// Given a backend at the same bridge, and handed over within the bridge.
    Direct = 23,
    /// Answered with a RST: the connection's backend is gone, and connections do not outlive those
    /// (a flag).
    BackendGone = 25,
    /// An ICMP error that is not sent: there have been too many in this second.
    Untold = 26,
}

/// An element of `COUNTERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counter {
    /// Row.
    pub hook: Hook,
    /// Column.
    pub outcome: Outcome,
}

impl Counter {
    /// Columns of a row; `LAST_DROPS` has as many elements.
    pub const COLUMNS: u32 = 32;
    /// Elements of `COUNTERS`.
    pub const ELEMENTS: u32 = 6 * Self::COLUMNS;

    /// Index into `COUNTERS`.
    #[inline(always)]
    #[must_use]
    pub fn index(self) -> u32 {
        self.hook as u32 * Self::COLUMNS + self.outcome as u32
    }
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 6] = [
        Self::Xdp,
        Self::WireIngress,
        Self::WireEgress,
        Self::PodIngress,
        Self::PodEgress,
        Self::Socket,
    ];
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 27] = [
        Self::Seen,
        Self::ToStack,
        Self::Redirected,
        Self::Replied,
        Self::Deferred,
        Self::NoBackend,
        Self::NoSnatPort,
        Self::TornTable,
        Self::NotWritable,
        Self::NewFlow,
        Self::Finished,
        Self::Unroutable,
        Self::Rejected,
        Self::NotAllowed,
        Self::Unallocated,
        Self::Martian,
        Self::Echoed,
        Self::TableFull,
        Self::UnknownFlow,
        Self::FragmentHeld,
        Self::FragmentLost,
        Self::TooBig,
        Self::TtlExceeded,
        Self::Direct,
        Self::Malformed,
        Self::BackendGone,
        Self::Untold,
    ];
}
