//! The first packet of a connection.

use lb_common::{
    Addr, BackendRef, FrontendKey, Pin, config::Ports, counter::Outcome, frontend::flags, protocol,
};

use super::{
    Across, Fate, Meeting, Model,
    clients::{Call, Leg, Site, Source},
    memory::Connection,
};

/// What may become of a connection that is opened.
enum Way {
    /// It goes to this backend; its pin says so, too, or not.
    To(Leg, bool),
    /// It goes to another one than it ought to, or from another port.
    Instead(Leg),
    /// It is not opened.
    Ends(Fate),
}

impl Model {
    /// Opens a connection with whom the slot names; where replies could not be told from another
    /// connection's, with another backend, or from another port.
    pub(super) fn open(
        &mut self,
        meeting: &mut Meeting<'_>,
        call: Call<'_>,
        owner: BackendRef,
    ) -> Fate {
        if call.packet.is_error() {
            return Fate::Dropped(Outcome::UnknownFlow);
        }
        if !self.may_begin(call) {
            return Fate::Dropped(Outcome::NotAllowed);
        }
        if call.site == Site::Wire && self.is_from_a_service(call) {
            return Fate::Dropped(Outcome::Martian);
        }
        let way = match self.firsts(call, owner)[..] {
            [] => return Fate::Dropped(Outcome::TornTable),
            [first] => self.only_way(meeting, call, first),
            _ => None,
        };
        let way = match way {
            Some(way) => way,
            None => self.chosen_way(meeting, call, owner),
        };
        match way {
            Way::Ends(fate) => fate,
            Way::To(leg, is_pinned) if self.joins(call, &leg) => {
                self.rejoin(meeting, call, leg, is_pinned)
            }
            // Of ports of SNAT only those are tried that nobody has, not even this connection.
            Way::Instead(leg) if leg.source != Source::Own && self.joins(call, &leg) => {
                self.rejoin(meeting, call, leg, true)
            }
            Way::To(leg, is_pinned) => {
                let across = self.across(call, &leg);
                self.begin(meeting, call, leg, is_pinned, across)
            }
            Way::Instead(leg) => {
                // Whether it stays within the bridge is not asked at once.
                let across = match self.across(call, &leg) {
                    Across::Yes => Across::InTime,
                    no => no,
                };
                self.begin(meeting, call, leg, true, across)
            }
        }
    }

    /// Whether a packet of the wire claims to come from a Service, or from the node itself. An external
    /// address may be another host's, too, but not its frontends' ports.
    fn is_from_a_service(&self, call: Call<'_>) -> bool {
        let tuple = call.tuple();
        let Some(vip) = self.tables.vip(&tuple.src) else {
            return false;
        };
        let frontend = FrontendKey::new(tuple.src, tuple.src_port, tuple.protocol);
        vip.is_cluster_ip || vip.is_node || self.tables.frontends.contains_key(&frontend)
    }

    /// Whom the connection ought to get: several where chance decides.
    fn firsts(&self, call: Call<'_>, owner: BackendRef) -> Vec<Leg> {
        if let Some(leg) = self.recalled(call) {
            return vec![leg];
        }
        if call.has(flags::RANDOM) && !call.has_affinity() {
            let members = self.tables.members(call.extent());
            return members
                .into_iter()
                .filter_map(|member| self.leg(call, member))
                .collect();
        }
        self.leg(call, owner).into_iter().collect()
    }

    /// A connection whose record was forgotten, while its pin was not, goes on where it was.
    fn recalled(&self, call: Call<'_>) -> Option<Leg> {
        let pin = self.memory.pins.get(&call.tuple().pin())?;
        let leg = (!call.packet.opens()).then(|| self.leg(call, pin.backend))??;
        Some(Leg {
            source_port: pin.source_port,
            ..leg
        })
    }

    /// Whether replies of a backend could be told from those of every other connection.
    fn is_free(&self, call: Call<'_>, leg: &Leg) -> bool {
        let there = self.memory.connections.get(&call.reply_key(leg));
        let is_own = |there: &Connection| there.left && there.client == *call.tuple();
        there.is_none_or(|there| there.gives_way(call.packet.is_syn()) || is_own(there))
            || self.joins(call, leg)
    }

    /// Whether the connection that a backend's replies belong to is this one: only its pin was forgotten.
    fn joins(&self, call: Call<'_>, leg: &Leg) -> bool {
        let is_syn = call.packet.is_syn();
        let there = self.memory.connections.get(&call.reply_key(leg));
        there.is_some_and(|there| {
            there.client == *call.tuple()
                && !there.gives_way(is_syn)
                && !there.left
                && (there.is_opening() || !is_syn)
        })
    }

    /// Whether the connection that a backend's replies belong to has not been confirmed.
    fn is_unconfirmed(&self, call: Call<'_>, leg: &Leg) -> bool {
        let there = self.memory.connections.get(&call.reply_key(leg));
        there.is_some_and(|there| !there.confirmed)
    }

    /// Whether a connection that goes on finds its place taken by one that has not yet. It takes it back,
    /// or waits until that one has had time to go on, too; another place is of no use.
    fn waits(&self, call: Call<'_>, first: &Leg) -> bool {
        first.source == Source::Own && call.packet.goes_on() && self.is_unconfirmed(call, first)
    }

    /// Whether a connection may take the place that it ought to have from one that has not gone on yet:
    /// it takes it back, or it is the first time that it tries, and there is no other place.
    fn may_take(&self, call: Call<'_>, first: &Leg) -> bool {
        let is_snat = first.source == Source::Own && call.tuple().protocol != protocol::SCTP;
        let has_tried = self.memory.pins.contains_key(&call.tuple().pin());
        let there = self.memory.connections.get(&call.reply_key(first));
        let is_others =
            there.is_some_and(|there| !there.confirmed && there.client != *call.tuple());
        let may = self.waits(call, first) || is_snat && !has_tried;
        may && is_others && !self.is_free(call, first)
    }

    /// Whether the connection would not be found by its slot alone.
    fn needs_pin(&self, call: Call<'_>) -> bool {
        call.has(flags::RANDOM)
            || call.has_affinity()
            || self.memory.pins.contains_key(&call.tuple().pin())
    }

    /// What becomes of a connection that ought to get `first`, if that is certain.
    fn only_way(&self, meeting: &Meeting<'_>, call: Call<'_>, first: Leg) -> Option<Way> {
        if let Err(fate) = self.snat(meeting, &first) {
            return Some(Way::Ends(fate));
        }
        // Where its pin says so, the place is certain to be its own.
        let takes_back = self.waits(call, &first) && self.recalled(call).is_some();
        let is_its_own = takes_back || self.is_free(call, &first);
        is_its_own.then(|| Way::To(first, self.needs_pin(call)))
    }

    /// The address that the backend is to see instead of the client's, if any.
    fn snat(&self, meeting: &Meeting<'_>, leg: &Leg) -> Result<Addr, Fate> {
        if leg.source != Source::Own {
            return Ok(Addr::UNSPECIFIED);
        }
        let is_xdp = meeting.program == crate::programs::Program::Xdp;
        let Some(way) = self.way_from(meeting, leg.addr) else {
            return Err(if is_xdp {
                Fate::Left
            } else {
                Fate::Dropped(Outcome::Unroutable)
            });
        };
        let source = self.devices.source(way.device(), leg.addr.is_v4());
        source.ok_or(Fate::Dropped(Outcome::Unroutable))
    }

    /// What the programs chose, if they were free to; else something that they were free to.
    fn chosen_way(&self, meeting: &Meeting<'_>, call: Call<'_>, owner: BackendRef) -> Way {
        let firsts = self.firsts(call, owner);
        let took = |first: &&Leg| {
            self.may_take(call, first)
                && self.snat(meeting, first).is_ok()
                && meeting
                    .chance
                    .has(&call.reply_key(first), &call.tuple().pin())
        };
        if let Some(first) = firsts.iter().find(took) {
            let takes_back = self.waits(call, first);
            return Way::To(*first, !takes_back || self.needs_pin(call));
        }
        if let Some(pin) = meeting.chance.pin(&call.tuple().pin())
            && let Some(leg) = self.leg(call, pin.backend)
        {
            let leg = Leg {
                source_port: pin.source_port,
                ..leg
            };
            let is_there = meeting
                .chance
                .has(&call.reply_key(&leg), &call.tuple().pin());
            let may_be = |first: &Leg| self.may_become(meeting, call, first, &leg, &pin);
            if is_there && firsts.iter().any(may_be) {
                // Else chance may have named another one at first, which was taken.
                let is_rejoined = firsts.contains(&leg) && self.joins(call, &leg);
                let is_first = is_rejoined || firsts.iter().all(|first| self.is_free(call, first));
                return if is_first {
                    Way::To(leg, true)
                } else {
                    Way::Instead(leg)
                };
            }
        }
        let ends = firsts
            .iter()
            .filter_map(|first| match self.snat(meeting, first) {
                Err(fate) => Some(fate),
                Ok(_)
                    if !self.is_free(call, first)
                        && (self.waits(call, first) || self.may_find_none(call, first)) =>
                {
                    Some(Fate::Dropped(Outcome::NoSnatPort))
                }
                Ok(_) => None,
            });
        let mut ends = ends.filter(|fate| match fate {
            Fate::Dropped(reason) => meeting.chance.has_counted(*reason),
            _ => meeting.chance.has_counted(Outcome::Deferred),
        });
        match (ends.next(), firsts.first()) {
            (Some(fate), _) => Way::Ends(fate),
            (None, Some(first)) => Way::To(*first, true),
            (None, None) => Way::Ends(Fate::Untouched),
        }
    }

    /// Whether all alternatives that are tried may be taken: some are.
    fn may_find_none(&self, call: Call<'_>, first: &Leg) -> bool {
        let ports = self.ports(call, first);
        let mut others = (ports.first..=ports.last).map(|source_port| Leg {
            source_port,
            ..*first
        });
        call.tuple().protocol == protocol::SCTP || others.any(|other| !self.is_free(call, &other))
    }

    /// Ports that the backend may see in place of the client's.
    fn ports(&self, call: Call<'_>, leg: &Leg) -> Ports {
        self.config
            .ports(call.tuple().src, leg.source == Source::Own)
    }

    /// Whether a connection that ought to get `first` may have got `leg`.
    fn may_become(
        &self,
        meeting: &Meeting<'_>,
        call: Call<'_>,
        first: &Leg,
        leg: &Leg,
        pin: &Pin,
    ) -> bool {
        if self.snat(meeting, first).is_err() {
            return false;
        }
        if self.is_free(call, first) {
            return leg == first;
        }
        if self.waits(call, first) {
            return false;
        }
        // The last tries displace a connection that has had time to be confirmed, and was not.
        if !self.is_free(call, leg) && !self.is_unconfirmed(call, leg) {
            return false;
        }
        let is_other_backend = first.source == Source::Kept
            && leg.source == Source::Kept
            && !call.has_affinity()
            && leg.source_port == call.tuple().src_port
            && self.tables.members(call.extent()).contains(&pin.backend);
        let is_other_port = leg.reference == first.reference
            && self.ports(call, first).contains(pin.source_port)
            && call.tuple().protocol != protocol::SCTP;
        is_other_backend || is_other_port
    }

    /// Whether a connection stays within the client's bridge: the pods' device is taken for one.
    fn across(&self, call: Call<'_>, leg: &Leg) -> Across {
        let is_local = self
            .tables
            .backend(leg.reference)
            .is_some_and(|backend| backend.local != 0);
        let device = self
            .devices
            .way(call.tuple().src, leg.addr)
            .map(super::Way::device);
        let is_across = self.hands_across
            && matches!(call.site, Site::Pod(_))
            && leg.source == Source::Kept
            && is_local
            && device == Some(self.devices.pod);
        if is_across { Across::Yes } else { Across::No }
    }

    fn begin(
        &mut self,
        meeting: &mut Meeting<'_>,
        call: Call<'_>,
        leg: Leg,
        is_pinned: bool,
        across: Across,
    ) -> Fate {
        self.remember(call, &leg, is_pinned, across);
        meeting.counted.push(Outcome::NewFlow);
        self.send(meeting, call, leg)
    }

    /// The connection goes on by its record; the packet is noted with the next one.
    fn rejoin(
        &mut self,
        meeting: &mut Meeting<'_>,
        call: Call<'_>,
        leg: Leg,
        is_pinned: bool,
    ) -> Fate {
        let there = self.memory.connections.get_mut(&call.reply_key(&leg));
        if let Some(connection) = there {
            connection.pinned |= is_pinned;
        }
        if is_pinned {
            self.pin(call, &leg);
        }
        self.bind(call, leg.reference);
        self.send(meeting, call, leg)
    }

    fn remember(&mut self, call: Call<'_>, leg: &Leg, is_pinned: bool, across: Across) {
        let snat = match leg.source {
            Source::Own => {
                let way = self.devices.way(call.tuple().src, leg.addr);
                let source =
                    way.and_then(|way| self.devices.source(way.device(), leg.addr.is_v4()));
                source.unwrap_or_default()
            }
            _ => Addr::UNSPECIFIED,
        };
        let mut connection = Connection {
            client: *call.tuple(),
            backend: leg.reference,
            snat,
            answered: false,
            client_ended: false,
            backend_ended: false,
            reset: false,
            left: false,
            pinned: is_pinned,
            confirmed: false,
            across,
            awaited: (0, 0),
        };
        connection.note_forward(call.packet);
        self.memory
            .connections
            .insert(call.reply_key(leg), connection);
        if is_pinned {
            self.pin(call, leg);
        }
        self.bind(call, leg.reference);
    }
}
