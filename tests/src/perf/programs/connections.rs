//! Packets of connections: new, established, and in a flood.

use anyhow::{Context as _, Result};
use lb_common::counter::Outcome;

use super::{
    Cost, Size, Subject,
    cell::{Cell, NEW, Pass, Rig},
    driver::{Batch, Ends, FLOWS_MAX, Kind, Load, Target},
    establish::{Established, establish, unknown},
    walk::{Walk, case, family_number, frame},
};
use crate::{perf::samples::Samples, programs::Family};

/// Rounds of new connections that there is room for.
const ROOM: usize = (1 << 16) / NEW;
/// Number of the first client that has no connection.
const STRANGERS: u32 = 1 << 20;
/// SYNs that fill the memory of connections without an answer: more than it has room for.
const FLOOD: usize = 1 << 18;

/// What the packets of a walk cost, with nothing known at first.
pub(super) fn measure(
    rig: &mut Rig,
    walk: &Walk,
    family: Family,
    services: u32,
    sizes: &[Size],
) -> Result<Vec<Cost>> {
    rig.forget()?;
    let mut measured = Measured {
        rig,
        walk,
        family,
        services,
        known: Known::new(*walk, family),
        costs: Vec::new(),
    };
    measured.openings()?;
    for size in sizes {
        measured.established(*size)?;
    }
    measured.opening_in_full_table()?;
    let costs = measured.costs;
    rig.forget()?;
    Ok(costs)
}

/// Connections that are there.
pub(super) struct Known {
    walk: Walk,
    family: Family,
    established: Established,
}

impl Known {
    /// None yet.
    pub(super) fn new(walk: Walk, family: Family) -> Self {
        Self {
            walk,
            family,
            established: Established::default(),
        }
    }

    /// How many there are.
    fn len(&self) -> u32 {
        self.established.forward.len() as u32
    }

    /// Lets clients connect until there are so many.
    pub(super) fn grow(&mut self, rig: &mut Rig, flows: u32) -> Result<()> {
        let more = self.len()..flows;
        let made = establish(&mut rig.kernel, &self.walk, self.family, more)?;
        self.established.append(made);
        Ok(())
    }

    /// What the clients' packets cost.
    pub(super) fn forward(&self, rig: &mut Rig) -> Result<Samples> {
        let walk = &self.walk;
        let frontend = walk.frontend(self.family, 0);
        let client = walk.client(self.family, 0);
        let packet = frame(case(self.family).following(client, frontend));
        let counted = [Outcome::Seen, walk.outcome];
        let flows = self.established.forward.clone();
        let cell = self.cell(rig, &packet, flows);
        rig.cost(&Cell {
            program: walk.forward,
            verdict: walk.verdict,
            counted: &counted,
            ..cell
        })
    }

    /// What the backends' packets cost.
    pub(super) fn reply(&self, rig: &mut Rig) -> Result<Samples> {
        let walk = &self.walk;
        let [backend, client] = self.established.example.context("no connection")?;
        let packet = frame(case(self.family).following(backend, client));
        let counted = [Outcome::Seen, walk.reply_outcome];
        let flows = self.established.reply.clone();
        let cell = self.cell(rig, &packet, flows);
        rig.cost(&Cell {
            program: walk.reply,
            verdict: walk.reply_verdict,
            counted: &counted,
            ..cell
        })
    }

    fn cell<'a>(&self, rig: &mut Rig, packet: &'a [u8], flows: Vec<Ends>) -> Cell<'a> {
        let count = flows.len();
        visit(rig, flows);
        let (flows, pass) = if count == Size::HOT.flows as usize {
            (1, Pass::Hot { of: count })
        } else {
            (count, Pass::Known)
        };
        Cell {
            program: self.walk.forward,
            load: load(packet, self.family, flows),
            pass,
            verdict: self.walk.verdict,
            counted: &[],
        }
    }
}

/// Lets the driver visit flows, in random order.
fn visit(rig: &mut Rig, mut flows: Vec<Ends>) {
    fastrand::Rng::with_seed(1).shuffle(&mut flows);
    rig.driver.flows_mut()[..flows.len()].copy_from_slice(&flows);
}

fn load(frame: &[u8], family: Family, flows: usize) -> Load<'_> {
    Load {
        frame,
        family: family_number(family),
        flows,
    }
}

struct Measured<'a> {
    rig: &'a mut Rig,
    walk: &'a Walk,
    family: Family,
    services: u32,
    known: Known,
    costs: Vec<Cost>,
}

impl Measured<'_> {
    /// First packets, while there is room, and in a flood of them.
    fn openings(&mut self) -> Result<()> {
        self.strangers();
        self.opening("with room", 0, ROOM)?;
        self.flood("SYN flood")?;
        self.rig.forget()
    }

    /// First packets, with as many connections as there can be, and a flood beside them.
    fn opening_in_full_table(&mut self) -> Result<()> {
        let refused = self.walk.refused(&self.rig.kernel)?;
        let next = self.known.len();
        let one_more = next..next + 1;
        establish(&mut self.rig.kernel, self.walk, self.family, one_more)?;
        if self.walk.refused(&self.rig.kernel)? == refused {
            return Ok(());
        }
        self.strangers();
        self.flood("table full")
    }

    fn opening(&mut self, state: &str, first: usize, rounds: usize) -> Result<()> {
        let of = self.of(self.opening_name(state), self.walk.hook());
        let counted = [Outcome::Seen, self.walk.outcome, Outcome::NewFlow];
        let syn = self.syn();
        let cell = Cell {
            program: self.walk.forward,
            load: load(&syn, self.family, FLOWS_MAX),
            pass: Pass::New { first, rounds },
            verdict: self.walk.verdict,
            counted: &counted,
        };
        self.measure(of, &cell)
    }

    /// As the goals have it: what SNAT takes is the most.
    fn opening_name(&self, state: &str) -> String {
        if self.walk.is_snat() {
            format!("new connection: {state}")
        } else {
            format!("new connection: {state}, DNAT")
        }
    }

    /// First packets after so many that those without an answer give way to each other.
    fn flood(&mut self, state: &str) -> Result<()> {
        let of = self.of(self.opening_name(state), self.walk.hook());
        if !self.rig.is_wanted(&of) {
            return Ok(());
        }
        let (fd, ifindex) = self.rig.bench.loaded(self.walk.forward)?;
        let kind = Kind::of(self.walk.forward);
        self.rig.driver.test(kind, fd, ifindex)?;
        let batch = Batch {
            first: 0,
            packets: FLOOD,
        };
        let syn = self.syn();
        let load = load(&syn, self.family, FLOWS_MAX);
        self.rig.driver.run(Target::Tested, load, batch)?;
        self.opening(state, FLOOD, (FLOWS_MAX - FLOOD) / NEW)
    }

    /// Lets the driver visit clients that have no connection.
    fn strangers(&mut self) {
        let flows = unknown(self.walk, self.family, STRANGERS, FLOWS_MAX);
        visit(self.rig, flows);
    }

    fn syn(&self) -> Vec<u8> {
        let client = self.walk.client(self.family, 0);
        let frontend = self.walk.frontend(self.family, 0);
        frame(case(self.family).opening(client, frontend))
    }

    /// Packets of connections that are there, both ways.
    fn established(&mut self, size: Size) -> Result<()> {
        let walk = self.walk;
        let tcp = if walk.is_snat() || size.is_hot() {
            ""
        } else {
            "TCP "
        };
        let what = format!("established, {}: {tcp}{}", size.name, walk.nat);
        let forward = self.of(what, walk.hook());
        let what = if walk.is_snat() {
            format!("reply, {}", size.name)
        } else {
            format!("reply, {}: DNAT", size.name)
        };
        let reply = self.of(what, walk.reply_hook());
        let [wants_forward, wants_reply] = [&forward, &reply].map(|of| self.rig.is_wanted(of));
        if wants_forward || wants_reply {
            self.known.grow(self.rig, size.flows)?;
        }
        if wants_forward {
            let samples = self.known.forward(self.rig)?;
            self.costs.push(Cost {
                of: forward,
                samples,
            });
        }
        if wants_reply {
            let samples = self.known.reply(self.rig)?;
            self.costs.push(Cost { of: reply, samples });
        }
        Ok(())
    }

    fn of(&self, what: String, hook: &'static str) -> Subject {
        Subject {
            what,
            hook,
            family: self.family,
            services: self.services,
        }
    }

    fn measure(&mut self, of: Subject, cell: &Cell<'_>) -> Result<()> {
        if self.rig.is_wanted(&of) {
            let samples = self.rig.cost(cell)?;
            self.costs.push(Cost { of, samples });
        }
        Ok(())
    }
}
