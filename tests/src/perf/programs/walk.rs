//! The ways that connections take through the node.

use std::net::SocketAddr;

use anyhow::Result;
use lb_common::counter::{Counter, Outcome};

use super::{
    driver::{Ends, FRAME_LEN},
    world::{LOCAL, REMOTE, other_frontend},
};
use crate::programs::{Case, Family, Kernel, Packet, Program, Transport, Verdict};

/// A connection's way: the programs that meet it, and what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// What is done to the client's packets.
    pub(super) nat: &'static str,
    /// The program that the client's packets meet.
    pub(super) forward: Program,
    /// The program that the backend's packets meet.
    pub(super) reply: Program,
    /// The Service that is dialled.
    service: u8,
    /// Whether the client is a pod of the node.
    is_inside: bool,
    /// How many Services beside the usual ones clients dial in turn, instead of those; 0 is none.
    others: u32,
    pub(super) verdict: Verdict,
    pub(super) outcome: Outcome,
    pub(super) reply_verdict: Verdict,
    pub(super) reply_outcome: Outcome,
}

impl Walk {
    /// From outside to a remote backend.
    const fn snat(program: Program) -> Self {
        Self {
            nat: "DNAT + SNAT",
            forward: program,
            reply: program,
            service: REMOTE,
            is_inside: false,
            others: 0,
            verdict: Verdict::Out,
            outcome: Outcome::Redirected,
            reply_verdict: Verdict::Out,
            reply_outcome: Outcome::Redirected,
        }
    }

    /// From outside to a backend of the node, at XDP.
    pub(super) const XDP_DNAT: Self = Self {
        nat: "DNAT",
        forward: Program::Xdp,
        reply: Program::WireEgress,
        service: LOCAL,
        is_inside: false,
        others: 0,
        verdict: Verdict::Next,
        outcome: Outcome::ToStack,
        reply_verdict: Verdict::Next,
        reply_outcome: Outcome::Replied,
    };
    /// From outside to a remote backend, at XDP.
    pub(super) const XDP_SNAT: Self = Self::snat(Program::Xdp);
    /// From a pod to a remote backend.
    pub(super) const TCX_DNAT: Self = Self {
        forward: Program::PodIngress,
        reply: Program::PodEgress,
        service: REMOTE,
        is_inside: true,
        ..Self::XDP_DNAT
    };
    /// From outside to a remote backend, at tcx.
    pub(super) const TCX_SNAT: Self = Self::snat(Program::WireIngress);

    pub(super) const ALL: [Self; 4] = [
        Self::XDP_DNAT,
        Self::XDP_SNAT,
        Self::TCX_DNAT,
        Self::TCX_SNAT,
    ];

    /// Where the client's packets are met.
    pub(super) fn hook(&self) -> &'static str {
        if self.forward == Program::Xdp {
            "XDP"
        } else {
            "tcx"
        }
    }

    /// Where the backend's packets are met.
    pub(super) fn reply_hook(&self) -> &'static str {
        match self.reply {
            Program::Xdp => "XDP",
            Program::WireIngress => "tcx",
            _ => "tcx egress",
        }
    }

    /// Whether the backend sees an address of the node.
    pub(super) fn is_snat(&self) -> bool {
        self.service == REMOTE && !self.is_inside
    }

    /// How many connections have found the table full.
    pub(super) fn refused(&self, kernel: &Kernel) -> Result<u64> {
        count(kernel, self.forward, Outcome::TableFull)
    }

    /// From a pod to one of so many Services (IPv4).
    pub(super) fn to_others(count: u32) -> Self {
        Self {
            others: count,
            ..Self::TCX_DNAT
        }
    }

    /// What client `number` dials.
    pub(super) fn frontend(&self, family: Family, number: u32) -> SocketAddr {
        let case = case(family);
        if self.others > 0 {
            other_frontend(number % self.others)
        } else if self.is_inside {
            case.vip(self.service)
        } else {
            case.node_port(self.service)
        }
    }

    /// The client of flow `number`: a thousand ports of each address.
    pub(super) fn client(&self, family: Family, number: u32) -> SocketAddr {
        const PORTS: u32 = 1024;
        let port = 1024 + (number % PORTS) as u16;
        (family.client((number / PORTS) as u16), port).into()
    }
}

/// How often a program has counted something.
pub(super) fn count(kernel: &Kernel, program: Program, outcome: Outcome) -> Result<u64> {
    let hook = program.hook();
    let index = Counter { hook, outcome }.index() as usize;
    Ok(kernel.counters()?[index])
}

pub(super) fn case(family: Family) -> Case {
    Case {
        family,
        transport: Transport::Tcp,
    }
}

/// The frame of a packet, as long as all of them are.
pub(super) fn frame(packet: Packet) -> Vec<u8> {
    let len = packet.clone().payload(0).bytes().len();
    packet.payload(FRAME_LEN - len).bytes()
}

/// What the driver calls a family.
pub(super) fn family_number(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// The ends of a packet that differ between flows.
pub(super) fn ends(src: SocketAddr, dst: SocketAddr) -> Ends {
    let [src_port, dst_port] = [src, dst].map(|end| end.port().to_be_bytes());
    Ends {
        src: last_word(src),
        dst: last_word(dst),
        ports: u32::from_ne_bytes([src_port[0], src_port[1], dst_port[0], dst_port[1]]),
        pad: 0,
    }
}

fn last_word(end: SocketAddr) -> u32 {
    let bytes = match end {
        SocketAddr::V4(end) => end.ip().octets(),
        SocketAddr::V6(end) => {
            let [.., a, b, c, d] = end.ip().octets();
            [a, b, c, d]
        }
    };
    u32::from_ne_bytes(bytes)
}
