//! One record a connection, keyed by the reply that it undoes.

use bytemuck::{Pod, Zeroable};

use crate::{
    Addr, BackendRef, Protocol, Tuple, protocol,
    wire::tcp::{FIN, RST, SYN},
};

/// Where a reply is undone; part of [`FlowKey`], so that a reply is not caught anywhere else.
pub mod edge {
    /// Ingress of an uplink or a tunnel: replies to an SNAT address.
    pub const WIRE_INGRESS: u32 = u32::MAX;
    /// Egress of an uplink: replies of a local backend to a client outside.
    pub const WIRE_EGRESS: u32 = u32::MAX - 1;
    // Any other value is the interface index of the client pod's veth.
}

/// Key of `FLOWS`: the reply's 5-tuple and where it is undone. Ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowKey {
    /// The backend's address.
    pub src: Addr,
    /// The client's address; unspecified for SNATed flows, whose address depends on the device
    /// that they leave by and is found in [`Flow::snat`].
    pub dst: Addr,
    /// The backend's port.
    pub src_port: u16,
    /// The client's port, or the SNAT port.
    pub dst_port: u16,
    /// A constant of [`edge`], or an interface index.
    pub edge: u32,
    /// IP protocol number.
    pub protocol: Protocol,
    /// Zero.
    pub pad: u8,
    /// Zero.
    pub pad_half: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 44);

impl FlowKey {
    /// Whether the client is outside this node.
    #[must_use]
    pub fn is_of_the_wire(&self) -> bool {
        matches!(self.edge, edge::WIRE_INGRESS | edge::WIRE_EGRESS)
    }

    /// The key of the record that undoes a packet with this tuple, seen at `edge`.
    #[inline(always)]
    #[must_use]
    pub fn of_reply(tuple: &Tuple, edge: u32) -> Self {
        Self {
            src: tuple.src,
            dst: if edge == edge::WIRE_INGRESS {
                Addr::unspecified()
            } else {
                tuple.dst
            },
            src_port: tuple.src_port,
            dst_port: tuple.dst_port,
            edge,
            protocol: tuple.protocol,
            pad: 0,
            pad_half: 0,
        }
    }
}

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
    /// Written word by word, for the reason of [`Addr::unspecified`].
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

    /// The same hop, read word by word, for the reason of [`Addr::by_words`].
    #[inline(always)]
    #[must_use]
    pub fn by_words(&self) -> Self {
        let [a, b, c] = self.macs;
        Self {
            ifindex: self.ifindex,
            macs: [a, b, c],
        }
    }

    /// Whether the neighbour is known.
    #[inline(always)]
    #[must_use]
    pub fn has_neighbour(&self) -> bool {
        let [a, b, c] = self.macs;
        a | b | c != 0
    }
}

/// Phase of a flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No reply yet.
    Opening = 1,
    /// Both sides have been heard.
    Established = 2,
    /// One side has sent a FIN.
    Closing = 3,
    /// Both sides have sent a FIN.
    Closed = 4,
    /// One side has sent a RST, and nobody has gone on since.
    Reset = 5,
}

impl Phase {
    /// The phase that follows from the bits of [`Flow::ends`] and from [`Flow::answered`].
    #[inline(always)]
    #[must_use]
    pub fn of(ends: u8, answered: u8) -> Self {
        const BOTH: u8 = ends::FIN_FORWARD | ends::FIN_REPLY;
        if ends & ends::RST != 0 {
            Self::Reset
        } else if ends & BOTH == BOTH {
            Self::Closed
        } else if ends != 0 {
            Self::Closing
        } else if answered != 0 {
            Self::Established
        } else {
            Self::Opening
        }
    }

    /// How long a flow may be idle in this phase, in seconds.
    ///
    /// Linux's conntrack times (`nf_conntrack_proto_tcp.c`, `nf_conntrack_proto_udp.c`), with
    /// kube-proxy's established and close-wait times (item 60). SCTP's chunks are not read: it has
    /// the time of an association that is established (`nf_conntrack_proto_sctp.c`).
    #[inline(always)]
    #[must_use]
    pub fn lifetime_s(self, protocol: Protocol) -> u32 {
        match (self, protocol) {
            (Self::Opening, protocol::TCP) => 120,
            (Self::Established, protocol::TCP) => 86_400,
            (Self::Closing, protocol::TCP) => 3_600,
            (Self::Closed, protocol::TCP) => 120,
            (Self::Reset, protocol::TCP) => 10,
            (Self::Opening, _) => 30,
            (_, protocol::SCTP) => 210,
            (_, _) => 120,
        }
    }
}

/// Which way a packet of a flow goes; a bit of [`Flow::stale`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Forward = 1,
    /// From the backend.
    Reply = 2,
}

/// What has been seen of a connection's end; bits of [`Flow::ends`].
mod ends {
    pub(super) const FIN_FORWARD: u8 = 1;
    pub(super) const FIN_REPLY: u8 = 2;
    pub(super) const RST: u8 = 4;
}

// `next_ends` takes these bits from a segment's flags as they stand there.
const _: () = assert!(ends::FIN_FORWARD == FIN && ends::FIN_REPLY == FIN << 1);
const _: () = assert!(ends::RST == RST && RST == SYN << 1);

/// Value of `FLOWS`: one connection. Ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Flow {
    /// The client's address: with its port and the frontend, the owner of this record.
    pub client: Addr,
    /// What the client dialled.
    pub frontend: Addr,
    /// Source address that the backend sees instead of the client's; unspecified without SNAT.
    pub snat: Addr,
    /// The client's port.
    pub client_port: u16,
    /// The port that the client dialled.
    pub frontend_port: u16,
    /// Who serves it.
    pub backend: BackendRef,
    /// Kernel tick of the last packet, to within a second.
    pub seen_tick: u64,
    /// Kernel tick at which the flow has been idle for longer than its phase allows.
    pub expires_tick: u64,
    /// Next hop towards the backend.
    pub forward: Hop,
    /// Next hop towards the client.
    pub reply: Hop,
    /// 1 once the backend has answered.
    pub answered: u8,
    /// What has been seen of the connection's end.
    pub ends: u8,
    /// IP protocol number.
    pub protocol: Protocol,
    /// 1 once `PINS` has this flow.
    pub pinned: u8,
    /// Directions whose next hop is to be renewed: 1, forward; 2, reply.
    pub stale: u32,
}

const _: () = assert!(size_of::<Flow>() == 112);

impl Flow {
    /// Makes this the record of a flow of which `tuple` is the first packet, seen at `now`.
    ///
    /// In place: a record that is built and then moved lies on a program's small stack.
    #[inline(always)]
    pub fn begin(&mut self, tuple: &Tuple, tcp_flags: u8, snat: &Addr, forward: &Hop, now: Now) {
        let ends = next_ends(0, Direction::Forward, tcp_flags);
        self.client = tuple.src.by_words();
        self.frontend = tuple.dst.by_words();
        self.snat = snat.by_words();
        self.client_port = tuple.src_port;
        self.frontend_port = tuple.dst_port;
        self.seen_tick = now.tick;
        self.expires_tick = now.after_s(Phase::of(ends, 0).lifetime_s(tuple.protocol));
        self.forward = forward.by_words();
        self.reply = Hop::device(0);
        self.answered = 0;
        self.ends = ends;
        self.protocol = tuple.protocol;
        self.pinned = 0;
        self.stale = 0;
    }

    /// Whether a packet with this forward tuple belongs to this connection.
    ///
    /// One comparison at the end: the verifier follows every branch on its own.
    #[inline(always)]
    #[must_use]
    pub fn is_owned_by(&self, tuple: &Tuple) -> bool {
        let ports = u32::from(self.client_port ^ tuple.src_port)
            | u32::from(self.frontend_port ^ tuple.dst_port);
        let differ = |a: Addr, b: Addr| {
            let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_wire_words(), b.to_wire_words());
            (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3)
        };
        ports | differ(self.client, tuple.src) | differ(self.frontend, tuple.dst) == 0
    }

    /// The tuple of the client's packets.
    #[must_use]
    pub fn tuple(&self) -> Tuple {
        Tuple {
            src: self.client,
            dst: self.frontend,
            src_port: self.client_port,
            dst_port: self.frontend_port,
            protocol: self.protocol,
        }
    }

    /// The phase that follows from what has been seen.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::of(self.ends, self.answered)
    }

    /// Whether the backend has not been heard yet, and nobody has ended the connection.
    #[inline(always)]
    #[must_use]
    pub fn is_opening(&self) -> bool {
        self.ends | self.answered == 0
    }

    /// Whether the flow was idle for longer than its phase allows.
    #[inline(always)]
    #[must_use]
    pub fn is_expired(&self, now: Now) -> bool {
        now.is_after(self.expires_tick)
    }

    /// Whether another connection may take this record's place: it has expired, or both ends
    /// have closed it and the other one begins with a SYN. A RST does not suffice: it may be
    /// forged, which shows when the peers go on.
    #[inline(always)]
    #[must_use]
    pub fn gives_way(&self, is_syn: bool, now: Now) -> bool {
        const ALL: u8 = ends::FIN_FORWARD | ends::FIN_REPLY | ends::RST;
        const CLOSED: u8 = ends::FIN_FORWARD | ends::FIN_REPLY;
        self.is_expired(now) || is_syn && self.ends & ALL == CLOSED
    }

    /// Notes a packet. True once a second at most for each direction: then what the record caches
    /// for it is to be renewed.
    #[inline(always)]
    pub fn note(&mut self, direction: Direction, tcp_flags: u8, now: Now) -> bool {
        let ends = next_ends(self.ends, direction, tcp_flags);
        let answered = self.answered | u8::from(direction == Direction::Reply);
        let due = !self.seen_within_a_second(now);
        if due {
            // For both: in a conversation slower than that, one side always comes first.
            self.stale = Direction::Forward as u32 | Direction::Reply as u32;
        }
        if due || ends != self.ends || answered != self.answered {
            (self.ends, self.answered) = (ends, answered);
            self.renew(now);
        }
        let stale = self.stale & direction as u32 != 0;
        if stale {
            self.stale &= !(direction as u32);
        }
        stale
    }

    /// A client that sends a SYN on a 5-tuple it has used before starts afresh.
    #[inline(always)]
    pub fn reopen(&mut self, now: Now) {
        (self.ends, self.answered) = (0, 0);
        self.renew(now);
    }

    #[inline(always)]
    fn renew(&mut self, now: Now) {
        self.seen_tick = now.tick;
        let phase = Phase::of(self.ends, self.answered);
        self.expires_tick = now.after_s(phase.lifetime_s(self.protocol));
    }

    #[inline(always)]
    fn seen_within_a_second(&self, now: Now) -> bool {
        !now.is_after(
            self.seen_tick
                .wrapping_add(u64::from(now.ticks_per_second) - 1),
        )
    }
}

/// The time of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Now {
    /// Kernel ticks since some time before boot.
    pub tick: u64,
    /// How many there are in a second; not 0.
    pub ticks_per_second: u32,
}

impl Now {
    /// Whether `tick` has passed. Ticks of different CPUs may be apart, and order is all that
    /// counts: the difference is signed.
    #[inline(always)]
    #[must_use]
    pub fn is_after(self, tick: u64) -> bool {
        tick.wrapping_sub(self.tick).cast_signed() < 0
    }

    /// The tick `seconds` from now.
    #[inline(always)]
    #[must_use]
    pub fn after_s(self, seconds: u32) -> u64 {
        let ticks = u64::from(seconds).wrapping_mul(u64::from(self.ticks_per_second));
        self.tick.wrapping_add(ticks)
    }
}

/// What is known of a connection's end after a segment with these flags.
///
/// Without a branch: the verifier follows every one on its own.
#[inline(always)]
fn next_ends(ends: u8, direction: Direction, tcp_flags: u8) -> u8 {
    let fin = match direction {
        Direction::Forward => tcp_flags & FIN,
        Direction::Reply => (tcp_flags & FIN) << 1,
    };
    // Whoever goes on after a RST did not accept it: it was forged or out of window. A SYN says
    // nothing about that.
    let rst_stays = ends & (tcp_flags << 1) & RST;
    ends & !ends::RST | rst_stays | tcp_flags & RST | fin
}

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

/// Value of `PINS`: what the tables do not say about a flow.
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

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::wire::tcp::ACK;

    fn at(tick: u64) -> Now {
        Now {
            tick,
            ticks_per_second: 100,
        }
    }

    #[test]
    fn s60_records_live_as_long_as_kube_proxy_lets_the_kernels_entries_live() {
        assert_eq!(Phase::Established.lifetime_s(protocol::TCP), 24 * 3600);
        assert_eq!(Phase::Closing.lifetime_s(protocol::TCP), 3600);
        assert_eq!(Phase::Established.lifetime_s(protocol::UDP), 120);
        assert_eq!(Phase::Opening.lifetime_s(protocol::UDP), 30);
    }

    fn flow(protocol: Protocol) -> Flow {
        let tuple = Tuple {
            src: Ipv4Addr::new(10, 0, 0, 1).into(),
            dst: Ipv4Addr::new(10, 96, 0, 17).into(),
            src_port: 40_000,
            dst_port: 80,
            protocol,
        };
        let mut flow = Flow::zeroed();
        flow.begin(&tuple, 0, &Addr::UNSPECIFIED, &Hop::NONE, at(1000));
        flow
    }

    #[track_caller]
    fn check(packets: &[(Direction, u8)], phase: Phase) {
        let mut flow = flow(protocol::TCP);
        for &(direction, flags) in packets {
            let _ = flow.note(direction, flags, at(1000));
        }
        assert_eq!(flow.phase(), phase);
    }

    use Direction::{Forward, Reply};

    #[test]
    fn a_flow_is_opening_until_the_backend_answers() {
        check(&[(Forward, SYN), (Forward, SYN)], Phase::Opening);
        check(
            &[(Forward, SYN), (Reply, SYN | ACK), (Forward, ACK)],
            Phase::Established,
        );
    }

    #[test]
    fn it_closes_when_both_sides_have_sent_a_fin() {
        let open = [(Forward, SYN), (Reply, SYN | ACK)];
        check(&[&open[..], &[(Reply, FIN | ACK)]].concat(), Phase::Closing);
        check(
            &[&open[..], &[(Reply, FIN | ACK), (Forward, FIN | ACK)]].concat(),
            Phase::Closed,
        );
    }

    #[test]
    fn a_rst_ends_it_unless_the_peers_go_on() {
        let open = [(Forward, SYN), (Reply, SYN | ACK)];
        check(&[&open[..], &[(Forward, RST)]].concat(), Phase::Reset);
        check(
            &[&open[..], &[(Forward, RST), (Reply, ACK)]].concat(),
            Phase::Established,
        );
    }

    #[test]
    fn idle_flows_expire_after_the_lifetime_of_their_phase() {
        let udp = flow(protocol::UDP);
        assert!(!udp.is_expired(at(1000 + 30 * 100)));
        assert!(udp.is_expired(at(1001 + 30 * 100)));
        let mut answered = udp;
        let _ = answered.note(Reply, 0, at(1000));
        assert!(!answered.is_expired(at(1001 + 30 * 100)));
        assert!(answered.is_expired(at(1001 + 120 * 100)));
    }

    #[test]
    fn what_is_cached_is_renewed_once_a_second() {
        let mut flow = flow(protocol::TCP);
        assert!(!flow.note(Forward, ACK, at(1000 + 99)));
        assert!(flow.note(Forward, ACK, at(1000 + 100)));
        assert!(!flow.note(Forward, ACK, at(1000 + 100)));
        assert!(flow.note(Reply, ACK, at(1000 + 101)), "each way on its own");
        assert!(!flow.note(Reply, ACK, at(1000 + 102)));
    }

    #[test]
    fn a_tick_of_another_cpu_that_is_behind_does_not_expire_a_flow() {
        assert!(!flow(protocol::UDP).is_expired(at(0)));
    }
}
