//! One record a connection, keyed by the reply that it undoes.

use bytemuck::{Pod, Zeroable};

use crate::{
    Addr, BackendRef, Protocol, Tuple, protocol,
    wire::tcp::{ACK, FIN, RST, SYN},
};

mod hop;
mod mark;
mod now;
pub mod opening;
pub mod opening_pins;
mod phase;
mod pin;
#[cfg(test)]
mod properties;
mod reserved;
mod route;

pub use self::{
    hop::Hop,
    mark::{Mark, Marked, Marks},
    now::Now,
    phase::Phase,
    pin::{Pin, PinKey},
    route::CachedRoute,
};

/// Where a reply is undone; part of [`FlowKey`], so that a reply is not caught anywhere else.
pub mod edge {
    /// Ingress of an uplink or a tunnel: replies to an SNAT address.
    pub const WIRE_INGRESS: u32 = u32::MAX;
    /// Egress of an uplink: replies of a local backend to a client outside.
    pub const WIRE_EGRESS: u32 = u32::MAX - 1;
    // Any other value is the interface index of the client pod's veth.
}

/// Key of `FLOWS` and `OPENING`: the reply's 5-tuple and where it is undone. Ports in host byte order.
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

/// How far the acknowledgment number of a client's segment may be from the newest sequence number
/// of the backend, either way, for the segment to confirm a flow.
///
/// What is in flight is behind, what has been delivered since the segment that was seen is ahead. A
/// flow with more in flight than that is confirmed as soon as it pauses.
const ACK_SLACK: u32 = 1 << 20;

/// Values of [`Flow::confirmed`].
pub mod confirmed {
    /// The client has not gone on since the backend answered: the record is in `OPENING`.
    pub const NO: u16 = 0;
    /// It has: the record is in `FLOWS`.
    pub const YES: u16 = 1;
    /// It has, and `FLOWS` was full: the record is in `OPENING`.
    pub const REFUSED: u16 = 2;
}

/// Which way a packet of a flow goes; a bit of [`Flow::stale`].
#[repr(u16)]
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
    /// Its client has gone to another backend.
    pub(super) const LEFT: u8 = 8;
}

// `next_ends` takes these bits from a segment's flags as they stand there.
const _: () = assert!(ends::FIN_FORWARD == FIN && ends::FIN_REPLY == FIN << 1);
const _: () = assert!(ends::RST == RST && RST == SYN << 1);

/// Value of `FLOWS` and `OPENING`: one connection. Ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Flow {
    /// Nothing: what makes this another layout.
    #[cfg(feature = "lab-layout")]
    pub lab: u64,
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
    /// Kernel tick of the last packet, to within a second; a few seconds where the client's go by a
    /// [`Mark`].
    pub seen_tick: u64,
    /// Kernel tick at which the flow has been idle for longer than its phase allows.
    pub expires_tick: u64,
    /// Next hop towards the backend.
    pub forward: Hop,
    /// Next hop towards the client.
    pub reply: Hop,
    /// 1 once the backend has answered, and not by a RST.
    pub answered: u8,
    /// What has been seen of the connection's end.
    pub ends: u8,
    /// IP protocol number.
    pub protocol: Protocol,
    /// 1 once a program has pinned this flow.
    pub pinned: u8,
    /// Directions whose next hop is to be renewed: 1, forward; 2, reply.
    pub stale: u16,
    /// Whether the client has gone on since then; a constant of [`confirmed`].
    pub confirmed: u16,
    /// The acknowledgment number that would confirm the flow: of the backend's last segment before
    /// that.
    pub ack: u32,
    /// How far it may be off, either way.
    pub ack_slack: u32,
}

const _: () = assert!(size_of::<Flow>() == 120 + 8 * cfg!(feature = "lab-layout") as usize);

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
        self.confirmed = confirmed::NO;
        // Beside each other, two zeros known to the compiler become a loop over bytes.
        self.ack = core::hint::black_box(0);
        self.ack_slack = 0;
    }

    /// Makes this a copy of a record that is confirmed now.
    #[inline(always)]
    pub fn confirm(&mut self, opening: &Self) {
        self.copy(opening);
        let marked = opening.phase().marked_ticks(opening.protocol);
        self.expires_tick = opening.expires_tick.wrapping_add(marked);
        self.confirmed = confirmed::YES;
    }

    /// Makes this a copy of another record. Word by word: else it is a loop over bytes in the kernel.
    #[inline(always)]
    pub fn copy(&mut self, other: &Self) {
        self.client = other.client.by_words();
        self.frontend = other.frontend.by_words();
        self.snat = other.snat.by_words();
        self.client_port = other.client_port;
        self.frontend_port = other.frontend_port;
        self.backend = other.backend;
        self.seen_tick = other.seen_tick;
        self.expires_tick = other.expires_tick;
        self.forward = other.forward.by_words();
        self.reply = other.reply.by_words();
        self.answered = other.answered;
        self.ends = other.ends;
        self.protocol = other.protocol;
        self.pinned = other.pinned;
        self.stale = other.stale;
        self.confirmed = other.confirmed;
        self.ack = other.ack;
        self.ack_slack = other.ack_slack;
    }

    /// Whether a packet with this forward tuple belongs to this connection.
    ///
    /// One comparison at the end: the verifier follows every branch on its own.
    #[inline(always)]
    #[must_use]
    pub fn is_owned_by(&self, tuple: &Tuple) -> bool {
        let ports = u32::from(self.client_port ^ tuple.src_port)
            | u32::from(self.frontend_port ^ tuple.dst_port);
        let clients = self.client.differs_from(tuple.src);
        let frontends = self.frontend.differs_from(tuple.dst);
        ports | clients | frontends == 0
    }

    /// Whether a packet for which no record was found goes on by this one: it is its flow's after all. A
    /// SYN that meets more than an opening flow begins another one.
    #[inline(always)]
    #[must_use]
    pub fn admits(&self, tuple: &Tuple, is_syn: bool) -> bool {
        (self.is_opening() || !is_syn) && !self.is_left() && self.is_owned_by(tuple)
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

    /// Whether its last packet, or what changed it, came after those of `other`.
    #[must_use]
    pub fn is_seen_after(&self, other: &Self) -> bool {
        other.seen_tick.wrapping_sub(self.seen_tick).cast_signed() < 0
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

    /// Whether this record may be displaced where every other choice is taken, too: its client has
    /// not gone on since the backend answered, for longer than a handshake in one data centre takes
    /// (1/64 s). Else spoofed SYNs would hold all SNAT ports of a backend for two minutes each.
    #[inline(always)]
    #[must_use]
    pub fn is_displaceable(&self, now: Now) -> bool {
        let ticks = u64::from(now.ticks_per_second / 64);
        self.confirmed == confirmed::NO && now.is_after(self.seen_tick.wrapping_add(ticks))
    }

    /// Notes a packet. True once a second at most for each direction: then what the record caches
    /// for it is to be renewed.
    #[inline(always)]
    pub fn note(&mut self, direction: Direction, tcp_flags: u8, now: Now) -> bool {
        let ends = next_ends(self.ends, direction, tcp_flags);
        // A RST is no answer: it takes its numbers from the segment that it refuses, so that
        // whoever sent that would know what confirms the flow.
        let is_answer = direction == Direction::Reply && tcp_flags & RST == 0;
        let answered = self.answered | u8::from(is_answer);
        let due = !self.seen_within_a_second(now);
        if due {
            // For both: in a conversation slower than that, one side always comes first.
            self.stale = Direction::Forward as u16 | Direction::Reply as u16;
        }
        if due || ends != self.ends || answered != self.answered {
            (self.ends, self.answered) = (ends, answered);
            self.renew(now);
        }
        let stale = self.stale & direction as u16 != 0;
        if stale {
            self.stale &= !(direction as u16);
        }
        stale
    }

    /// Notes which acknowledgment number would confirm the flow, after a segment of the backend.
    ///
    /// After a SYN it is a single one, which only he knows to whom the SYN went: neither a spoofed
    /// SYN nor a blind ACK after it makes a record that stays.
    #[inline(always)]
    pub fn expect_ack(&mut self, tcp_flags: u8, sequence: u32) {
        if self.confirmed == confirmed::YES || tcp_flags & RST != 0 {
            return;
        }
        let syn = u32::from(tcp_flags & SYN) / u32::from(SYN);
        self.ack = sequence.wrapping_add(syn);
        self.ack_slack = syn.wrapping_sub(1) & ACK_SLACK;
    }

    /// Whether a client's packet confirms the flow: the backend has answered, and the client has got
    /// the answer. `is_due` says that a second has passed, and it may be tried again to promote it.
    #[inline(always)]
    #[must_use]
    pub fn is_confirmed_by(&self, tcp_flags: u8, ack: u32, is_due: bool) -> bool {
        if self.confirmed == confirmed::YES || self.answered == 0 {
            return false;
        }
        if self.confirmed == confirmed::REFUSED && !is_due {
            return false;
        }
        if self.protocol != protocol::TCP {
            return true;
        }
        let off = ack.wrapping_sub(self.ack).wrapping_add(self.ack_slack);
        tcp_flags & (SYN | RST | ACK) == ACK && off <= 2 * self.ack_slack
    }

    /// Its client goes to another backend, and does not come back to this record. What its backend has
    /// sent until then, or is sending, still comes from the frontend, for ten seconds.
    #[inline(always)]
    pub fn leave(&mut self, now: Now) {
        self.renew(now);
        self.ends |= ends::LEFT;
        self.expires_tick = now.after_s(Phase::Left.lifetime_s(self.protocol));
    }

    /// Whether its client goes to another backend.
    #[inline(always)]
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.ends & ends::LEFT != 0
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
        // A backend that goes on sending does not keep it.
        if !self.is_left() {
            let phase = Phase::of(self.ends, self.answered);
            let may_be_marked = self.confirmed == confirmed::YES;
            let marked = phase.marked_ticks(self.protocol) * u64::from(may_be_marked);
            let expires_tick = now.after_s(phase.lifetime_s(self.protocol));
            self.expires_tick = expires_tick.wrapping_add(marked);
        }
    }

    #[inline(always)]
    fn seen_within_a_second(&self, now: Now) -> bool {
        !now.is_after(
            self.seen_tick
                .wrapping_add(u64::from(now.ticks_per_second) - 1),
        )
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

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

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
        assert!(!answered.is_expired(at(1000 + 120 * 100)));
        assert!(answered.is_expired(at(1001 + 120 * 100)));
    }

    #[test]
    fn datagrams_that_go_by_a_mark_make_no_idle_time_shorter() {
        let mut answered = flow(protocol::UDP);
        let _ = answered.note(Reply, 0, at(1000));
        let mut confirmed = answered;
        confirmed.confirm(&answered);
        // Its client's last datagrams may have gone by a mark.
        assert!(!confirmed.is_expired(at(1000 + 120 * 100 + Mark::LASTS)));
        assert!(confirmed.is_expired(at(1001 + 120 * 100 + Mark::LASTS)));
        let _ = confirmed.note(Forward, 0, at(1100));
        assert!(!confirmed.is_expired(at(1100 + 120 * 100 + Mark::LASTS)));
        assert!(confirmed.is_expired(at(1101 + 120 * 100 + Mark::LASTS)));
    }

    #[test]
    fn a_flow_that_its_client_has_left_expires_after_ten_seconds_whatever_its_backend_sends() {
        let mut left = flow(protocol::UDP);
        left.leave(at(1000));
        assert_eq!(left.phase(), Phase::Left);
        for second in 1..=10 {
            let now = at(1000 + second * 100);
            let _ = left.note(Reply, 0, now);
            assert!(!left.is_expired(now), "after {second} s");
        }
        assert!(left.is_expired(at(2001)));
        assert!(!left.admits(&left.tuple(), false));
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
