//! From a client towards a backend.

use std::net::IpAddr;

use lb_common::{
    Addr, AffinityKey, Backend, BackendRef, Extent, FlowKey, Frontend, Slot, Tuple, backend::sets,
    counter::Outcome, flow::edge, frontend::flags, protocol, select,
};

use super::{Across, Change, Fate, Meeting, Model, Next, answers::Message, end, headers::Reading};
use crate::programs::Program;

/// Where a client's packets enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// The veth of a pod.
    Pod(u32),
    /// The uplink.
    Wire,
}

/// What becomes of the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The backend sees it.
    Kept,
    /// The backend is elsewhere, and must answer to this node.
    Own,
    /// The backend is the client: it must not see itself.
    Frontend,
}

/// A packet that dials a frontend, or did so while there was one.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) site: Site,
    pub(super) packet: &'a Reading<'a>,
    /// Nothing if the frontend is gone.
    pub(super) frontend: Option<Frontend>,
    pub(super) hash: u32,
}

/// A backend as one that may have a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) reference: BackendRef,
    pub(super) addr: Addr,
    pub(super) port: u16,
    pub(super) source: Source,
    /// The port that the backend sees.
    pub(super) source_port: u16,
}

impl Site {
    pub(super) fn edge(self, source: Source) -> u32 {
        match self {
            Self::Pod(ifindex) => ifindex,
            Self::Wire if source == Source::Own => edge::WIRE_INGRESS,
            Self::Wire => edge::WIRE_EGRESS,
        }
    }
}

impl Call<'_> {
    pub(super) fn tuple(&self) -> &Tuple {
        &self.packet.tuple
    }

    pub(super) fn extent(&self) -> Extent {
        match (self.frontend, self.site) {
            (None, _) => Extent::EMPTY,
            (Some(frontend), Site::Pod(_)) => frontend.inside,
            (Some(frontend), Site::Wire) => frontend.outside,
        }
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.frontend
            .is_some_and(|frontend| frontend.flags & flag != 0)
    }

    /// Whether the client's connections stay with a backend.
    pub(super) fn has_affinity(&self) -> bool {
        self.frontend
            .is_some_and(|frontend| frontend.affinity_timeout_s != 0)
    }

    fn affinity_key(&self) -> AffinityKey {
        AffinityKey {
            client: self.tuple().src,
            service: self.frontend.map_or(0, |frontend| frontend.service),
        }
    }

    /// The reply of a backend, and where it is undone.
    pub(super) fn reply_key(&self, leg: &Leg) -> FlowKey {
        let tuple = self.tuple();
        FlowKey {
            src: leg.addr,
            dst: match leg.source {
                Source::Kept => tuple.src,
                // The address depends on the way there.
                Source::Own => Addr::UNSPECIFIED,
                Source::Frontend => tuple.dst,
            },
            src_port: leg.port,
            dst_port: leg.source_port,
            edge: self.site.edge(leg.source),
            protocol: tuple.protocol,
            pad: 0,
            pad_half: 0,
        }
    }
}

/// What a packet has made of its connection's record.
#[derive(Clone, Copy)]
struct Noted {
    was_opening: bool,
    confirms: bool,
    is_pinned: bool,
}

impl Model {
    /// A client's packet; nothing if it is no Service's business.
    pub(super) fn client(&mut self, meeting: &mut Meeting<'_>, site: Site) -> Option<Fate> {
        let packet = meeting.packet;
        let tuple = &packet.tuple;
        match site {
            Site::Wire if tuple.src.is_loopback() || tuple.dst.is_loopback() => {
                return Some(Fate::Dropped(Outcome::Martian));
            }
            Site::Pod(_) if tuple.dst.is_loopback() => return None,
            _ => {}
        }
        let mut call = Call {
            site,
            packet,
            frontend: None,
            hash: tuple.hash(self.config.seed),
        };
        let Some(frontend) = self.tables.frontends.get(&tuple.frontend()) else {
            // XDP leaves what is for nobody to tc.
            return (meeting.program != Program::Xdp)
                .then(|| self.dial_nobody(meeting, call))
                .filter(|fate| *fate != Fate::Untouched);
        };
        if site == Site::Wire && !is_of_a_host(&tuple.src) {
            return Some(Fate::Dropped(Outcome::Martian));
        }
        call.frontend = Some(*frontend);
        Some(match self.tables.slot(call.extent(), call.hash) {
            Some(slot) => self.dial(meeting, call, slot),
            None => self.dial_empty(meeting, call),
        })
    }

    /// Whether a packet for no frontend may belong to a connection to one that there was: the
    /// address is known to be one of Services, and the packet opens nothing (item 58).
    fn may_resume(&self, packet: &Reading<'_>) -> bool {
        self.tables.is_known_net(&packet.tuple.dst) && !packet.opens()
    }

    /// There is no such frontend.
    fn dial_nobody(&mut self, meeting: &mut Meeting<'_>, call: Call<'_>) -> Fate {
        let is_error = call.packet.is_error();
        if self.may_resume(call.packet) {
            if let Some(leg) = self.recall(call, BackendRef::NONE) {
                return self.go_on(meeting, call, leg);
            }
            if self.is_elsewhere(call) {
                return Fate::Untouched;
            }
            if is_error {
                return Fate::Dropped(Outcome::UnknownFlow);
            }
        }
        match self.tables.without_port(&call.tuple().dst) {
            Fate::Refused if is_error => Fate::Dropped(Outcome::UnknownFlow),
            fate => fate,
        }
    }

    /// A connection goes on with a backend that may be gone: unless such ones are to end.
    fn go_on(&self, meeting: &Meeting<'_>, call: Call<'_>, leg: Leg) -> Fate {
        let serves = self
            .tables
            .backend(leg.reference)
            .is_some_and(Backend::serves);
        if self.config.has(lb_common::config::flags::RESET_VANISHED) && !serves {
            Fate::Reset
        } else {
            self.send(meeting, call, leg)
        }
    }

    /// The frontend has nobody for new connections. Those that there are may go on; the others
    /// are dropped if a policy is the reason, else rejected (items 41, 42).
    fn dial_empty(&mut self, meeting: &mut Meeting<'_>, call: Call<'_>) -> Fate {
        if let Some(leg) = self.recall(call, BackendRef::NONE) {
            return self.go_on(meeting, call, leg);
        }
        if self.is_elsewhere(call) {
            return Fate::Untouched;
        }
        if call.packet.is_error() {
            Fate::Dropped(Outcome::UnknownFlow)
        } else if !self.may_begin(call) {
            Fate::Dropped(Outcome::NotAllowed)
        } else if call.has(flags::HAS_ENDPOINTS) {
            Fate::Dropped(Outcome::NoBackend)
        } else {
            Fate::Refused
        }
    }

    fn dial(&mut self, meeting: &mut Meeting<'_>, call: Call<'_>, slot: Slot) -> Fate {
        let slot = self.preferred(call, slot);
        let Some(leg) = self.leg(call, slot.current) else {
            return Fate::Dropped(Outcome::TornTable);
        };
        let key = call.reply_key(&leg);
        if let Some(noted) = self.note_own(call, &key) {
            self.keep_pin(call, &leg, noted);
            if call.packet.is_syn() && !noted.was_opening {
                if !self.may_begin(call) {
                    return Fate::Dropped(Outcome::NotAllowed);
                }
                self.begin_anew(call, &key, leg.reference);
            }
            return self.send(meeting, call, leg);
        }
        if let Some(leg) = self.recall(call, slot.previous) {
            return self.go_on(meeting, call, leg);
        }
        if self.is_elsewhere(call) {
            return Fate::Untouched;
        }
        self.open(meeting, call, slot.current)
    }

    /// Who has the slot for this client: whom it has affinity to comes first, and the slot's owner
    /// counts as the one before.
    fn preferred(&self, call: Call<'_>, slot: Slot) -> Slot {
        let is_local = match call.site {
            Site::Pod(_) => call.has(flags::INSIDE_LOCAL),
            Site::Wire => call.has(flags::OUTSIDE_LOCAL),
        };
        let set = if is_local { sets::LOCAL } else { sets::CLUSTER };
        let bound = self.memory.bound.get(&call.affinity_key());
        match bound.filter(|_| call.has_affinity()) {
            Some(bound)
                if *bound != slot.current
                    && self
                        .tables
                        .backend(*bound)
                        .is_some_and(|b| b.sets & set != 0) =>
            {
                Slot {
                    current: *bound,
                    previous: slot.current,
                }
            }
            _ => slot,
        }
    }

    pub(super) fn may_begin(&self, call: Call<'_>) -> bool {
        call.frontend
            .is_none_or(|frontend| self.tables.admits(&frontend, call.tuple().src))
    }

    /// A backend as one for this call; nothing if the reference means nobody.
    pub(super) fn leg(&self, call: Call<'_>, reference: BackendRef) -> Option<Leg> {
        let backend = self.tables.backend(reference)?;
        let tuple = call.tuple();
        let source = match call.site {
            Site::Pod(_) if backend.addr == tuple.src => Source::Frontend,
            Site::Wire if backend.local == 0 => Source::Own,
            _ => Source::Kept,
        };
        // SCTP's checksum covers its ports: they stay.
        let source_port = if source == Source::Kept || tuple.protocol == protocol::SCTP {
            tuple.src_port
        } else {
            let ports = self.config.ports(tuple.src, source == Source::Own);
            select::source_port(ports, tuple, call.hash, 0)
        };
        Some(Leg {
            reference,
            addr: backend.addr,
            port: backend.port,
            source,
            source_port,
        })
    }

    /// Notes the packet on a record if it is this client's.
    fn note_own(&mut self, call: Call<'_>, key: &FlowKey) -> Option<Noted> {
        let connection = self.memory.connections.get_mut(key)?;
        if connection.client != *call.tuple() || connection.left {
            return None;
        }
        let was_opening = connection.is_opening();
        let was_confirmed = connection.confirmed;
        if !call.packet.is_error() {
            connection.note_forward(call.packet);
        }
        Some(Noted {
            was_opening,
            confirms: connection.confirmed && !was_confirmed,
            is_pinned: connection.pinned,
        })
    }

    /// The pin of a connection that the packet has confirmed is kept where no flood displaces it.
    fn keep_pin(&mut self, call: Call<'_>, leg: &Leg, noted: Noted) {
        if noted.confirms && noted.is_pinned {
            self.pin(call, leg);
        }
    }

    /// A new connection on the ports of an old one.
    fn begin_anew(&mut self, call: Call<'_>, key: &FlowKey, backend: BackendRef) {
        if let Some(connection) = self.memory.connections.get_mut(key) {
            connection.begin_anew();
        }
        self.bind(call, backend);
    }

    /// Remembers who serves the client from now on.
    pub(super) fn bind(&mut self, call: Call<'_>, backend: BackendRef) {
        if call.has_affinity() {
            self.memory.bound.insert(call.affinity_key(), backend);
        }
    }

    /// Whether there is a connection with this backend, and the packet is of it.
    pub(super) fn goes_on(&mut self, call: Call<'_>, leg: &Leg) -> bool {
        let key = call.reply_key(leg);
        let (serves, is_active) = match self.tables.backend(leg.reference) {
            Some(backend) => (backend.serves(), backend.is_active()),
            None => return false,
        };
        // A datagram can go anywhere; only a connection is worth a backend that is gone. The client
        // does not go back to it, should it return.
        if !call.packet.is_tcp() && !serves {
            let there = self.memory.connections.get_mut(&key);
            let own = there.filter(|there| there.client == *call.tuple());
            if let Some(own) = own.filter(|_| !call.packet.is_error()) {
                own.left = true;
            }
            return false;
        }
        let had_ended = match self.memory.connections.get(&key) {
            Some(connection) => connection.has_ended(),
            None => return false,
        };
        let Some(noted) = self.note_own(call, &key) else {
            return false;
        };
        let was_opening = noted.was_opening;
        if !call.packet.is_syn() {
            self.keep_pin(call, leg, noted);
            return true;
        }
        // The client repeats itself, or begins anew where it still may; a backend that gets nothing new
        // asks back. Else the client is served by whom the table says now, and the old connection is over.
        if serves && (was_opening || !had_ended && !is_active) {
            return true;
        }
        if !was_opening && !had_ended && is_active && self.may_begin(call) {
            self.begin_anew(call, &key, leg.reference);
            return true;
        }
        self.memory.connections.remove(&key);
        false
    }

    /// Sends a packet of a known connection.
    pub(super) fn send(&self, meeting: &Meeting<'_>, call: Call<'_>, leg: Leg) -> Fate {
        let packet = call.packet;
        let dst = Some(end(leg.addr, leg.port));
        let to_stack = |src| {
            Fate::Changed(Change {
                src,
                dst,
                next: Next::On,
                counted: Outcome::ToStack,
            })
        };
        match leg.source {
            Source::Frontend => Fate::Changed(Change {
                src: Some(end(packet.tuple.dst, leg.source_port)),
                dst,
                next: Next::Back,
                counted: Outcome::Redirected,
            }),
            Source::Kept if self.goes_across(meeting, call, &leg) => Fate::Changed(Change {
                src: Some(end(packet.tuple.src, leg.source_port)),
                dst,
                next: Next::Across,
                counted: Outcome::Direct,
            }),
            Source::Kept if leg.source_port == packet.tuple.src_port => to_stack(None),
            Source::Kept => to_stack(Some(end(packet.tuple.src, leg.source_port))),
            Source::Own => {
                let Some(way) = self.way_from(meeting, leg.addr) else {
                    return Fate::Left;
                };
                let key = call.reply_key(&leg);
                let snat = self.memory.connections.get(&key).map(|c| c.snat);
                self.leave(
                    packet,
                    Change {
                        src: Some(end(snat.unwrap_or_default(), leg.source_port)),
                        dst,
                        next: Next::Out(way),
                        counted: Outcome::Redirected,
                    },
                )
            }
        }
    }

    fn goes_across(&self, meeting: &Meeting<'_>, call: Call<'_>, leg: &Leg) -> bool {
        let connection = self.memory.connections.get(&call.reply_key(leg));
        match connection.map(|connection| connection.across) {
            Some(Across::Yes) => true,
            Some(Across::InTime) => meeting.chance.has_counted(Outcome::Direct),
            _ => false,
        }
    }

    /// A packet leaves by a device at once, unless it has lived too long, or is too big and must not
    /// be cut into pieces: no router comes between that could tell its sender.
    pub(super) fn leave(&self, packet: &Reading<'_>, change: Change) -> Fate {
        let Next::Out(way) = change.next else {
            return Fate::Changed(change);
        };
        if packet.ttl <= 1 {
            return Fate::Told(Message::time_exceeded(packet.is_v4), Outcome::TtlExceeded);
        }
        if !packet.may_fragment && !self.fits(packet, way.device()) {
            let size = self.devices.mtu(way.device()) as u32;
            return Fate::Told(Message::too_big(packet.is_v4, size), Outcome::TooBig);
        }
        Fate::Changed(change)
    }

    /// Whether a device takes a packet of this size. Every one takes 1280 bytes (RFC 8200).
    fn fits(&self, packet: &Reading<'_>, device: u32) -> bool {
        (1..=1280).contains(&packet.ip_len) || packet.frame.len() <= self.devices.mtu(device) + 14
    }

    /// The way to an address, if this hook can send there: XDP sends by its own device, to
    /// neighbours that are known.
    pub(super) fn way_from(&self, meeting: &Meeting<'_>, addr: Addr) -> Option<super::Way> {
        let way = self.devices.way(meeting.packet.tuple.src, addr)?;
        let is_near =
            matches!(way, super::Way::Neighbour { device, .. } if device == self.devices.uplink);
        (meeting.program != Program::Xdp || is_near).then_some(way)
    }
}

/// Whether a host may have the address: nobody in particular, everybody, and oneself are none.
fn is_of_a_host(addr: &Addr) -> bool {
    match addr.to_ip() {
        IpAddr::V4(v4) => !matches!(v4.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast()),
    }
}
