//! What the node remembers of its clients.

use std::collections::HashMap;

use lb_common::{
    Addr, AffinityKey, BackendRef, FlowKey, FragmentKey, Phase, Pin, PinKey, Tuple, flow::Direction,
};

use super::{
    Pieces,
    headers::{Reading, Shape},
};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A connection, found by the reply that is to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client's packets: from whom, to which frontend.
    pub client: Tuple,
    /// Who serves it.
    pub backend: BackendRef,
    /// The node's own address that the backend sees; unspecified if it sees the client's.
    pub snat: Addr,
    /// The backend has been heard.
    pub answered: bool,
    /// The client has said that it has no more to say.
    pub client_ended: bool,
    /// The backend has.
    pub backend_ended: bool,
    /// One of them has torn it down, and nobody has gone on since.
    pub reset: bool,
    /// The client's datagrams go to another backend; what this one still sends is an answer all the same.
    pub left: bool,
    /// Its backend is remembered by the client's tuple, too.
    pub pinned: bool,
    /// The client has gone on since the backend answered: no flood displaces it.
    pub confirmed: bool,
    /// Whether it goes across the client's bridge.
    pub across: Across,
    /// The acknowledgment number that would confirm it, and how far it may be off.
    pub awaited: (u32, u32),
}

/// Whether a connection goes across its client's bridge, where netfilter does not see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// It does not.
    No,
    /// It does.
    Yes,
    /// It may, from some second on: it was begun with another backend, or port, than it ought to.
    InTime,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Connections, by the reply and where it is undone.
    pub connections: HashMap<FlowKey, Connection>,
    /// Who serves a client's tuple, where the tables do not say.
    pub pins: HashMap<PinKey, Pin>,
    /// Who serves a client's next connection (item 49).
    pub bound: HashMap<AffinityKey, BackendRef>,
    /// Packets in pieces.
    pub pieces: HashMap<FragmentKey, Pieces>,
}

impl Connection {
    /// Nothing has been seen of the backend, nor of an end.
    pub(super) fn is_opening(&self) -> bool {
        !self.answered && !self.has_ended()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.client_ended || self.backend_ended || self.reset || self.left
    }

    /// Notes a packet of the backend's.
    pub(super) fn note_reply(&mut self, packet: &Reading<'_>) {
        self.note(Direction::Reply, packet.tcp_flags);
        if packet.tcp_flags & RST != 0 {
            // It proves nothing: its numbers are the client's own.
            return;
        }
        self.answered = true;
        let [sequence, _] = packet.tcp_numbers;
        // A later piece has no numbers.
        if !self.confirmed && packet.shape != Shape::Later {
            // Only whom the answer to his SYN has reached knows the one number that is right.
            self.awaited = if packet.tcp_flags & SYN != 0 {
                (sequence.wrapping_add(1), 0)
            } else {
                (sequence, 1 << 20)
            };
        }
    }

    /// Notes a packet of the client's, which may confirm that the answer has reached it.
    pub(super) fn note_forward(&mut self, packet: &Reading<'_>) {
        self.note(Direction::Forward, packet.tcp_flags);
        let (awaited, slack) = self.awaited;
        let [_, acknowledged] = packet.tcp_numbers;
        let off = acknowledged
            .wrapping_sub(awaited)
            .cast_signed()
            .unsigned_abs();
        let is_right = packet.tcp_flags & (SYN | RST | ACK) == ACK && off <= slack;
        self.confirmed |= self.answered && (!packet.is_tcp() || is_right);
    }

    fn note(&mut self, direction: Direction, tcp_flags: u8) {
        if tcp_flags & RST != 0 {
            self.reset = true;
        } else if tcp_flags & SYN == 0 {
            // Whoever goes on has not accepted the RST.
            self.reset = false;
        }
        let is_fin = tcp_flags & FIN != 0;
        match direction {
            Direction::Forward => self.client_ended |= is_fin,
            Direction::Reply => self.backend_ended |= is_fin,
        }
    }

    /// The client begins anew on the same ports.
    pub(super) fn begin_anew(&mut self) {
        self.answered = false;
        self.client_ended = false;
        self.backend_ended = false;
        self.reset = false;
    }

    /// Whether another client's SYN may take its place: both ends have closed it.
    pub(super) fn gives_way(&self, is_syn: bool) -> bool {
        is_syn && self.client_ended && self.backend_ended && !self.reset
    }

    /// The phase that it is in.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.left {
            Phase::Left
        } else if self.reset {
            Phase::Reset
        } else if self.client_ended && self.backend_ended {
            Phase::Closed
        } else if self.client_ended || self.backend_ended {
            Phase::Closing
        } else if self.answered {
            Phase::Established
        } else {
            Phase::Opening
        }
    }
}
