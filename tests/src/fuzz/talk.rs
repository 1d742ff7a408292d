//! Makes an episode up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use lb_common::{protocol, wire::tcp::SYN};

use super::{
    conversation::{Conversation, backend_flags, client_flags},
    episode::{Constants, Episode, Step},
    garbage, packets,
    rig::Met,
    services::{self, PORTS, Served, ServedPod, TARGETS},
    shapes,
};
use crate::programs::{Family, Program, Verdict};

/// Conversations that are kept in mind.
const CONVERSATIONS: usize = 24;
/// Frames that are.
const FRAMES: usize = 16;

/// Who says what next.
pub(super) struct Talk {
    rng: Rng,
    services: Vec<Served>,
    /// Whether what is served changes often.
    is_restless: bool,
    conversations: Vec<Conversation>,
    frames: Vec<(Program, Vec<u8>)>,
    /// The conversation whose client has spoken last.
    speaker: Option<usize>,
    /// What comes next: what XDP has left to tc, and pieces of a packet.
    waiting: Vec<(Program, Vec<u8>)>,
    /// Packets as they were translated, and where one that answers comes by.
    translated: Vec<(Program, Vec<u8>)>,
}

impl Talk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            services: Vec::new(),
            is_restless: false,
            conversations: Vec::new(),
            frames: Vec::new(),
            speaker: None,
            waiting: Vec::new(),
            translated: Vec::new(),
        }
    }

    /// What is served at first.
    pub(super) fn episode(&mut self, constants: Constants) -> Episode {
        let count = self.rng.u8(1..5);
        self.is_restless = self.rng.u8(..8) == 0;
        self.services = (1..=count)
            .map(|number| Served::random(&mut self.rng, number))
            .collect();
        let known = ["10.96.0.0/16", "fd00:10:96::/112"].map(|net| net.parse().expect("a network"));
        Episode {
            constants,
            nets: if self.rng.u8(..3) == 0 {
                Vec::new()
            } else {
                known.to_vec()
            },
            services: self.services.clone(),
            steps: Vec::new(),
        }
    }

    /// What happens next.
    pub(super) fn next(&mut self) -> Step {
        self.speaker = None;
        if self.rng.u8(..8) != 0
            && let Some((program, frame)) = self.waiting.pop()
        {
            return Step::packet(program, frame);
        }
        let (program, frame) = match self.rng.u16(..1000) {
            0..2 => return self.change(),
            2..10 if self.is_restless => return self.change(),
            10 => return Step::Evict,
            11 => return Step::Leave,
            2..280 => self.begin(),
            280..560 => self.go_on(),
            560..770 => self.reply(),
            770..810 => self.complain(),
            810..830 => self.cut(),
            830..850 => self.extended(),
            850..880 => self.ask(),
            880..900 => self.stranger(),
            900..910 => (self.any_program(), garbage::noise(&mut self.rng)),
            910..940 => self.misplaced(),
            _ => self.spoilt(),
        };
        if self.frames.len() == FRAMES {
            self.frames.remove(0);
        }
        self.frames.push((program, frame.clone()));
        let mut step = Step::packet(program, frame);
        if let Step::Packet {
            summed,
            returns,
            frame: bytes,
            ..
        } = &mut step
        {
            *returns = program == Program::WireEgress && self.rng.u8(..4) == 0;
            // A device sums what is right. What leaves at once with a lower hop limit has no sum that
            // makes up for it in IPv6, and needs none.
            let may_stay = bytes.get(12) == Some(&8) || program != Program::WireIngress;
            *summed =
                self.rng.u8(..4) == 0 && may_stay && packets::are_sums_right(bytes) == Some(true);
        }
        step
    }

    /// Learns what became of the last packet.
    pub(super) fn learn(&mut self, step: &Step, met: Option<Met>) {
        let (Step::Packet { program, frame, .. }, Some(met)) = (step, met) else {
            return;
        };
        let known = Program::ALL
            .into_iter()
            .find(|known| known.name() == program);
        let Some(program) = known else { return };
        if met.frame == *frame {
            let is_left = program == Program::Xdp && met.verdict == Verdict::Next;
            if is_left && self.rng.u8(..4) != 0 {
                self.waiting.push((Program::WireIngress, met.frame));
            }
            return;
        }
        if self.translated.len() == FRAMES {
            self.translated.remove(0);
        }
        let back = self.way_back(program, met.verdict);
        self.translated.push((back, met.frame.clone()));
        if let (Some(speaker), Some(ends)) = (self.speaker, ends(&met.frame)) {
            self.conversations[speaker].learn(program, met.verdict, ends);
        }
    }

    /// Where a packet comes by that answers one which a program has changed.
    fn way_back(&mut self, program: Program, verdict: Verdict) -> Program {
        match (program, verdict) {
            (Program::PodIngress, Verdict::Out) | (Program::PodEgress, _) => Program::PodIngress,
            (Program::PodIngress, _) => Program::PodEgress,
            (Program::Xdp | Program::WireIngress, Verdict::Next) => Program::WireEgress,
            (Program::WireEgress, _) => Program::WireIngress,
            _ => {
                let programs = [Program::WireIngress, Program::Tunnel];
                self.rng.choice(programs).unwrap_or(Program::WireIngress)
            }
        }
    }

    /// Somebody on the way tells what became of a packet.
    fn complain(&mut self) -> (Program, Vec<u8>) {
        let Some((program, frame)) = self.rng.choice(&self.translated).cloned() else {
            return self.begin();
        };
        let family = self.family();
        let rng = &mut self.rng;
        let routers = [
            family.node(2),
            family.client(7),
            family.pod(2, 11),
            family.pod(1, 12),
        ];
        let router = rng.choice(routers).unwrap_or_else(|| family.node(2));
        match shapes::error(rng, &frame, router) {
            Some(error) => (program, error),
            None => self.begin(),
        }
    }

    /// A packet in pieces.
    fn cut(&mut self) -> (Program, Vec<u8>) {
        let (program, frame) = match self.rng.u8(..3) {
            0 => self.begin(),
            1 => self.go_on(),
            _ => self.reply(),
        };
        let id = self.rng.u8(..4);
        let mut pieces = shapes::pieces(&mut self.rng, &frame, id);
        if pieces.is_empty() {
            return (program, frame);
        }
        let first = pieces.remove(0);
        let later = pieces.into_iter().rev().map(|piece| (program, piece));
        self.waiting.extend(later);
        (program, first)
    }

    /// A packet with extension headers, if it is IPv6.
    fn extended(&mut self) -> (Program, Vec<u8>) {
        let (program, mut frame) = match self.rng.u8(..4) {
            0 => self.begin(),
            1 => self.go_on(),
            2 => self.ask(),
            _ => self.reply(),
        };
        shapes::extend(&mut self.rng, &mut frame);
        (program, frame)
    }

    fn any_program(&mut self) -> Program {
        self.rng.choice(Program::ALL).unwrap_or(Program::Xdp)
    }

    fn family(&mut self) -> Family {
        self.rng.choice(Family::ALL).unwrap_or(Family::V4)
    }

    /// Somebody dials.
    fn begin(&mut self) -> (Program, Vec<u8>) {
        let family = self.family();
        let is_inside = self.rng.bool();
        let client = self.client(family, is_inside);
        let (protocol, dialled) = self.dialled(family);
        let mut conversation =
            Conversation::new(&mut self.rng, is_inside, protocol, client, dialled);
        let (program, plan) = conversation.forward(&mut self.rng, SYN);
        if self.conversations.len() < CONVERSATIONS {
            self.speaker = Some(self.conversations.len());
            self.conversations.push(conversation);
        } else {
            let index = self.rng.usize(..CONVERSATIONS);
            self.speaker = Some(index);
            self.conversations[index] = conversation;
        }
        (program, plan.frame())
    }

    /// Few clients with few ports, so that they get into each other's way.
    fn client(&mut self, family: Family, is_inside: bool) -> SocketAddr {
        let rng = &mut self.rng;
        let addr = match (is_inside, rng.u8(..20)) {
            (true, 0..10) => family.pod(1, rng.u8(11..17)),
            (true, _) => family.pod(1, rng.u8(97..100)),
            (false, 0) => family.pod(2, rng.u8(11..14)),
            (false, 1) => family.node(rng.u8(1..4)),
            (false, 2) => strange(rng, family),
            (false, _) => family.client(rng.u16(1..6)),
        };
        let port = match rng.u8(..10) {
            0..4 => rng.u16(40_000..40_006),
            4..8 => rng.u16(61_000..61_032),
            8 => rng.choice(TARGETS).unwrap_or(80),
            _ => rng.u16(..),
        };
        (addr, port).into()
    }

    /// Mostly what somebody serves.
    fn dialled(&mut self, family: Family) -> (u8, SocketAddr) {
        let rng = &mut self.rng;
        let any = || -> (u8, SocketAddr) { (protocol::TCP, (family.vip(200), 80).into()) };
        let Some(service) = rng.choice(&self.services) else {
            return any();
        };
        let Some(port) = rng.choice(&service.ports) else {
            return any();
        };
        let number = service.number;
        let at_vip = |addr: IpAddr| SocketAddr::new(addr, port.port);
        let dialled = match rng.u8(..24) {
            0..9 => at_vip(family.vip(number)),
            9..13 => at_vip(services::external(family, number)),
            13..16 => at_vip(services::balanced(family, number)),
            16..20 => (family.node(1), port.node_port).into(),
            // A port that nobody serves, an address that nobody has, and backends themselves.
            20 => (family.vip(number), rng.choice(TARGETS).unwrap_or(8000)).into(),
            21 => (family.vip(rng.u8(..)), rng.choice(PORTS).unwrap_or(80)).into(),
            22 => match rng.choice(&service.pods) {
                Some(pod) => (pod.addr(family), port.target).into(),
                None => at_vip(family.node(1)),
            },
            _ => (strange(rng, family), port.port).into(),
        };
        (port.protocol, dialled)
    }

    /// A client goes on.
    fn go_on(&mut self) -> (Program, Vec<u8>) {
        if self.conversations.is_empty() {
            return self.begin();
        }
        let index = self.rng.usize(..self.conversations.len());
        self.speaker = Some(index);
        let flags = client_flags(&mut self.rng);
        let (program, plan) = self.conversations[index].forward(&mut self.rng, flags);
        (program, plan.frame())
    }

    /// A backend answers.
    fn reply(&mut self) -> (Program, Vec<u8>) {
        let seen: Vec<usize> = (0..self.conversations.len())
            .filter(|index| self.conversations[*index].is_seen())
            .collect();
        let Some(index) = self.rng.choice(seen) else {
            return self.begin();
        };
        let flags = backend_flags(&mut self.rng);
        match self.conversations[index].reply(&mut self.rng, flags) {
            Some((program, plan)) => (program, plan.frame()),
            None => self.begin(),
        }
    }

    /// Somebody sends an ICMP message.
    fn ask(&mut self) -> (Program, Vec<u8>) {
        let family = self.family();
        let is_inside = self.rng.bool();
        let src = self.client(family, is_inside).ip();
        let (_, dialled) = self.dialled(family);
        let rng = &mut self.rng;
        let request = if src.is_ipv4() { 8 } else { 128 };
        let kind = rng
            .choice([request, request, request, 0, 129, 3, 1, 13])
            .unwrap_or(request);
        let code = if rng.u8(..5) == 0 { rng.u8(..4) } else { 0 };
        let rest: Vec<u8> = (0..rng.usize(4..40)).map(|_| rng.u8(..)).collect();
        let frame = packets::icmp(src, dialled.ip(), kind, code, &rest);
        (self.entrance(is_inside), frame)
    }

    /// A packet of a protocol that nobody knows.
    fn stranger(&mut self) -> (Program, Vec<u8>) {
        let family = self.family();
        let is_inside = self.rng.bool();
        let src = self.client(family, is_inside).ip();
        let (_, dialled) = self.dialled(family);
        let rng = &mut self.rng;
        let number = rng
            .choice([1, 2, 4, 41, 47, 50, 58, 89, 112, 255])
            .unwrap_or(47);
        let payload: Vec<u8> = (0..rng.usize(..40)).map(|_| rng.u8(..)).collect();
        let options = if rng.u8(..6) == 0 { 2 } else { 0 };
        let frame = packets::packet(src, dialled.ip(), number, 64, 0, options, &payload);
        (self.entrance(is_inside), frame)
    }

    fn entrance(&mut self, is_inside: bool) -> Program {
        if is_inside {
            Program::PodIngress
        } else {
            self.rng.choice(Program::WIRE).unwrap_or(Program::Xdp)
        }
    }

    fn earlier(&mut self) -> (Program, Vec<u8>) {
        match self.rng.choice(&self.frames) {
            Some(frame) => frame.clone(),
            None => self.begin(),
        }
    }

    /// A frame that has been met, at another program.
    fn misplaced(&mut self) -> (Program, Vec<u8>) {
        let (_, frame) = self.earlier();
        (self.any_program(), frame)
    }

    /// A frame that has been met, spoilt.
    fn spoilt(&mut self) -> (Program, Vec<u8>) {
        let (program, mut frame) = self.earlier();
        garbage::spoil(&mut self.rng, &mut frame);
        (program, frame)
    }

    /// An endpoint comes, goes, or changes; or a whole Service does.
    fn change(&mut self) -> Step {
        let rng = &mut self.rng;
        match rng.u8(..8) {
            0 if self.services.len() > 1 => {
                self.services.remove(rng.usize(..self.services.len()));
            }
            1 => {
                let used = |number: u8| self.services.iter().any(|s| s.number == number);
                if let Some(number) = (1..6).find(|number| !used(*number)) {
                    self.services.push(Served::random(rng, number));
                }
            }
            _ => {
                let index = rng.usize(..self.services.len());
                let pods = &mut self.services[index].pods;
                let pod = ServedPod::random(rng);
                match (rng.u8(..3), pods.len()) {
                    (0, _) | (_, 0) => pods.push(pod),
                    (1, len) => {
                        pods.remove(rng.usize(..len));
                    }
                    (_, len) => {
                        let changed = &mut pods[rng.usize(..len)];
                        (changed.ready, changed.terminating) = (pod.ready, pod.terminating);
                    }
                }
            }
        }
        Step::Serve(self.services.clone())
    }
}

/// An address that no client should have, or that nobody knows.
fn strange(rng: &mut Rng, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let addresses = [
                [127, 0, 0, 1],
                [0, 0, 0, 1],
                [224, 0, 0, 251],
                [255, 255, 255, 255],
                [240, 0, 0, 1],
                [10, 96, 0, 1],
                [192, 0, 2, 7],
            ];
            Ipv4Addr::from(rng.choice(addresses).unwrap_or_default()).into()
        }
        Family::V6 => {
            let mapped = Ipv4Addr::new(10, 96, 0, 1).to_ipv6_mapped();
            let addresses = [
                Ipv6Addr::LOCALHOST,
                Ipv6Addr::UNSPECIFIED,
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7),
                mapped,
            ];
            rng.choice(addresses).unwrap_or(Ipv6Addr::LOCALHOST).into()
        }
    }
}

/// Source and destination of a frame with ports.
pub(super) fn ends(frame: &[u8]) -> Option<[SocketAddr; 2]> {
    let half = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (src, dst, l4): (IpAddr, IpAddr, usize) = match frame.get(12..14)? {
        [8, 0] => {
            let addr = |at: usize| <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok();
            let len = usize::from(frame.get(14)? & 15) * 4;
            (addr(26)?.into(), addr(30)?.into(), 14 + len)
        }
        [0x86, 0xdd] => {
            let addr = |at: usize| <[u8; 16]>::try_from(frame.get(at..at + 16)?).ok();
            (addr(22)?.into(), addr(38)?.into(), 54)
        }
        _ => return None,
    };
    Some([(src, half(l4)?).into(), (dst, half(l4 + 2)?).into()])
}
