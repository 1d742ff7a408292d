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
    /// Both sides have sent a FIN, or one a RST.
    Closed = 4,
}

impl Phase {
    /// How long a flow may be idle in this phase, in seconds.
    ///
    /// Linux's conntrack times (`nf_conntrack_proto_tcp.c`, `nf_conntrack_proto_udp.c`), with
    /// kube-proxy's established and close-wait times (item 60).
    #[inline(always)]
    #[must_use]
    pub fn lifetime_s(self, protocol: Protocol) -> u32 {
        match (self, protocol == protocol::TCP) {
            (Self::Opening, true) => 120,
            (Self::Established, true) => 86_400,
            (Self::Closing, true) => 3_600,
            (Self::Closed, true) => 120,
            (Self::Opening, false) => 30,
            (_, false) => 120,
        }
    }
}

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Forward,
    /// From the backend.
    Reply,
}

/// What has been seen of a connection's end; bits of [`Flow::ends`].
mod ends {
    pub(super) const FIN_FORWARD: u8 = 1;
    pub(super) const FIN_REPLY: u8 = 2;
    pub(super) const RST: u8 = 4;
}

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
    /// Zero.
    pub pad: u8,
    /// Zero.
    pub pad_word: u32,
}

const _: () = assert!(size_of::<Flow>() == 104);

impl Flow {
    /// A flow of which `tuple` is the first packet.
    #[inline(always)]
    #[must_use]
    pub fn new(tuple: &Tuple, backend: BackendRef, snat: Addr, forward: Hop, tick: u64) -> Self {
        Self {
            client: tuple.src,
            frontend: tuple.dst,
            snat,
            client_port: tuple.src_port,
            frontend_port: tuple.dst_port,
            backend,
            seen_tick: tick,
            forward,
            reply: Hop::device(0),
            answered: 0,
            ends: 0,
            protocol: tuple.protocol,
            pad: 0,
            pad_word: 0,
        }
    }

    /// Whether a packet with this forward tuple belongs to this connection.
    #[inline(always)]
    #[must_use]
    pub fn is_owned_by(&self, tuple: &Tuple) -> bool {
        self.client_port == tuple.src_port
            && self.frontend_port == tuple.dst_port
            && self.client.to_wire_words() == tuple.src.to_wire_words()
            && self.frontend.to_wire_words() == tuple.dst.to_wire_words()
    }

    /// The phase that follows from what has been seen.
    #[inline(always)]
    #[must_use]
    pub fn phase(&self) -> Phase {
        const BOTH: u8 = ends::FIN_FORWARD | ends::FIN_REPLY;
        if self.ends & ends::RST != 0 || self.ends & BOTH == BOTH {
            Phase::Closed
        } else if self.ends != 0 {
            Phase::Closing
        } else if self.answered != 0 {
            Phase::Established
        } else {
            Phase::Opening
        }
    }

    /// Whether the flow was idle for longer than its phase allows.
    #[inline(always)]
    #[must_use]
    pub fn is_expired(&self, tick: u64, ticks_per_second: u32) -> bool {
        let lifetime = self.phase().lifetime_s(self.protocol);
        self.idle_ticks(tick) > u64::from(lifetime).wrapping_mul(u64::from(ticks_per_second))
    }

    /// Ticks since the last packet; 0 if another CPU has seen a later one.
    #[inline(always)]
    #[must_use]
    pub fn idle_ticks(&self, tick: u64) -> u64 {
        tick.saturating_sub(self.seen_tick)
    }

    /// Notes a packet. True once a second at most: then what the record caches is to be renewed.
    #[inline(always)]
    pub fn note(
        &mut self,
        direction: Direction,
        tcp_flags: u8,
        tick: u64,
        ticks_per_second: u32,
    ) -> bool {
        if direction == Direction::Reply && self.answered == 0 {
            self.answered = 1;
        }
        self.note_ends(direction, tcp_flags);
        let due = self.idle_ticks(tick) >= u64::from(ticks_per_second);
        if due {
            self.seen_tick = tick;
        }
        due
    }

    /// A client that sends a SYN on a 5-tuple it has used before starts afresh.
    #[inline(always)]
    pub fn reopen(&mut self, tick: u64) {
        self.ends = 0;
        self.answered = 0;
        self.seen_tick = tick;
    }

    #[inline(always)]
    fn note_ends(&mut self, direction: Direction, tcp_flags: u8) {
        let fin = match direction {
            Direction::Forward => ends::FIN_FORWARD,
            Direction::Reply => ends::FIN_REPLY,
        };
        if tcp_flags & RST != 0 {
            self.ends |= ends::RST;
        } else if tcp_flags & FIN != 0 {
            self.ends |= fin;
        } else if self.ends & ends::RST != 0 && tcp_flags & SYN == 0 {
            // Whoever goes on after a RST did not accept it: it was forged or out of window.
            self.ends &= !ends::RST;
        }
    }
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

    const HZ: u32 = 100;

    fn flow(protocol: Protocol) -> Flow {
        let tuple = Tuple {
            src: Ipv4Addr::new(10, 0, 0, 1).into(),
            dst: Ipv4Addr::new(10, 96, 0, 17).into(),
            src_port: 40_000,
            dst_port: 80,
            protocol,
        };
        Flow::new(
            &tuple,
            BackendRef::new(1, 1),
            Addr::UNSPECIFIED,
            Hop::NONE,
            1000,
        )
    }

    #[track_caller]
    fn check(packets: &[(Direction, u8)], phase: Phase) {
        let mut flow = flow(protocol::TCP);
        for &(direction, flags) in packets {
            let _ = flow.note(direction, flags, 1000, HZ);
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
    fn a_rst_closes_it_unless_the_peers_go_on() {
        let open = [(Forward, SYN), (Reply, SYN | ACK)];
        check(&[&open[..], &[(Forward, RST)]].concat(), Phase::Closed);
        check(
            &[&open[..], &[(Forward, RST), (Reply, ACK)]].concat(),
            Phase::Established,
        );
    }

    #[test]
    fn idle_flows_expire_after_the_lifetime_of_their_phase() {
        let udp = flow(protocol::UDP);
        assert!(!udp.is_expired(1000 + 30 * 100, HZ));
        assert!(udp.is_expired(1001 + 30 * 100, HZ));
        let mut answered = udp;
        let _ = answered.note(Reply, 0, 1000, HZ);
        assert!(!answered.is_expired(1001 + 30 * 100, HZ));
        assert!(answered.is_expired(1001 + 120 * 100, HZ));
    }

    #[test]
    fn what_is_cached_is_renewed_once_a_second() {
        let mut flow = flow(protocol::TCP);
        assert!(!flow.note(Forward, ACK, 1000 + 99, HZ));
        assert!(flow.note(Forward, ACK, 1000 + 100, HZ));
        assert!(!flow.note(Reply, ACK, 1000 + 101, HZ));
    }

    #[test]
    fn a_tick_of_another_cpu_that_is_behind_does_not_expire_a_flow() {
        assert!(!flow(protocol::UDP).is_expired(0, HZ));
    }
}
