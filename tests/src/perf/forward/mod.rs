//! How many datagrams a second a node forwards, on one processor: ours, the kernel alone, and rules
//! such as kube-proxy's, one after the other and again.

mod rows;
mod stage;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use self::stage::{Contender, Stage};
use super::progress::Progress;
use super::report::Row;
use super::rules::Dialect;
use super::samples::Samples;
use super::services::Family;
use crate::lab::{Flows, Sent};

/// Rounds whose baseline differs by more are measured again, not averaged.
const CALM: f64 = 0.15;
/// So often, at most.
const ATTEMPTS: usize = 3;
/// A window in which other processes had more of the processor does not count.
const UNDISTURBED: f64 = 0.03;
/// So many such windows in a row do.
const PATIENCE: usize = 5;

/// What is measured.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Services of a cluster, of which one is in use; may be repeated [default:
    /// 1,1000,10000,100000; with --quick 1,10000].
    #[arg(long, value_name = "N", value_delimiter = ',')]
    services: Vec<u32>,

    /// How often each is measured [default: 9; with --quick 5].
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,

    /// Milliseconds that count, of each time.
    #[arg(long, value_name = "MS", default_value_t = 150)]
    window: u64,
}

/// What is measured, once all is decided.
#[derive(Debug)]
struct Scope {
    contenders: Vec<Contender>,
    /// What is measured by turns, as it is to be compared.
    series: Vec<Vec<(Load, Contender)>>,
    rounds: usize,
    window: Duration,
}

/// What datagrams are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Load {
    family: Family,
    flows: Flows,
}

/// Datagrams a second, round by round.
type Rates = BTreeMap<(Load, Contender), Vec<f64>>;

impl Options {
    fn scope(&self, quick: bool) -> Scope {
        let services = match (&*self.services, quick) {
            ([], true) => &[1, 10_000],
            ([], false) => &[1, 1000, 10_000, 100_000][..],
            (given, _) => given,
        };
        let contenders = Contender::all(services, quick);
        let series = Flows::ALL.into_iter().map(|flows| {
            let loads = Family::ALL.map(|family| Load { family, flows });
            let all = loads
                .into_iter()
                .flat_map(|load| contenders.iter().map(move |contender| (load, *contender)));
            all.filter(|(load, contender)| contender.takes_part(*load, quick))
                .collect()
        });
        Scope {
            series: series.collect(),
            contenders: contenders.clone(),
            rounds: self.rounds.unwrap_or(if quick { 5 } else { 9 }),
            window: Duration::from_millis(self.window),
        }
    }
}

/// Measures all of it.
pub(super) fn measure(options: &Options, quick: bool) -> Result<Vec<Row>> {
    let scope = options.scope(quick);
    ensure!(scope.rounds > 0, "there has to be a round");
    let steps = scope.series.iter().map(Vec::len).sum::<usize>() * scope.rounds;
    for dialect in [Dialect::Iptables, Dialect::Nftables] {
        eprintln!("forward: rules by {}", dialect.version()?);
    }
    let progress = Progress::new("forward", steps);
    let mut stage = Stage::build(&scope.contenders, |what| progress.at(what))?;
    let mut rates = Rates::new();
    for series in &scope.series {
        rates.extend(measure_series(&mut stage, &scope, series, &progress)?);
    }
    Ok(rows::rows(&rates))
}

/// All rounds of what is compared; again, if the baseline is not calm.
fn measure_series(
    stage: &mut Stage,
    scope: &Scope,
    series: &[(Load, Contender)],
    progress: &Progress,
) -> Result<Rates> {
    let mut attempt = 1;
    loop {
        let mut rates = Rates::new();
        for _ in 0..scope.rounds {
            for &(load, contender) in series {
                progress.at(format!("{}, {load}", contender.name()));
                let sent = undisturbed(stage, scope, load, contender)?;
                rates
                    .entry((load, contender))
                    .or_default()
                    .push(sent.rate());
                if attempt == 1 {
                    progress.step();
                }
            }
        }
        if attempt == ATTEMPTS || is_calm(&rates) {
            return Ok(rates);
        }
        attempt += 1;
    }
}

/// Whether the baseline was much the same in all rounds.
fn is_calm(rates: &Rates) -> bool {
    let baselines = rates
        .iter()
        .filter(|((_, contender), _)| *contender == Contender::Plain);
    let mut spreads =
        baselines.map(|(_, rates)| rates.iter().copied().collect::<Samples>().spread());
    spreads.all(|spread| spread <= CALM)
}

/// Measures until nobody has disturbed, or somebody always does.
fn undisturbed(stage: &mut Stage, scope: &Scope, load: Load, contender: Contender) -> Result<Sent> {
    let mut best: Option<Sent> = None;
    for _ in 0..PATIENCE {
        let sent = stage.send(contender, load, scope.window)?;
        ensure!(
            sent.lost * 100 <= sent.arrived,
            "{}, {load}: {} datagrams were lost, {} arrived",
            contender.name(),
            sent.lost,
            sent.arrived
        );
        if sent.disturbance() <= UNDISTURBED {
            return Ok(sent);
        }
        if best.is_none_or(|best| sent.disturbance() < best.disturbance()) {
            best = Some(sent);
        }
    }
    best.context("nothing was sent")
}
