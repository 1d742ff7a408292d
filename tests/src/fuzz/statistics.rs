//! What was met, and how often.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use lb_common::counter::Outcome;

use super::Options;
use crate::{
    model::Expected,
    programs::{Program, Verdict},
};

/// What was met.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Packets.
    pub packets: u64,
    /// Episodes.
    pub episodes: u64,
    /// Changes of what is served.
    pub changes: u64,
    /// Packets that the kernel did not run a program on.
    pub refused: u64,
    /// Packets, by what became of them at which program.
    pub fates: BTreeMap<(&'static str, String), u64>,
    /// Packets, by what they were and what became of them.
    pub shapes: BTreeMap<(&'static str, String), u64>,
}

impl Statistics {
    /// Notes a packet.
    pub(super) fn note(&mut self, program: Program, expected: &Expected) {
        self.packets += 1;
        let fate = match (expected.counted.last(), expected.verdict) {
            (None | Some(Outcome::Seen), Verdict::Next) => "untouched".to_owned(),
            (Some(outcome), verdict) => {
                let is_new = expected.counted.contains(&Outcome::NewFlow);
                let new = if is_new { ", new" } else { "" };
                format!("{outcome:?}{new} ({verdict:?})")
            }
            (None, verdict) => format!("{verdict:?}"),
        };
        *self
            .shapes
            .entry((expected.shape, fate.clone()))
            .or_default() += 1;
        *self.fates.entry((program.name(), fate)).or_default() += 1;
    }

    /// A line that says how far it is.
    pub(super) fn progress(&self, options: &Options, elapsed: Duration) -> String {
        format!(
            "fuzz: {} of {} packets in {} episodes, {:.0} packets/s, seed {}",
            self.packets,
            options.packets,
            self.episodes,
            self.packets as f64 / elapsed.as_secs_f64(),
            options.seed,
        )
    }

    /// How often what was met.
    #[must_use]
    pub fn summary(&self, elapsed: Duration) -> String {
        let mut text = String::new();
        for table in [&self.fates, &self.shapes] {
            let mut last = "";
            for ((first, fate), count) in table {
                let name = if *first == last { "" } else { *first };
                let _ = writeln!(text, "{name:34} {fate:28} {count:>10}");
                last = first;
            }
        }
        let _ = write!(
            text,
            "{} packets in {} episodes, {} changes of what is served, {} refused by the kernel, \
             {:.0} packets/s",
            self.packets,
            self.episodes,
            self.changes,
            self.refused,
            self.packets as f64 / elapsed.as_secs_f64(),
        );
        text
    }
}
