//! How many TCP connections a second there can be, and how long they take: pod → ClusterIP, and
//! outside → NodePort; ours, directly, and by rules such as kube-proxy's.

mod stage;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use self::stage::Stage;
use super::progress::Progress;
use super::report::Row;
use super::samples::Samples;
use crate::tool::Crowded;

/// Rounds whose baseline differs by more are measured again, not averaged.
const CALM: f64 = 0.15;
/// So often, at most.
const ATTEMPTS: usize = 3;

/// What is measured.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Services of the clusters with rules, of which one is in use; may be repeated [default:
    /// 1,10000; with --quick 1].
    #[arg(long, value_name = "N", value_delimiter = ',')]
    services: Vec<u32>,

    /// How often each is measured [default: 9; with --quick 5].
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,

    /// Milliseconds that count, of each time.
    #[arg(long, value_name = "MS", default_value_t = 300)]
    window: u64,
}

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Contender {
    /// Nobody: clients know the backend, and netfilter is not there.
    Direct,
    /// Ours, packet by packet.
    PerPacket,
    /// Ours, once for each socket.
    Sockets,
    /// Rules such as kube-proxy's, for so many Services.
    Iptables(u32),
    Nftables(u32),
}

impl Contender {
    fn name(self) -> String {
        match self {
            Self::Direct => "directly".to_owned(),
            Self::PerPacket => "ours, per packet".to_owned(),
            Self::Sockets => "ours, through sockets".to_owned(),
            Self::Iptables(1) => "iptables, 1 Service".to_owned(),
            Self::Nftables(1) => "nftables, 1 Service".to_owned(),
            Self::Iptables(count) => format!("iptables, {count} Services"),
            Self::Nftables(count) => format!("nftables, {count} Services"),
        }
    }

    fn services(self) -> u32 {
        match self {
            Self::Iptables(count) | Self::Nftables(count) => count,
            _ => 1,
        }
    }

    /// All of them; for every day, those that there are goals for.
    fn all(services: &[u32], quick: bool) -> Vec<Self> {
        let ours = [Self::Direct, Self::PerPacket, Self::Sockets];
        let iptables = services.iter().map(|count| Self::Iptables(*count));
        let nftables = services.iter().map(|count| Self::Nftables(*count));
        let iptables = iptables.filter(|_| !quick);
        ours.into_iter().chain(nftables).chain(iptables).collect()
    }
}

/// Where clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    /// In a pod of the same node; they ask a ClusterIP.
    Pod,
    /// Outside of the cluster; they ask a port of the node.
    Outside,
}

/// What a crowd does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    from: From,
    /// Whether connections are kept.
    keep: bool,
}

impl Question {
    const ALL: [Self; 3] = [
        Self {
            from: From::Pod,
            keep: false,
        },
        Self {
            from: From::Pod,
            keep: true,
        },
        Self {
            from: From::Outside,
            keep: false,
        },
    ];

    /// Whether a contender can be asked so: nobody outside knows pods, and nobody translates their
    /// sockets.
    fn is_for(self, contender: Contender) -> bool {
        let is_outside = self.from == From::Outside;
        !(is_outside && matches!(contender, Contender::Direct | Contender::Sockets))
    }

    fn name(self) -> &'static str {
        match (self.from, self.keep) {
            (From::Pod, false) => "TCP connections/s pod → ClusterIP",
            (From::Pod, true) => "kept connections, requests/s pod → ClusterIP",
            (From::Outside, false) => "TCP connections/s outside → NodePort",
            (From::Outside, true) => "kept connections, requests/s outside → NodePort",
        }
    }
}

/// What rounds have yielded.
#[derive(Clone, Debug, Default)]
struct Rounds {
    per_second: Vec<f64>,
    /// Milliseconds: of each round the median and the 99th percentile.
    median: Samples,
    late: Samples,
}

impl Rounds {
    fn note(&mut self, crowded: Crowded, window: Duration) {
        let answered = crowded.took_us.len() as f64;
        self.per_second.push(answered / window.as_secs_f64());
        let took = crowded.took_us.into_iter().map(|us| us / 1000.0);
        let took: Samples = took.collect();
        self.median.push(took.median());
        self.late.push(took.percentile(0.99));
    }

    fn rate(&self) -> Samples {
        self.per_second.iter().copied().collect()
    }
}

type Results = BTreeMap<(Question, Contender), Rounds>;

/// Measures all of it.
pub(super) fn measure(options: &Options, quick: bool) -> Result<Vec<Row>> {
    let services = match (&*options.services, quick) {
        ([], true) => &[1][..],
        ([], false) => &[1, 10_000],
        (given, _) => given,
    };
    let contenders = Contender::all(services, quick);
    let rounds = options.rounds.unwrap_or(if quick { 5 } else { 9 });
    ensure!(rounds > 0, "there has to be a round");
    let window = Duration::from_millis(options.window);
    let progress = Progress::new("connections", Question::ALL.len() * rounds);
    let stage = Stage::build(&contenders, |what| progress.at(what))?;
    let mut results = Results::new();
    for question in Question::ALL {
        let contenders = contenders.iter().copied();
        let series: Vec<_> = contenders.filter(|c| question.is_for(*c)).collect();
        for attempt in 1..=ATTEMPTS {
            let measured = ask_all(&stage, question, &series, (rounds, window), &progress)?;
            let is_calm = measured
                .iter()
                .next()
                .is_none_or(|(_, baseline)| baseline.rate().spread() <= CALM);
            results.extend(measured);
            if is_calm || attempt == ATTEMPTS {
                break;
            }
        }
    }
    Ok(rows(&results))
}

/// All rounds of a question, to each contender by turns.
fn ask_all(
    stage: &Stage,
    question: Question,
    contenders: &[Contender],
    (rounds, window): (usize, Duration),
    progress: &Progress,
) -> Result<Results> {
    let mut results = Results::new();
    for _ in 0..rounds {
        for contender in contenders {
            progress.at(format!("{}: {}", question.name(), contender.name()));
            let crowded = stage.ask(*contender, question, window)?;
            ensure!(
                crowded.failed == 0 && !crowded.took_us.is_empty(),
                "{}: {}: {} were answered, {} were not",
                question.name(),
                contender.name(),
                crowded.took_us.len(),
                crowded.failed
            );
            let rounds = results.entry((question, *contender)).or_default();
            rounds.note(crowded, window);
        }
        progress.step();
    }
    Ok(results)
}

/// Rows for each contender, then those that there are goals for.
fn rows(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    for ((question, contender), rounds) in results {
        let name = format!("{}: {}", question.name(), contender.name());
        let baseline = results.get(&(*question, Contender::Direct));
        let rate = Row::of(name.clone(), &rounds.rate(), "/s");
        rows.push(match baseline {
            Some(direct) if *contender != Contender::Direct => rate.against(direct.rate().median()),
            _ => rate,
        });
        rows.push(Row::of(format!("{name}, p50"), &rounds.median, "ms"));
        rows.push(Row::of(format!("{name}, p99"), &rounds.late, "ms"));
    }
    let ratio = |one, other| {
        let of = |contender| Some(&results.get(&(Question::ALL[0], contender))?.per_second);
        let (one, other): (&Vec<f64>, &Vec<f64>) = (of(one)?, of(other)?);
        Some(
            one.iter()
                .zip(other)
                .map(|(one, other)| one / other)
                .collect::<Samples>(),
        )
    };
    let nftables = Contender::Nftables(1);
    let goals = [
        (
            "per packet, against nftables",
            Contender::PerPacket,
            nftables,
        ),
        (
            "through sockets, against nftables",
            Contender::Sockets,
            nftables,
        ),
        (
            "through sockets, against a direct connection",
            Contender::Sockets,
            Contender::Direct,
        ),
    ];
    rows.extend(goals.into_iter().filter_map(|(name, one, other)| {
        let name = format!("{}, {name}", Question::ALL[0].name());
        Some(Row::of(name, &ratio(one, other)?, "×"))
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(per_second: [f64; 2]) -> Rounds {
        Rounds {
            per_second: per_second.to_vec(),
            ..Rounds::default()
        }
    }

    #[test]
    fn ratios_have_goals_and_are_of_the_same_round() {
        let question = Question::ALL[0];
        let results = Results::from([
            ((question, Contender::PerPacket), rounds([150.0, 300.0])),
            ((question, Contender::Nftables(1)), rounds([100.0, 200.0])),
        ]);
        let rows = rows(&results);
        let row = rows.last().unwrap();
        assert_eq!(
            row.name,
            "TCP connections/s pod → ClusterIP, per packet, against nftables"
        );
        assert_eq!((row.value, row.spread), (1.5, Some(0.0)));
        assert_eq!(row.meets_gate, Some(true));
    }

    #[test]
    fn rounds_say_how_long_most_took() {
        let mut rounds = Rounds::default();
        let took_us = (0..=100).map(|percent| f64::from(percent) * 1000.0);
        let crowded = Crowded {
            took_us: took_us.collect(),
            failed: 0,
        };
        rounds.note(crowded, Duration::from_millis(500));
        assert_eq!(rounds.per_second, [202.0]);
        assert_eq!(rounds.median.median(), 50.0);
        assert_eq!(rounds.late.median(), 99.0);
    }
}
