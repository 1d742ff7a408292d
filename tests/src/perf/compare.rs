//! The same measurements with the binaries of another revision, in turn.
//!
//! A machine is not the same one for long: what is measured first and what is measured later differ
//! without any change. So each takes its turn, and both figures come from the same minutes.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{report::Row, samples::Samples};
use crate::lab::AGENT_VARIABLE;

/// How often each of the two measures.
const ROUNDS: usize = 3;

/// Options that are for the one who compares, each with whether a value follows.
const OWN_OPTIONS: [(&str, bool); 5] = [
    ("--beside", true),
    ("--out", true),
    ("--record", true),
    ("--json", false),
    ("--check", false),
];

/// Who measures.
struct Side {
    /// Its `lab-perf`.
    perf: PathBuf,
    /// Its agent; none for the one that we were given.
    agent: Option<PathBuf>,
    /// Where its summaries go.
    out: PathBuf,
    /// What came out, by name.
    figures: BTreeMap<String, Samples>,
}

/// Runs this binary and the one in `directory` in turn, with `arguments`, and says of each figure that
/// both have what the other's is.
///
/// # Errors
///
/// When one of them fails.
pub(super) fn compare(directory: &Path, arguments: &[String], out: &Path) -> Result<Vec<Row>> {
    let mut ours = Side {
        perf: env::current_exe().context("find the own binary")?,
        agent: None,
        out: out.join("compare/this"),
        figures: BTreeMap::new(),
    };
    let mut theirs = Side {
        perf: directory.join("lab-perf"),
        agent: Some(directory.join("lb-agent")),
        out: out.join("compare/other"),
        figures: BTreeMap::new(),
    };
    let mut order = Vec::new();
    for round in 1..=ROUNDS {
        eprintln!("perf: round {round} of {ROUNDS} of both revisions");
        for side in [&mut theirs, &mut ours] {
            let rows = side.measure(arguments)?;
            order = rows;
        }
    }
    Ok(rows(&order, &ours.figures, &theirs.figures))
}

impl Side {
    fn measure(&mut self, arguments: &[String]) -> Result<Vec<Row>> {
        let mut command = Command::new(&self.perf);
        command.args(arguments).arg("--json");
        command.arg("--out").arg(&self.out).stderr(Stdio::inherit());
        if let Some(agent) = &self.agent {
            command.env(AGENT_VARIABLE, agent);
        }
        let perf = self.perf.display();
        let output = command.output().with_context(|| format!("run {perf}"))?;
        ensure!(output.status.success(), "{perf}: {}", output.status);
        let printed = String::from_utf8(output.stdout).with_context(|| format!("read {perf}"))?;
        let line = printed.lines().last().unwrap_or_default();
        let rows: Vec<Row> =
            serde_json::from_str(line).with_context(|| format!("{perf} tells no figures"))?;
        for row in &rows {
            let samples = self.figures.entry(row.name.clone()).or_default();
            samples.push(row.value);
        }
        Ok(rows)
    }
}

/// What of the command line is for those who measure.
pub(super) fn passed_on(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut passed_on = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument.as_str(), None),
        };
        match OWN_OPTIONS.iter().find(|(own, _)| *own == name) {
            Some((_, true)) if value.is_none() => drop(arguments.next()),
            Some(_) => {}
            None => passed_on.push(argument),
        }
    }
    passed_on
}

/// The figures that both have, in `order`; the baseline is the other's.
fn rows(
    order: &[Row],
    ours: &BTreeMap<String, Samples>,
    theirs: &BTreeMap<String, Samples>,
) -> Vec<Row> {
    let row = |row: &Row| {
        let [ours, theirs] = [ours.get(&row.name)?, theirs.get(&row.name)?];
        Some(Row::of(&*row.name, ours, &*row.unit).against(theirs.median()))
    };
    order.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_comparison_are_not_passed_on() {
        let line = "programs --beside a --quick --json --out=b --services 1,10 --record c --check";
        let left = passed_on(line.split(' ').map(str::to_owned));
        assert_eq!(left.join(" "), "programs --quick --services 1,10");
    }

    #[test]
    fn figures_that_both_have_stand_beside_each_other_in_their_order() {
        let figures = |all: &[(&str, [f64; 3])]| -> BTreeMap<String, Samples> {
            let entry = |(name, values): &(&str, [f64; 3])| {
                let samples: Samples = values.iter().copied().collect();
                ((*name).to_owned(), samples)
            };
            all.iter().map(entry).collect()
        };
        let ours = figures(&[("b", [9.0, 10.0, 11.0]), ("a", [1.0; 3]), ("new", [1.0; 3])]);
        let theirs = figures(&[("b", [20.0; 3]), ("a", [2.0; 3]), ("old", [1.0; 3])]);
        let order = ["b", "new", "a"].map(|name| Row::new(name, 0.0, "ns"));
        let compared = rows(&order, &ours, &theirs);
        let said = compared
            .iter()
            .map(|row| (&*row.name, row.value, row.baseline, row.ratio));
        let expected = [
            ("b", 10.0, Some(20.0), Some(0.5)),
            ("a", 1.0, Some(2.0), Some(0.5)),
        ];
        assert_eq!(Vec::from_iter(said), expected);
    }
}
