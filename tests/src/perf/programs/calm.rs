//! Which rounds count.
//!
//! Processors that share a core run at half speed while both are busy, and clocks change: the
//! harness by itself, measured before and after each run, tells. Only rounds between two that went as
//! fast as it ever does count.

use crate::perf::samples::Samples;

/// How much slower than at best the harness may be.
const CALM: f64 = 0.15;
/// Rounds that count at least, whatever the machine does.
const LEAST: usize = 3;

/// Nanoseconds a packet: of the harness alone, with the program, and alone again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Round {
    pub(super) before: f64,
    pub(super) tested: f64,
    pub(super) after: f64,
}

impl Round {
    fn net(self) -> f64 {
        self.tested - f64::midpoint(self.before, self.after)
    }

    fn slowest(self) -> f64 {
        self.before.max(self.after)
    }
}

/// The rounds of one measurement.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    all: Vec<Round>,
    /// The least that the harness has ever taken.
    fastest: f64,
}

impl Rounds {
    /// None yet; the harness has been as fast as that elsewhere.
    pub(super) fn new(fastest: f64) -> Self {
        Self {
            all: Vec::new(),
            fastest,
        }
    }

    pub(super) fn push(&mut self, round: Round) {
        self.fastest = self.fastest.min(round.before).min(round.after);
        self.all.push(round);
    }

    /// The least that the harness has ever taken.
    pub(super) fn fastest(&self) -> f64 {
        self.fastest
    }

    /// Whether the machine has been too busy to say.
    pub(super) fn is_disturbed(&self) -> bool {
        self.calm() < LEAST
    }

    /// How many count.
    pub(super) fn calm(&self) -> usize {
        let limit = self.limit();
        let calm = self.all.iter().filter(|round| round.slowest() <= limit);
        calm.count()
    }

    /// What the program takes, of each round that counts: without what the harness takes. Of a
    /// machine that is never calm, those count that were the least disturbed.
    pub(super) fn net(mut self) -> Samples {
        let count = self.calm().max(LEAST);
        self.all.sort_by(|a, b| a.slowest().total_cmp(&b.slowest()));
        self.all.into_iter().take(count).map(Round::net).collect()
    }

    fn limit(&self) -> f64 {
        self.fastest * (1.0 + CALM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(all: &[(f64, f64, f64)]) -> Rounds {
        let round = |&(before, tested, after)| Round {
            before,
            tested,
            after,
        };
        let mut rounds = Rounds::new(f64::INFINITY);
        all.iter().map(round).for_each(|round| rounds.push(round));
        rounds
    }

    #[test]
    fn round_counts_only_between_two_calm_ones_of_the_harness() {
        let rounds = rounds(&[
            (30.0, 130.0, 31.0),
            (31.0, 240.0, 60.0),
            (60.0, 260.0, 60.0),
            (60.0, 150.0, 30.0),
            (30.0, 131.0, 33.0),
            (33.0, 133.0, 30.0),
        ]);
        assert_eq!(rounds.calm(), 3);
        assert!((rounds.net().median() - 99.5).abs() < 1.1);
    }

    #[test]
    fn restless_machine_is_measured_where_it_was_calmest() {
        let rounds = rounds(&[
            (30.0, 130.0, 50.0),
            (50.0, 290.0, 90.0),
            (90.0, 300.0, 60.0),
            (60.0, 160.0, 60.0),
            (60.0, 161.0, 60.0),
        ]);
        assert!(rounds.is_disturbed());
        assert_eq!(rounds.net().len(), LEAST);
    }
}
