//! What the programs ought to do with a packet, in plain words.
//!
//! A second telling of the whole translation, to hold the programs against: it is written for
//! reading, has its own parser, computes checksums in full, and builds frames anew. With
//! `lb-common` it shares the types of the maps, and those choices whose exact value is a convention:
//! the flow's hash, the slot that it selects, and the source port that is tried first.
//!
//! Where the programs choose by chance or by the time, any choice that is allowed is right: the
//! model is told which one it was ([`Chance`]), and goes on from there.

mod answers;
mod changes;
mod clients;
mod frame;
mod headers;
mod memory;
mod opening;
mod pieces;
mod pins;
mod replies;
mod routes;
mod sums;
mod tables;

use lb_common::{
    Addr, DatapathConfig, FlowKey, FrontendKey, Pin, PinKey, counter::Outcome, rewrite::Endpoint,
};

use self::{
    answers::Message,
    clients::Site,
    frame::Ends,
    headers::{Look, Reading},
};
pub use self::{
    memory::{Across, Connection, Memory},
    pieces::Pieces,
    routes::{Devices, Way},
    tables::{Tables, Vip},
};
use crate::programs::{Program, Verdict};

/// What the programs chose where they were free to.
pub trait Chance {
    /// Whether they have counted this outcome of the packet.
    fn has_counted(&self, outcome: Outcome) -> bool;
    /// The pin of a client's tuple, as they have it now.
    fn pin(&self, key: &PinKey) -> Option<Pin>;
    /// Whether they have given the packet other MAC addresses: tc leaves that to the kernel once a second.
    fn has_written_macs(&self) -> bool;
    /// Whether they have a record of this key, and it is a connection of this client.
    fn has(&self, key: &FlowKey, client: &PinKey) -> bool;
}

/// What is to become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What is to happen.
    pub verdict: Verdict,
    /// The frame; nothing if it is dropped, since nobody sees it then.
    pub frame: Option<Vec<u8>>,
    /// Whether it carries XDP's mark for tc.
    pub marked: bool,
    /// What is counted.
    pub counted: Vec<Outcome>,
    /// What the packet was, in a word.
    pub shape: &'static str,
}

/// A node: what it was told to serve, and what it remembers of its clients.
pub struct Model {
    /// Constants of the programs.
    pub config: DatapathConfig,
    /// Its devices.
    pub devices: Devices,
    /// Whether the pods' device is a bridge whose packets are hidden from netfilter.
    pub hands_across: bool,
    /// What it was told.
    pub tables: Tables,
    /// What it remembers.
    pub memory: Memory,
}

/// What becomes of a packet, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is no Service's business.
    Untouched,
    /// It is left to a later hook, or dropped where there is none.
    Left,
    /// It is dropped, for this reason.
    Dropped(Outcome),
    /// Its sender is told that nobody serves it.
    Refused,
    /// Its sender is told this about it.
    Told(Message, Outcome),
    /// Its sender is told that the connection is over.
    Reset,
    /// It is an echo request, and is answered.
    Echoed,
    /// Its ends change.
    Changed(Change),
}

/// What changes in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    src: Option<Endpoint>,
    dst: Option<Endpoint>,
    next: Next,
    counted: Outcome,
}

/// Where a changed packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// On its way.
    On,
    /// Out by a device at once: a hop of its own.
    Out(Way),
    /// Back to where it came from.
    Back,
    /// To another port of the client's bridge, as if that had never let it up.
    Across,
}

/// A packet at a program.
struct Meeting<'a> {
    program: Program,
    packet: &'a Reading<'a>,
    chance: &'a dyn Chance,
    counted: Vec<Outcome>,
}

impl Model {
    /// A node that serves nothing and remembers nothing.
    #[must_use]
    pub fn new(config: DatapathConfig, devices: Devices) -> Self {
        Self {
            config,
            devices,
            hands_across: false,
            tables: Tables::default(),
            memory: Memory::default(),
        }
    }

    /// What `program` makes of `frame`, and what the node remembers of it. `returns` says that the
    /// packet came in by the same device.
    pub fn meet(
        &mut self,
        program: Program,
        frame: &[u8],
        returns: bool,
        chance: &dyn Chance,
    ) -> Expected {
        if program == Program::WireEgress && returns && self.leads_back(frame) {
            return dropped(Vec::new(), Outcome::Unallocated);
        }
        let look = Look::at(frame, program == Program::Xdp);
        Expected {
            shape: look.shape(),
            ..self.meet_as(look, program, frame, chance)
        }
    }

    /// Whether a packet for an address of Services, which no frontend sends, would come again and
    /// again: the router beyond has a way for the address to this node. Of what has no ports, the
    /// address alone tells who sends it.
    fn leads_back(&self, frame: &[u8]) -> bool {
        let is_v4 = match frame.get(12..14) {
            Some([0x08, 0x00]) => true,
            Some([0x86, 0xdd]) => false,
            _ => return false,
        };
        let Some([src, dst]) = headers::ip_addresses(frame, is_v4) else {
            return false;
        };
        let is_mapped = !is_v4 && (src.is_v4() || dst.is_v4());
        if is_mapped || self.tables.vip(&dst).is_none() {
            return false;
        }
        match Look::at(frame, true) {
            Look::Flow(packet) if packet.tuple.src_port != 0 => {
                let tuple = packet.tuple;
                let key = FrontendKey::new(tuple.src, tuple.src_port, tuple.protocol);
                !self.tables.frontends.contains_key(&key)
            }
            _ => self.tables.vip(&src).is_none(),
        }
    }

    fn meet_as(
        &mut self,
        look: Look<'_>,
        program: Program,
        frame: &[u8],
        chance: &dyn Chance,
    ) -> Expected {
        let packet = match look {
            Look::Nothing => return untouched(frame),
            Look::Malformed(dst) => {
                let is_entrance = matches!(program, Program::WireIngress | Program::PodIngress);
                return match self.tables.without_port(&dst) {
                    Fate::Untouched => untouched(frame),
                    _ if is_entrance => dropped(Vec::new(), Outcome::Malformed),
                    _ => untouched(frame),
                };
            }
            Look::Flow(packet) => packet,
            Look::Portless(packet) => {
                let fate = self.decide_portless(program, &packet);
                return finish(program, &packet, Vec::new(), fate);
            }
            Look::First(packet, key) => {
                self.first_piece(program, &packet, key);
                packet
            }
            Look::Later(mut packet, key) => match self.later_piece(program, &mut packet, key) {
                Ok(()) => packet,
                Err(fate) => return finish(program, &packet, Vec::new(), fate),
            },
        };
        let mut meeting = Meeting {
            program,
            packet: &packet,
            chance,
            counted: vec![Outcome::Seen],
        };
        let mut fate = self.decide(&mut meeting);
        if let Fate::Changed(change) = &mut fate
            && let Next::Out(way) = &mut change.next
            && program != Program::Xdp
            && (packet.is_error() || !chance.has_written_macs())
        {
            *way = Way::Device(way.device());
        }
        finish(program, &packet, meeting.counted, fate)
    }

    /// A packet with ports.
    fn decide(&mut self, meeting: &mut Meeting<'_>) -> Fate {
        let pod = self.devices.pod;
        let fate = match meeting.program {
            Program::Xdp => self
                .snat_reply(meeting)
                .or_else(|| self.client(meeting, Site::Wire))
                .or_else(|| self.forget_reverse(meeting, Site::Wire)),
            Program::WireIngress => self
                .snat_reply(meeting)
                .or_else(|| self.client(meeting, Site::Wire))
                .or_else(|| self.forget_reverse(meeting, Site::Wire)),
            Program::Tunnel => self.snat_reply(meeting),
            Program::WireEgress => self.reply(meeting, Site::Wire),
            Program::PodEgress => self.reply(meeting, Site::Pod(pod)),
            Program::PodIngress => self
                .hairpin_reply(meeting, pod)
                .or_else(|| self.client(meeting, Site::Pod(pod)))
                .or_else(|| self.forget_reverse(meeting, Site::Pod(pod))),
        };
        fate.unwrap_or(Fate::Untouched)
    }

    /// A packet without: tc decides, where clients' packets enter.
    fn decide_portless(&self, program: Program, packet: &Reading<'_>) -> Fate {
        if !matches!(program, Program::WireIngress | Program::PodIngress) {
            return Fate::Untouched;
        }
        let dst = packet.tuple.dst;
        if packet.is_echo_request() && self.tables.vip(&dst).is_some_and(|vip| vip.served) {
            return Fate::Echoed;
        }
        match self.tables.without_port(&dst) {
            // ICMP errors and answers are never answered.
            Fate::Refused if packet.carries_icmp() && !packet.is_echo_request() => {
                Fate::Dropped(Outcome::Unallocated)
            }
            fate => fate,
        }
    }
}

fn untouched(frame: &[u8]) -> Expected {
    Expected {
        verdict: Verdict::Next,
        frame: Some(frame.to_vec()),
        marked: false,
        counted: Vec::new(),
        shape: "unreadable",
    }
}

fn dropped(mut counted: Vec<Outcome>, reason: Outcome) -> Expected {
    counted.push(reason);
    Expected {
        verdict: Verdict::Drop,
        frame: None,
        counted,
        ..untouched(&[])
    }
}

/// Does what was decided.
fn finish(
    program: Program,
    packet: &Reading<'_>,
    mut counted: Vec<Outcome>,
    fate: Fate,
) -> Expected {
    let is_xdp = program == Program::Xdp;
    let is_rare = match fate {
        Fate::Untouched | Fate::Dropped(_) => false,
        Fate::Changed(change) => {
            let is_out = matches!(change.next, Next::Out(_));
            !is_out && (change.src.is_some() || change.dst.is_none())
        }
        _ => true,
    };
    if is_xdp && is_rare {
        // What is rare is tc's business.
        counted.push(Outcome::Deferred);
        return unchanged(packet, counted);
    }
    match fate {
        Fate::Untouched => unchanged(packet, counted),
        Fate::Dropped(reason) => dropped(counted, reason),
        Fate::Left => dropped(counted, Outcome::Unroutable),
        Fate::Refused => answered(answers::refusal(packet), Outcome::Rejected, counted),
        Fate::Reset => answered(answers::refusal(packet), Outcome::BackendGone, counted),
        Fate::Told(message, what) => answered(answers::told(packet, message), what, counted),
        Fate::Echoed => match answers::echo(packet) {
            Some(frame) => answered(Some(frame), Outcome::Echoed, counted),
            None => dropped(counted, Outcome::NotWritable),
        },
        Fate::Changed(change) => changed(is_xdp, packet, counted, change),
    }
}

fn unchanged(packet: &Reading<'_>, counted: Vec<Outcome>) -> Expected {
    Expected {
        counted,
        ..untouched(packet.frame)
    }
}

/// Changes a packet, which goes on.
fn changed(
    is_xdp: bool,
    packet: &Reading<'_>,
    mut counted: Vec<Outcome>,
    change: Change,
) -> Expected {
    let ends = Ends {
        src: change.src,
        dst: change.dst,
        is_routed: matches!(change.next, Next::Out(_)),
    };
    let Some(mut frame) = packet.changed(ends) else {
        return dropped(counted, Outcome::NotWritable);
    };
    match change.next {
        Next::Out(Way::Neighbour { mac, own, .. }) => {
            frame[..6].copy_from_slice(&mac);
            frame[6..12].copy_from_slice(&own);
        }
        Next::Back => frame::exchange_macs(&mut frame),
        Next::On | Next::Out(_) | Next::Across => {}
    }
    counted.push(change.counted);
    let is_on = change.next == Next::On;
    Expected {
        verdict: if is_on { Verdict::Next } else { Verdict::Out },
        frame: Some(frame),
        marked: is_xdp && is_on,
        counted,
        ..untouched(&[])
    }
}

/// An answer goes back to where the packet came from; a packet that cannot be answered is dropped.
fn answered(frame: Option<Vec<u8>>, what: Outcome, mut counted: Vec<Outcome>) -> Expected {
    counted.push(what);
    Expected {
        verdict: if frame.is_some() {
            Verdict::Out
        } else {
            Verdict::Drop
        },
        frame,
        counted,
        ..untouched(&[])
    }
}

/// An address and a port.
fn end(addr: Addr, port: u16) -> Endpoint {
    Endpoint { addr, port }
}
