//! What the shipped programs cost a packet (`BPF_PROG_TEST_RUN`), without what the harness costs.
//!
//! A driver restores the packet before each run, gives it the ends of another flow, in random order,
//! and calls the program; what it takes with a program that only returns is subtracted. Connections
//! are made by their own packets. Verdict and counters of every run are checked.

mod calm;
mod cell;
mod connections;
mod driver;
mod establish;
mod others;
mod reference;
pub(super) mod scale;
mod tables;
mod walk;
mod world;

use std::{collections::HashMap, fs, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use self::{cell::Rig, driver::Driver, walk::Walk};
use super::{Common, progress::Progress, report::Row, samples::Samples};
use crate::programs::{Bench, Family};

const UNIT: &str = "ns/packet";

/// How many Services the figures of the goals are of.
const USUAL: u32 = 10_000;

/// What is measured, and how often.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Services in all, one of which is used.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, USUAL, 100_000])]
    services: Vec<u32>,

    /// Rounds of each measurement, in which harness and program take turns, and that count.
    #[arg(long, value_name = "N", default_value_t = 15)]
    rounds: usize,

    /// Measure only what has this in its name, in full.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// What is measured in all: how many Services there are, how many flows, and of what families.
struct Matrix {
    services: Vec<u32>,
    families: &'static [Family],
    walks: &'static [Walk],
    rounds: usize,
    /// How long a single measurement may go on.
    patience: Duration,
    is_quick: bool,
}

impl Matrix {
    fn new(options: &Options, common: &Common) -> Self {
        if common.quick {
            Self {
                services: vec![USUAL],
                families: &[Family::V4],
                walks: &Walk::ALL,
                rounds: options.rounds.min(7),
                patience: Duration::from_secs(1),
                is_quick: true,
            }
        } else {
            Self {
                services: options.services.clone(),
                families: &Family::ALL,
                walks: &Walk::ALL,
                rounds: options.rounds,
                patience: Duration::from_secs(4),
                is_quick: false,
            }
        }
    }

    /// How many numbers of flows there are.
    fn sizes(&self, family: Family, walk: &Walk) -> &'static [Size] {
        if !self.is_quick || family == Family::V4 && walk.hook() == "XDP" {
            &Size::ALL
        } else {
            &Size::FEW
        }
    }

    fn steps(&self) -> usize {
        1 + self.services.len() * self.families.len() * (self.walks.len() + 1)
    }
}

/// A number of flows. Of those that are hot, one is visited at a time.
#[derive(Clone, Copy, Debug)]
struct Size {
    flows: u32,
    name: &'static str,
}

impl Size {
    fn is_hot(self) -> bool {
        self.flows == Self::HOT.flows
    }

    const HOT: Self = Self {
        flows: 8,
        name: "hot",
    };
    const SOME: Self = Self {
        flows: 1 << 16,
        name: "64k flows",
    };
    const MANY: Self = Self {
        flows: 1 << 19,
        name: "512k flows",
    };
    const ALL: [Self; 3] = [Self::HOT, Self::SOME, Self::MANY];
    const FEW: [Self; 2] = [Self::HOT, Self::SOME];
}

/// What a cost is of.
#[derive(Clone)]
struct Subject {
    /// As the goals have it.
    what: String,
    hook: &'static str,
    family: Family,
    services: u32,
}

/// A cost, and of what it is.
struct Cost {
    of: Subject,
    samples: Samples,
}

impl Subject {
    fn name(&self) -> String {
        let services = if self.services == 1 {
            "1 Service".to_owned()
        } else {
            format!("{} Services", grouped(self.services))
        };
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        format!("{} ({}, {family}, {services})", self.what, self.hook)
    }

    /// Whether the goals are about it.
    fn is_usual(&self) -> bool {
        self.hook == "XDP" && self.family == Family::V4 && self.services == USUAL
    }
}

/// Measures all programs.
pub(super) fn measure(options: &Options, common: &Common) -> Result<Vec<Row>> {
    let matrix = Matrix::new(options, common);
    let most = matrix.services.iter().copied().max().unwrap_or(1);
    let (netns, bench) = Bench::set_up("perf", world::config(), world::specs(most, 0))?;
    let progress = Progress::new("programs", matrix.steps());
    let only = options.only.clone();
    // A program that is run finds its device in the network namespace of the calling thread.
    netns.run(|| {
        let mut rig = Rig::new(bench, matrix.rounds, matrix.patience, only)?;
        let rows = measure_all(&mut rig, &matrix, &progress);
        rig.complain();
        rows
    })?
}

fn measure_all(rig: &mut Rig, matrix: &Matrix, progress: &Progress) -> Result<Vec<Row>> {
    progress.at("single operations");
    let reference = reference::measure(rig)?;
    progress.step();
    let mut costs = Vec::new();
    for &services in &matrix.services {
        rig.bench.serve_model(&world::services(services));
        for &family in matrix.families {
            for walk in matrix.walks {
                progress.at(format!(
                    "{family:?}, {services} Services: {} at {}",
                    walk.nat,
                    walk.hook()
                ));
                let sizes = matrix.sizes(family, walk);
                costs.extend(connections::measure(rig, walk, family, services, sizes)?);
                progress.step();
            }
            progress.at(format!("{family:?}, {services} Services: other packets"));
            costs.extend(others::measure(rig, family, services)?);
            progress.step();
        }
    }
    Ok(rows(&costs, &reference))
}

/// First the figures of the goals, then all.
fn rows(costs: &[Cost], reference: &reference::Found) -> Vec<Row> {
    let mut rows = goals(costs, reference);
    rows.extend(reference.rows());
    rows.extend(costs.iter().map(|cost| {
        let row = Row::of(cost.of.name(), &cost.samples, UNIT);
        row.against(reference.dnat.median())
    }));
    rows
}

fn goals(costs: &[Cost], reference: &reference::Found) -> Vec<Row> {
    let mut rows = Vec::new();
    for cost in costs.iter().filter(|cost| cost.of.is_usual()) {
        let names = super::goals::GOALS.iter().map(|goal| goal.name);
        for name in names.filter(|name| *name == cost.of.what) {
            rows.push(Row::of(name, &cost.samples, UNIT).against(reference.dnat.median()));
        }
    }
    let unserved = costs.iter().filter(|cost| {
        cost.of.what == others::UNSERVED
            && cost.of.family == Family::V4
            && cost.of.services == USUAL
    });
    let dearest = unserved.max_by(|a, b| a.samples.median().total_cmp(&b.samples.median()));
    if let Some(cost) = dearest {
        let name = "a packet for no Service, each hook of its way";
        rows.push(Row::of(name, &cost.samples, UNIT).against(reference.dnat.median()));
    }
    rows
}

/// With commas.
pub(super) fn grouped(number: u32) -> String {
    if number < 1000 {
        number.to_string()
    } else {
        format!("{},{:03}", grouped(number / 1000), number % 1000)
    }
}

impl Rig {
    /// All that measures, on this thread, which from then on stays on a processor and goes first.
    fn new(
        mut bench: Bench,
        rounds: usize,
        patience: Duration,
        only: Option<String>,
    ) -> Result<Self> {
        go_first();
        stay_here()?;
        Ok(Self {
            kernel: bench.kernel()?,
            driver: Driver::load()?,
            bench,
            rounds,
            patience,
            fastest: HashMap::new(),
            measured: 0,
            disturbed: 0,
            only,
        })
    }

    /// Says so if the machine was too busy.
    fn complain(&self) {
        if self.disturbed > 0 {
            eprintln!(
                "perf: the machine was busy with other things during {} of {} measurements",
                self.disturbed, self.measured
            );
        }
    }

    /// Whether somebody wants to know.
    fn is_wanted(&self, of: &Subject) -> bool {
        let only = self.only.as_deref();
        only.is_none_or(|text| of.name().contains(text))
    }

    /// Forgets all connections.
    fn forget(&mut self) -> Result<()> {
        self.kernel.take_flows().context("empty FLOWS")?;
        self.kernel.take_opening().context("empty OPENING")?;
        self.kernel.take_pins().context("empty PINS")?;
        self.bench.renew_known();
        Ok(())
    }
}

/// Lets this thread go before those of others: a measurement that is interrupted is worth less.
fn go_first() {
    const FIRST: libc::c_int = -15;
    // Where the kernel shares processors between sessions first, a thread's own number does not
    // count beyond its session. Where it does not, there is no such file.
    let _ = fs::write("/proc/self/autogroup", FIRST.to_string());
    // SAFETY: changes a number of the calling thread. Where that is refused, figures spread more.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, FIRST) };
}

/// Keeps this thread on one processor: the programs' maps have memory of each.
fn stay_here() -> Result<()> {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).context("ask for processors")?;
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let last = (0..CpuSet::count()).rfind(is_allowed);
    let mut one = CpuSet::new();
    one.set(last.context("no processor")?)?;
    sched_setaffinity(me, &one).context("stay on a processor")
}
