//! What follows from the rates.

use std::fmt;

use super::{Contender, Load, Rates};
use crate::lab::Flows;
use crate::perf::programs::grouped;
use crate::perf::report::Row;
use crate::perf::samples::Samples;
use crate::perf::services::Family;

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        write!(f, "{family}, {}", flows(self.flows))
    }
}

fn flows(flows: Flows) -> &'static str {
    match flows {
        Flows::One => "one flow",
        Flows::Many => "64k flows",
        Flows::New => "all new",
    }
}

/// A row for each rate, then those that there are goals for.
pub(super) fn rows(rates: &Rates) -> Vec<Row> {
    let compare = Compare { rates };
    let mut rows: Vec<_> = rates.keys().filter_map(|key| compare.rate(*key)).collect();
    rows.extend(compare.goals());
    rows
}

struct Compare<'a> {
    rates: &'a Rates,
}

impl Compare<'_> {
    /// Millions a second, against plain forwarding.
    fn rate(&self, (load, contender): (Load, Contender)) -> Option<Row> {
        let millions = |contender| {
            let rates = self.rates.get(&(load, contender))?.iter();
            Some(rates.map(|rate| rate / 1e6).collect::<Samples>())
        };
        let name = format!("forward, {load}: {}", contender.name());
        let row = Row::of(name, &millions(contender)?, "Mpps");
        Some(match millions(Contender::Plain) {
            Some(plain) if contender != Contender::Plain => row.against(plain.median()),
            _ => row,
        })
    }

    fn goals(&self) -> Vec<Row> {
        let ours = Contender::Xdp(1);
        let mut rows = Vec::new();
        for flow in Flows::ALL {
            let load = Load {
                family: Family::V4,
                flows: flow,
            };
            for (name, other) in [
                ("plain forwarding", Contender::Plain),
                ("nftables", Contender::Nftables(1)),
            ] {
                let name = format!("throughput against {name}, {}", flows(flow));
                rows.extend(times(name, self.ratio((load, ours), (load, other))));
            }
        }
        let new = Load {
            family: Family::V4,
            flows: Flows::New,
        };
        let many = |contender: fn(u32) -> Contender| (new, contender(10_000));
        rows.extend(times(
            "new flows against iptables with 10,000 Services",
            self.ratio(many(Contender::Xdp), many(Contender::Iptables)),
        ));
        let to_v4 = |load: Load| {
            (
                (load, ours),
                (
                    Load {
                        family: Family::V4,
                        ..load
                    },
                    ours,
                ),
            )
        };
        rows.extend(
            [10_000, 100_000]
                .into_iter()
                .filter_map(|count| self.growth(count)),
        );
        rows.extend(times("IPv6 against IPv4", self.least(Family::V6, to_v4)));
        let to_nftables = |load| ((load, Contender::Tcx(1)), (load, Contender::Nftables(1)));
        rows.extend(times(
            "tcx against nftables, same walks",
            self.least(Family::V4, to_nftables),
        ));
        rows
    }

    /// How much dearer a datagram for one Service is among so many, per cent: against that Service alone in the same round,
    /// with IPv4, and of the flows for which it has changed most.
    fn growth(&self, services: u32) -> Option<Row> {
        let rates = |flows, contender| {
            let family = Family::V4;
            self.rates.get(&(Load { family, flows }, contender))
        };
        let changed = |flows| {
            let alone = rates(flows, Contender::Xdp(1))?.iter();
            let among = rates(flows, Contender::Xdp(services))?;
            let changes = alone.zip(among).map(|(alone, among)| alone / among - 1.0);
            Some(changes.collect::<Samples>().median() * 100.0)
        };
        let changes: Option<Vec<f64>> = Flows::ALL.into_iter().map(changed).collect();
        let most = changes?
            .into_iter()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()))?;
        let name = format!("the same with {} Services instead of 1", grouped(services));
        // A spread is a part of the median, which is near zero here.
        Some(Row::new(name, most, "%"))
    }

    /// The least ratio, whatever the flows are.
    fn least(
        &self,
        family: Family,
        pair: impl Fn(Load) -> ((Load, Contender), (Load, Contender)),
    ) -> Option<Samples> {
        let loads = Flows::ALL.map(|flows| Load { family, flows });
        let ratios = loads.into_iter().filter_map(|load| {
            let (one, other) = pair(load);
            self.ratio(one, other)
        });
        ratios.min_by(|a, b| a.median().total_cmp(&b.median()))
    }

    /// The ratios of rounds: one to the other in the same round.
    fn ratio(&self, one: (Load, Contender), other: (Load, Contender)) -> Option<Samples> {
        let (one, other) = (self.rates.get(&one)?, self.rates.get(&other)?);
        let mut ratios = Samples::default();
        for (one, other) in one.iter().zip(other) {
            ratios.push(one / other);
        }
        Some(ratios)
    }
}

fn times(name: impl Into<String>, ratio: Option<Samples>) -> Option<Row> {
    Some(Row::of(name, &ratio?, "×"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(entries: &[(Family, Flows, Contender, [f64; 3])]) -> Rates {
        let entry = |&(family, flows, contender, rates): &(_, _, _, [f64; 3])| {
            ((Load { family, flows }, contender), rates.to_vec())
        };
        entries.iter().map(entry).collect()
    }

    #[track_caller]
    fn value(rows: &[Row], name: &str) -> f64 {
        let row = rows.iter().find(|row| row.name == name);
        row.unwrap_or_else(|| panic!("no {name} in {rows:#?}"))
            .value
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let rows = rows(&rates(&[
            (Family::V4, Flows::One, Contender::Plain, [1e6, 2e6, 4e6]),
            (Family::V4, Flows::One, Contender::Xdp(1), [3e6, 6e6, 12e6]),
        ]));
        let name = "throughput against plain forwarding, one flow";
        assert_eq!(value(&rows, name), 3.0);
        let row = rows.iter().find(|row| row.name == name).unwrap();
        assert_eq!(row.spread, Some(0.0));
        assert_eq!(row.meets_gate, Some(true));
        assert_eq!(
            value(&rows, "forward, IPv4, one flow: ours, XDP, 1 Service"),
            6.0
        );
    }

    #[test]
    fn growth_is_of_the_same_round_and_of_the_flows_that_it_is_worst_for() {
        let entries: Vec<_> = Flows::ALL
            .into_iter()
            .flat_map(|flows| {
                let alone = if flows == Flows::New {
                    [1e6, 2e6, 4e6]
                } else {
                    [0.8e6, 1.6e6, 3.2e6]
                };
                let alone = (Family::V4, flows, Contender::Xdp(1), alone);
                let among = (
                    Family::V4,
                    flows,
                    Contender::Xdp(10_000),
                    [0.8e6, 1.6e6, 3.2e6],
                );
                [alone, among]
            })
            .collect();
        let name = "the same with 10,000 Services instead of 1";
        let all = rows(&rates(&entries));
        assert!((value(&all, name) - 25.0).abs() < 1e-9);
        assert!(!all.iter().any(|row| row.name.contains("100,000")));
        let some = rows(&rates(&entries[..2]));
        assert!(!some.iter().any(|row| row.name == name), "not all flows");
    }

    #[test]
    fn least_favourable_flows_count() {
        let (v4, v6, ours) = (Family::V4, Family::V6, Contender::Xdp(1));
        let rows = rows(&rates(&[
            (v4, Flows::One, ours, [2e6; 3]),
            (v6, Flows::One, ours, [2e6; 3]),
            (v4, Flows::New, ours, [1e6; 3]),
            (v6, Flows::New, ours, [0.5e6; 3]),
        ]));
        assert_eq!(value(&rows, "IPv6 against IPv4"), 0.5);
    }
}
