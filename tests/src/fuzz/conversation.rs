//! What clients and backends say to each other.

use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use lb_common::{
    protocol,
    wire::tcp::{ACK, FIN, RST, SYN},
};

use super::packets::Plan;
use crate::programs::{Program, Verdict};

/// A client, and what it dials.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    /// Whether the client is a pod.
    pub(super) is_inside: bool,
    pub(super) protocol: u8,
    pub(super) client: SocketAddr,
    pub(super) dialled: SocketAddr,
    /// How the last packet of the client's left: what the backend saw, and where its reply comes
    /// by.
    seen: Option<Seen>,
    client_sequence: u32,
    backend_sequence: u32,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    source: SocketAddr,
    backend: SocketAddr,
    by: Program,
}

impl Conversation {
    pub(super) fn new(
        rng: &mut Rng,
        is_inside: bool,
        protocol: u8,
        client: SocketAddr,
        dialled: SocketAddr,
    ) -> Self {
        Self {
            is_inside,
            protocol,
            client,
            dialled,
            seen: None,
            client_sequence: rng.u32(..),
            backend_sequence: rng.u32(..),
        }
    }

    /// A packet of the client's. `flags` do not concern datagrams.
    pub(super) fn forward(&mut self, rng: &mut Rng, flags: u8) -> (Program, Plan) {
        let program = if self.is_inside {
            Program::PodIngress
        } else {
            rng.choice(Program::WIRE).unwrap_or(Program::Xdp)
        };
        let plan = Plan::new(self.protocol, flags, self.client, self.dialled);
        let plan = Plan {
            sequence: self.client_sequence,
            acknowledged: self.backend_sequence,
            ..varied(rng, plan)
        };
        self.client_sequence = self.client_sequence.wrapping_add(counted(&plan));
        (program, plan)
    }

    /// A reply of the backend's, if it has seen anything.
    pub(super) fn reply(&mut self, rng: &mut Rng, flags: u8) -> Option<(Program, Plan)> {
        let seen = self.seen?;
        let program = match seen.by {
            // Both programs of the wire, and either device.
            Program::Xdp => rng.choice([Program::Xdp, Program::WireIngress])?,
            other => other,
        };
        let plan = Plan::new(self.protocol, flags, seen.backend, seen.source);
        let plan = Plan {
            sequence: self.backend_sequence,
            acknowledged: self.client_sequence,
            ..varied(rng, plan)
        };
        self.backend_sequence = self.backend_sequence.wrapping_add(counted(&plan));
        Some((program, plan))
    }

    /// Whether a backend has seen anything of it.
    pub(super) fn is_seen(&self) -> bool {
        self.seen.is_some()
    }

    /// Learns what became of a packet of the client's.
    pub(super) fn learn(&mut self, at: Program, verdict: Verdict, ends: [SocketAddr; 2]) {
        let [source, backend] = ends;
        if backend == self.dialled {
            return;
        }
        let by = match (at, verdict) {
            (Program::PodIngress, Verdict::Out) => Program::PodIngress,
            (Program::PodIngress, _) => Program::PodEgress,
            (_, Verdict::Out) if is_behind_the_tunnel(backend.ip()) => Program::Tunnel,
            (_, Verdict::Out) => Program::Xdp,
            _ => Program::WireEgress,
        };
        self.seen = Some(Seen {
            source,
            backend,
            by,
        });
    }
}

fn is_behind_the_tunnel(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.octets()[..3] == [10, 244, 4],
        IpAddr::V6(v6) => v6.segments()[..4] == [0xfd00, 0x10, 0x244, 4],
    }
}

/// How far a segment takes its sender's numbers.
fn counted(plan: &Plan) -> u32 {
    let marks = u32::from(plan.flags & SYN != 0) + u32::from(plan.flags & FIN != 0);
    plan.payload as u32 + marks
}

/// What hosts do differently, each now and then.
fn varied(rng: &mut Rng, mut plan: Plan) -> Plan {
    match rng.u8(..40) {
        0 => plan.ttl = rng.u8(..3),
        1 => plan.ttl = 255,
        2..5 => plan.payload = rng.usize(..300),
        5 => plan.payload = rng.usize(1200..1700),
        6..8 => plan.payload = 0,
        8..10 => plan.options = rng.u8(1..11),
        10..14 => plan.unsummed = plan.protocol == protocol::UDP,
        _ => {}
    }
    plan.whole = rng.bool();
    plan
}

/// Flags of a client's next segment.
pub(super) fn client_flags(rng: &mut Rng) -> u8 {
    match rng.u8(..24) {
        0..3 => SYN,
        3..5 => FIN | ACK,
        5 => RST,
        6 => RST | ACK,
        7 => rng.u8(..),
        _ => ACK,
    }
}

/// Flags of a backend's.
pub(super) fn backend_flags(rng: &mut Rng) -> u8 {
    match rng.u8(..24) {
        0..8 => SYN | ACK,
        8..11 => FIN | ACK,
        11 => RST | ACK,
        12 => rng.u8(..),
        _ => ACK,
    }
}
