//! From a client towards a backend.

use super::{Action, Env, Route, Scratch};
use crate::{
    Addr, Backend, BackendRef, DatapathConfig, Extent, Flow, FlowKey, Frontend, Hop, Phase, Pin,
    Slot, Tuple,
    counter::Outcome,
    flow::{Direction, edge},
    packet::Parsed,
    protocol,
    rewrite::{Endpoint, Rewrite},
    select,
};

/// Where a client's packets enter the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The veth of a pod of this node, by interface index.
    Pod(u32),
    /// An uplink: the client is outside this node.
    Wire,
}

impl Site {
    #[inline(always)]
    fn extent(self, frontend: &Frontend) -> Extent {
        match self {
            Self::Pod(_) => frontend.inside,
            Self::Wire => frontend.outside,
        }
    }
}

/// What happens to a flow's source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nat {
    /// It is kept.
    Keep,
    /// The address of the device that the packet leaves by.
    Snat,
    /// Client and backend are one pod: the frontend's address.
    Hairpin,
}

/// A backend as a candidate for a packet's flow.
#[derive(Clone, Copy)]
struct Leg {
    reference: BackendRef,
    backend: Backend,
    nat: Nat,
    /// Source port that the backend sees, host byte order.
    source_port: u16,
}

/// What the store says about a candidate.
enum Found {
    /// This client's flow.
    Ours {
        snat: Addr,
        hop: Hop,
        phase: Phase,
        /// The slow tick: what is cached is to be renewed.
        due: bool,
    },
    /// Another client's, and alive.
    Taken,
    /// A record that has outlived its phase.
    Expired,
    /// Nothing.
    Free,
}

/// A packet on its way to a backend.
struct Forward<'a, E> {
    env: &'a E,
    scratch: &'a mut Scratch,
    parsed: &'a Parsed,
    site: Site,
    config: DatapathConfig,
    hash: u32,
    tick: u64,
}

/// Translates a packet that dials a frontend. Nothing if it dials none.
#[inline(always)]
pub fn forward<E: Env>(
    env: &E,
    scratch: &mut Scratch,
    parsed: &Parsed,
    site: Site,
) -> Option<Action> {
    let tuple = &parsed.tuple;
    if tuple.dst.is_loopback() {
        // Localhost NodePorts are for sockets of the node, never for packets.
        return None;
    }
    scratch.frontend_key = tuple.frontend();
    let frontend = env.frontend(&scratch.frontend_key)?;
    let extent = site.extent(&frontend);
    if extent.is_empty() {
        return Some(Action::Drop(Outcome::NoBackend));
    }
    let config = env.config();
    let mut packet = Forward {
        env,
        scratch,
        parsed,
        site,
        config,
        hash: tuple.hash(config.seed),
        tick: env.tick(),
    };
    let Some(slot) = slot(env, &frontend, extent, packet.hash) else {
        return Some(Action::Drop(Outcome::TornTable));
    };
    Some(packet.serve(extent, slot))
}

/// The slot that `hash` selects, if the extent still is this frontend's.
#[inline(always)]
pub(super) fn slot<E: super::Tables>(
    env: &E,
    frontend: &Frontend,
    extent: Extent,
    hash: u32,
) -> Option<Slot> {
    let header = env.slot(extent.offset)?;
    if header != Slot::header(frontend.service, frontend.generation) {
        return None;
    }
    env.slot(extent.slot_index(hash))
}

impl<E: Env> Forward<'_, E> {
    #[inline(always)]
    fn serve(&mut self, extent: Extent, slot: Slot) -> Action {
        let Some(current) = self.leg(slot.current, 0) else {
            return Action::Drop(Outcome::TornTable);
        };
        let found = self.find(&current);
        if let Found::Ours {
            snat,
            hop,
            phase,
            due,
        } = found
        {
            if self.is_syn() && phase != Phase::Opening {
                self.reopen();
            }
            return self.follow(&current, snat, hop, due, false);
        }
        if let Some(action) = self.follow_elsewhere(slot.previous) {
            return action;
        }
        self.open(extent, current, &found)
    }

    /// Follows a flow whose backend is not what its slot says: the slot's previous owner, or the
    /// one that it is pinned to.
    #[inline(always)]
    fn follow_elsewhere(&mut self, previous: BackendRef) -> Option<Action> {
        if let Some(leg) = self.leg(previous, 0)
            && let Some(action) = self.follow_if_alive(&leg, true)
        {
            return Some(action);
        }
        self.scratch.pin_key = self.parsed.tuple.pin();
        let pin = self.env.pin(&self.scratch.pin_key)?;
        let mut leg = self.leg(pin.backend, 0)?;
        leg.source_port = pin.source_port;
        self.follow_if_alive(&leg, false)
    }

    #[inline(always)]
    fn follow_if_alive(&mut self, leg: &Leg, pin: bool) -> Option<Action> {
        // A datagram can go anywhere; only a connection is worth a backend that is gone.
        if self.parsed.tuple.protocol != protocol::TCP && !leg.backend.serves() {
            return None;
        }
        let Found::Ours {
            snat,
            hop,
            phase,
            due,
        } = self.find(leg)
        else {
            return None;
        };
        // A SYN goes where the table says now, unless it repeats one that is under way.
        if self.is_syn() && !(phase == Phase::Opening && leg.backend.serves()) {
            return None;
        }
        Some(self.follow(leg, snat, hop, due, pin))
    }

    #[inline(always)]
    fn is_syn(&self) -> bool {
        self.parsed.tuple.protocol == protocol::TCP && self.parsed.opens()
    }

    /// The candidate that `reference` means; nothing if it means an earlier incarnation.
    #[inline(always)]
    fn leg(&self, reference: BackendRef, attempt: u32) -> Option<Leg> {
        let backend = self.env.backend(reference.index())?;
        if !backend.is(reference) {
            return None;
        }
        let tuple = &self.parsed.tuple;
        let nat = match self.site {
            Site::Pod(_) if backend.addr.to_wire_words() == tuple.src.to_wire_words() => {
                Nat::Hairpin
            }
            Site::Wire if backend.local == 0 => Nat::Snat,
            _ => Nat::Keep,
        };
        let source_port = match nat {
            Nat::Keep => tuple.src_port,
            Nat::Snat | Nat::Hairpin => select::snat_port(&self.config, tuple, self.hash, attempt),
        };
        Some(Leg {
            reference,
            backend,
            nat,
            source_port,
        })
    }

    /// Makes the key of the reply that the candidate would send.
    #[inline(always)]
    fn set_key(&mut self, leg: &Leg) {
        let tuple = &self.parsed.tuple;
        let reply = Tuple {
            src: leg.backend.addr,
            dst: if leg.nat == Nat::Hairpin {
                tuple.dst
            } else {
                tuple.src
            },
            src_port: leg.backend.port,
            dst_port: leg.source_port,
            protocol: tuple.protocol,
        };
        self.scratch.key = FlowKey::of_reply(&reply, self.edge(leg.nat));
    }

    #[inline(always)]
    fn edge(&self, nat: Nat) -> u32 {
        match (self.site, nat) {
            (Site::Pod(ifindex), _) => ifindex,
            (Site::Wire, Nat::Snat) => edge::WIRE_INGRESS,
            (Site::Wire, _) => edge::WIRE_EGRESS,
        }
    }

    #[inline(always)]
    fn find(&mut self, leg: &Leg) -> Found {
        self.set_key(leg);
        let (tick, hz) = (self.tick, self.config.ticks_per_second);
        let parsed = self.parsed;
        self.env
            .look_up(&self.scratch.key, |flow| {
                if flow.is_expired(tick, hz) {
                    return Found::Expired;
                }
                if !flow.is_owned_by(&parsed.tuple) {
                    return Found::Taken;
                }
                let phase = flow.phase();
                let due = flow.note(Direction::Forward, parsed.tcp_flags, tick, hz);
                Found::Ours {
                    snat: flow.snat,
                    hop: flow.forward,
                    phase,
                    due,
                }
            })
            .unwrap_or(Found::Free)
    }

    #[inline(always)]
    fn reopen(&mut self) {
        let tick = self.tick;
        let _ = self
            .env
            .look_up(&self.scratch.key, |flow| flow.reopen(tick));
    }

    /// Sends a packet of a known flow on its way.
    #[inline(always)]
    fn follow(&mut self, leg: &Leg, snat: Addr, hop: Hop, due: bool, pin: bool) -> Action {
        if pin && due {
            self.pin(leg);
        }
        match leg.nat {
            Nat::Keep => self.keep(leg),
            Nat::Hairpin => self.hairpin(leg),
            Nat::Snat => {
                let hop = if due { self.renew(leg, hop) } else { hop };
                self.snat(leg, snat, hop)
            }
        }
    }

    /// Asks the routing table again for the next hop of a SNATed flow, as it may have changed.
    #[inline(always)]
    fn renew(&mut self, leg: &Leg, old: Hop) -> Hop {
        match self.env.route(self.parsed, leg.backend.addr) {
            Route::Via(hop) => {
                // The key is still this flow's: it has just been found by it.
                let _ = self
                    .env
                    .look_up(&self.scratch.key, |flow| flow.forward = hop);
                hop
            }
            Route::Defer | Route::Unreachable => old,
        }
    }

    /// Opens a flow with the candidate, or with another one if its reply could not be told from
    /// another connection's.
    #[inline(always)]
    fn open(&mut self, extent: Extent, first: Leg, found: &Found) -> Action {
        let (snat, hop) = match self.way_out(&first) {
            Ok(way) => way,
            Err(action) => return action,
        };
        if let Found::Expired = found {
            self.set_key(&first);
            self.env.remove(&self.scratch.key);
        }
        if !matches!(found, Found::Taken) && self.insert(&first, snat, hop) {
            return self.opened(&first, snat, hop);
        }
        for attempt in 1..select::PROBES {
            let Some(leg) = self.alternative(extent, &first, attempt) else {
                continue;
            };
            if self.insert(&leg, snat, hop) {
                self.pin(&leg);
                return self.opened(&leg, snat, hop);
            }
        }
        Action::Drop(Outcome::NoSnatPort)
    }

    /// SNAT address and next hop of a candidate that needs them.
    #[inline(always)]
    fn way_out(&self, leg: &Leg) -> Result<(Addr, Hop), Action> {
        match leg.nat {
            Nat::Keep => Ok((Addr::unspecified(), Hop::device(0))),
            Nat::Hairpin => Ok((self.parsed.tuple.dst, Hop::device(0))),
            Nat::Snat => {
                let hop = match self.env.route(self.parsed, leg.backend.addr) {
                    Route::Via(hop) => hop,
                    Route::Defer => return Err(Action::Defer),
                    Route::Unreachable => return Err(Action::Drop(Outcome::Unroutable)),
                };
                self.snat_address(hop, leg.backend.addr.is_v4())
                    .map(|addr| (addr, hop))
                    .ok_or(Action::Drop(Outcome::Unroutable))
            }
        }
    }

    #[inline(always)]
    fn snat_address(&self, hop: Hop, is_v4: bool) -> Option<Addr> {
        let interface = self.env.interface(hop.ifindex)?;
        let addr = if is_v4 {
            interface.snat4
        } else {
            interface.snat6
        };
        (addr.to_wire_words() != Addr::UNSPECIFIED.to_wire_words()).then_some(addr)
    }

    /// Another port to the same backend where we choose the port, else another backend.
    #[inline(always)]
    fn alternative(&self, extent: Extent, first: &Leg, attempt: u32) -> Option<Leg> {
        if first.nat != Nat::Keep {
            let source_port =
                select::snat_port(&self.config, &self.parsed.tuple, self.hash, attempt);
            return Some(Leg {
                source_port,
                ..*first
            });
        }
        let index = extent.slot_index(select::probe(self.hash, attempt));
        let leg = self.leg(self.env.slot(index)?.current, attempt)?;
        (leg.nat == Nat::Keep).then_some(leg)
    }

    #[inline(always)]
    fn insert(&mut self, leg: &Leg, snat: Addr, hop: Hop) -> bool {
        self.set_key(leg);
        let flow = &mut self.scratch.flow;
        *flow = Flow::new(&self.parsed.tuple, leg.reference, snat, hop, self.tick);
        let hz = self.config.ticks_per_second;
        let _ = flow.note(Direction::Forward, self.parsed.tcp_flags, self.tick, hz);
        self.env
            .insert_if_absent(&self.scratch.key, &self.scratch.flow)
    }

    #[inline(always)]
    fn pin(&mut self, leg: &Leg) {
        self.scratch.pin_key = self.parsed.tuple.pin();
        self.scratch.pin = Pin {
            backend: leg.reference,
            source_port: leg.source_port,
            pad: 0,
        };
        self.env
            .insert_pin(&self.scratch.pin_key, &self.scratch.pin);
    }

    #[inline(always)]
    fn opened(&self, leg: &Leg, snat: Addr, hop: Hop) -> Action {
        self.env.count(Outcome::NewFlow);
        match leg.nat {
            Nat::Keep => self.keep(leg),
            Nat::Hairpin => self.hairpin(leg),
            Nat::Snat => self.snat(leg, snat, hop),
        }
    }

    #[inline(always)]
    fn keep(&self, leg: &Leg) -> Action {
        Action::Stack(Rewrite {
            src: None,
            dst: Some(leg.endpoint()),
            routed: false,
        })
    }

    #[inline(always)]
    fn hairpin(&self, leg: &Leg) -> Action {
        Action::Bounce(Rewrite {
            src: Some(Endpoint {
                addr: self.parsed.tuple.dst,
                port: leg.source_port,
            }),
            dst: Some(leg.endpoint()),
            routed: false,
        })
    }

    #[inline(always)]
    fn snat(&self, leg: &Leg, snat: Addr, hop: Hop) -> Action {
        if self.parsed.ttl <= 1 || !self.env.fits(self.parsed, &hop) {
            // The stack tells the client why this packet cannot go on.
            return self.keep(leg);
        }
        if !self.env.can_send(&hop) {
            return Action::Defer;
        }
        let src = Endpoint {
            addr: snat,
            port: leg.source_port,
        };
        Action::Out(
            Rewrite {
                src: Some(src),
                dst: Some(leg.endpoint()),
                routed: true,
            },
            hop,
        )
    }
}

impl Leg {
    #[inline(always)]
    fn endpoint(&self) -> Endpoint {
        Endpoint {
            addr: self.backend.addr,
            port: self.backend.port,
        }
    }
}
