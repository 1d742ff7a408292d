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
    let windows = (0..PATIENCE).map(|_| stage.send(contender, load, scope.window));
    least_disturbed(windows).with_context(|| format!("{}, {load}", contender.name()))
}

/// The first window that nobody has disturbed, or that which was disturbed least. Where a process that goes before takes the
/// processor for all of a window, or what makes the node forward waits for it, nothing arrives, or is late: that is
/// said of a contender only when it is so each time.
fn least_disturbed(windows: impl Iterator<Item = Result<Sent>>) -> Result<Sent> {
    let (mut best, mut wrong): (Option<Sent>, _) = (None, None);
    for sent in windows {
        let sent = sent?;
        if !sent.is_meaningful() {
            wrong = Some(sent);
            continue;
        }
        if sent.disturbance() <= UNDISTURBED {
            return Ok(sent);
        }
        if best.is_none_or(|best| sent.disturbance() < best.disturbance()) {
            best = Some(sent);
        }
    }
    best.with_context(|| match wrong {
        Some(Sent { lost, arrived, .. }) => {
            format!("{lost} datagrams were lost, {arrived} arrived, and so it was each time")
        }
        None => "nothing was sent".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(arrived: u64, lost: u64, waited: u64) -> Result<Sent> {
        Ok(Sent {
            arrived,
            lost,
            took: Duration::from_millis(100),
            waited: Duration::from_millis(waited),
        })
    }

    #[test]
    fn first_undisturbed_window_counts_or_the_least_disturbed_one() {
        let of = |windows: Vec<Result<Sent>>| least_disturbed(windows.into_iter());
        let first = of(vec![sent(1, 0, 50), sent(2, 0, 3), sent(3, 0, 0)]);
        assert_eq!(first.unwrap().arrived, 2);
        let least = of(vec![sent(1, 0, 50), sent(2, 0, 40), sent(3, 0, 60)]);
        assert_eq!(least.unwrap().arrived, 2);
    }

    #[test]
    fn windows_in_which_nothing_or_too_little_arrived_do_not_count() {
        let late = least_disturbed([sent(0, 0, 0), sent(99, 1, 0), sent(200, 2, 0)].into_iter());
        assert_eq!(late.unwrap().arrived, 200);
        let never = least_disturbed([sent(0, 0, 0), sent(99, 1, 0)].into_iter());
        let text = never.unwrap_err().to_string();
        assert!(
            text.starts_with("1 datagrams were lost, 99 arrived"),
            "{text}"
        );
    }
}
