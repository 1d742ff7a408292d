//! What one program costs with one kind of packets.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_common::counter::{Counter, Hook, Outcome};

use super::{
    calm::{Round, Rounds},
    driver::{Batch, Driver, FLOWS_MAX, Kind, Load, Target},
};
use crate::{
    perf::samples::Samples,
    programs::{Bench, Kernel, Program, Verdict},
};

/// Packets of a run: some milliseconds.
const PACKETS: usize = 1 << 15;
/// Packets of a run of new flows: their number is limited.
pub(super) const NEW: usize = 1 << 12;
/// Once in this time a packet of each flow costs more. What the others cost is measured in between.
const SLOW_TICK: Duration = Duration::from_secs(1);

/// Which flows the packets of a run are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Of those that are there, each as often as any other.
    Known,
    /// Of one in each run, another one of so many each time: where in memory a record lies has its
    /// own part in what it costs.
    Hot { of: usize },
    /// Of some in each run that no packet was of before, from the one with this number on; in so many
    /// rounds at most.
    New { first: usize, rounds: usize },
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell<'a> {
    pub(super) program: Program,
    pub(super) load: Load<'a>,
    pub(super) pass: Pass,
    pub(super) verdict: Verdict,
    /// What every packet counts.
    pub(super) counted: &'a [Outcome],
}

impl Cell<'_> {
    /// How many rounds there can be.
    fn most(&self) -> usize {
        match self.pass {
            Pass::Known | Pass::Hot { .. } => usize::MAX,
            Pass::New { rounds, .. } => rounds,
        }
    }

    /// Whether the program puts metadata before the packet, which the driver has to take away.
    fn leaves_mark(&self) -> bool {
        self.program == Program::Xdp && self.counted.contains(&Outcome::ToStack)
    }
}

/// All that measures.
pub(super) struct Rig {
    pub(super) bench: Bench,
    pub(super) kernel: Kernel,
    pub(super) driver: Driver,
    /// Rounds that are to count.
    pub(super) rounds: usize,
    /// How long a single measurement may go on.
    pub(super) patience: Duration,
    /// The least that the harness has taken: where, with how many flows, and with a mark or not.
    pub(super) fastest: HashMap<(Kind, usize, bool), f64>,
    pub(super) measured: usize,
    /// Measurements that a busy machine may have falsified.
    pub(super) disturbed: usize,
    /// What is measured, by a part of its name; nothing means all.
    pub(super) only: Option<String>,
}

impl Rig {
    /// Nanoseconds a packet, without what the driver takes, of each round that counts.
    pub(super) fn cost(&mut self, cell: &Cell<'_>) -> Result<Samples> {
        let (fd, ifindex) = self.bench.loaded(cell.program)?;
        self.driver.test(Kind::of(cell.program), fd, ifindex)?;
        let begun = Instant::now();
        let patience = match cell.pass {
            // At least once it has to wait for the slow tick.
            Pass::Known => self.patience + 2 * SLOW_TICK,
            _ => self.patience,
        };
        let mut rounds = Rounds::new(*self.fastest(cell));
        let mut fresh = self.refresh(cell)?;
        // Of more flows than can be visited in a second, every packet is a slow tick's.
        let has_ticks = fresh.elapsed() >= SLOW_TICK * 3 / 4;
        let mut before = self.base(cell, Self::batch(cell, 0))?;
        for round in 0..cell.most() {
            let batch = Self::batch(cell, round);
            let tested = self.tested(cell, batch)?;
            let is_late = fresh.elapsed() >= SLOW_TICK && begun.elapsed() < patience;
            if cell.pass == Pass::Known && is_late && !has_ticks {
                fresh = self.refresh(cell)?;
                before = self.base(cell, batch)?;
                continue;
            }
            let after = self.base(cell, batch)?;
            rounds.push(Round {
                before,
                tested,
                after,
            });
            before = after;
            if rounds.calm() >= self.rounds || begun.elapsed() >= patience {
                break;
            }
        }
        *self.fastest(cell) = rounds.fastest();
        self.measured += 1;
        self.disturbed +=
            usize::from(rounds.is_disturbed() || has_ticks && cell.load.flows < FLOWS_MAX);
        let net = rounds.net();
        ensure!(net.len() > 0, "nothing was measured");
        Ok(net)
    }

    /// The least that the harness has taken. How many flows it visits has its part in that.
    fn fastest(&mut self, cell: &Cell<'_>) -> &mut f64 {
        let key = (Kind::of(cell.program), cell.load.flows, cell.leaves_mark());
        self.fastest.entry(key).or_insert(f64::INFINITY)
    }

    /// Visits every flow that is known, in order, after so long a pause that its slow tick has come;
    /// when that began. For a second from then on there is none.
    fn refresh(&mut self, cell: &Cell<'_>) -> Result<Instant> {
        if cell.pass != Pass::Known {
            return Ok(Instant::now());
        }
        thread::sleep(SLOW_TICK);
        let (begun, packets) = (Instant::now(), cell.load.flows);
        self.tested(cell, Batch { first: 0, packets })?;
        Ok(begun)
    }

    /// The packets of one round: rounds go on where the last one has ended, so that all flows are
    /// visited before one is visited again.
    fn batch(cell: &Cell<'_>, round: usize) -> Batch {
        match cell.pass {
            Pass::Known => Batch {
                first: round * PACKETS,
                packets: PACKETS,
            },
            Pass::Hot { of } => Batch {
                first: round % of,
                packets: PACKETS,
            },
            Pass::New { first, .. } => Batch {
                first: first + round * NEW,
                packets: NEW,
            },
        }
    }

    /// What the driver takes by itself.
    fn base(&mut self, cell: &Cell<'_>, batch: Batch) -> Result<f64> {
        let plain = self.driver.run(Target::Return, cell.load, batch)?.ns;
        if !cell.leaves_mark() {
            return Ok(plain);
        }
        // To leave a mark is the program's work, to take it away the driver's; both cost the same.
        let marked = self.driver.run(Target::Mark, cell.load, batch)?.ns;
        Ok(f64::midpoint(plain, marked))
    }

    /// What driver and program take together.
    fn tested(&mut self, cell: &Cell<'_>, batch: Batch) -> Result<f64> {
        let before = self.kernel.counters()?;
        let ran = self.driver.run(Target::Tested, cell.load, batch)?;
        let after = self.kernel.counters()?;
        let verdict = Verdict::new(cell.program, ran.verdict);
        ensure!(
            verdict == cell.verdict,
            "the verdict is {verdict:?}, not {:?}",
            cell.verdict
        );
        let moved = moved(&before, &after);
        let expected = expected(cell, batch.packets as u64);
        ensure!(moved == expected, "counted was {moved:?}, not {expected:?}");
        Ok(ran.ns)
    }
}

fn moved(before: &[u64], after: &[u64]) -> Vec<(Hook, Outcome, u64)> {
    let mut moved = Vec::new();
    for hook in Hook::ALL {
        for outcome in Outcome::ALL {
            let index = Counter { hook, outcome }.index() as usize;
            if after[index] != before[index] {
                moved.push((hook, outcome, after[index] - before[index]));
            }
        }
    }
    moved
}

fn expected(cell: &Cell<'_>, packets: u64) -> Vec<(Hook, Outcome, u64)> {
    let all = Outcome::ALL.into_iter();
    let counted = all.filter(|outcome| cell.counted.contains(outcome));
    counted
        .map(|outcome| (cell.program.hook(), outcome, packets))
        .collect()
}
