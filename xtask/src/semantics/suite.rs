//! `cargo xtask test semantics`: the tests that prove an item, wherever they are, each once.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow};

use super::{Semantics, proofs, proofs::Proof};
use crate::{
    process,
    suite::{self, Bench, Suite},
    tally::Tally,
    tidy::source::Source,
};

/// Runs them. An item without a test is a failure, and so is a test that no suite has.
pub(crate) fn run(bench: &Bench) -> Result<Tally> {
    let sources = Source::read_all(&bench.workspace.root)?;
    let semantics = Semantics::read(&bench.workspace, &sources)?;
    let mut tally = Tally::default();
    let wrong_names = semantics.wrong_names().into_iter().map(anyhow::Error::msg);
    for error in semantics.unproved().into_iter().chain(wrong_names) {
        tally.record(Err(error));
    }
    let (mut done, mut is_complete) = (BTreeSet::new(), true);
    for arguments in Suite::PARTS.iter().flat_map(|suite| suite.runs()) {
        match run_chosen(bench, arguments, &mut done) {
            Ok(counts) => tally.add(counts),
            Err(error) => {
                tally.record(Err(error));
                is_complete = false;
            }
        }
    }
    // What was not compiled may have them.
    let missing = |proof: &&Proof| is_complete && !done.contains(&proof.name);
    for Proof { path, name, .. } in semantics.proofs.iter().filter(missing) {
        tally.record(Err(anyhow!("{path}: {name}: no suite has this test")));
    }
    Ok(tally)
}

/// Runs those tests of a `cargo test` that prove something and are not in `done`, and adds them.
fn run_chosen(bench: &Bench, arguments: &str, done: &mut BTreeSet<String>) -> Result<Tally> {
    let mut list = bench.cargo_test(arguments);
    list.args(["--", "--list", "--format", "terse"]);
    let list = String::from_utf8(process::output(&mut list)?).context("names are not UTF-8")?;
    let chosen: Vec<_> = tests(&list)
        .filter(|path| done.insert(last_name(path).to_owned()))
        .collect();
    if chosen.is_empty() {
        return Ok(Tally::default());
    }
    let mut cargo = bench.cargo_test(arguments);
    let mut tally = suite::count(cargo.args(["--", "--exact"]).args(&chosen))?;
    if tally.total() as usize != chosen.len() {
        let (chosen, counted) = (chosen.len(), tally.total());
        tally.record(Err(anyhow!(
            "{arguments}: {chosen} tests were to run, and {counted} have a result"
        )));
    }
    Ok(tally)
}

/// The tests among a list of `module::name: test` that prove something.
fn tests(list: &str) -> impl Iterator<Item = &str> {
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    tests.filter(|path| !proofs::items(last_name(path)).is_empty())
}

fn last_name(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_that_prove_something_are_chosen() {
        let list = "\
desired::tests::s13_ready: test
desired::tests::works: test
s41_refused: test
s41_refused: benchmark

s9_modules::tests::works: test
";
        let chosen: Vec<_> = tests(list).collect();
        assert_eq!(chosen, ["desired::tests::s13_ready", "s41_refused"]);
    }

    /// What one run has, another must not have: tests would run twice.
    #[test]
    fn targets_are_in_one_run_each() {
        let mut seen = BTreeSet::new();
        for arguments in Suite::PARTS.iter().flat_map(|suite| suite.runs()) {
            let mut package = "";
            let mut words = arguments.split(' ').peekable();
            while let Some(word) = words.next() {
                match (word, words.peek()) {
                    ("-p", Some(&name)) => package = name,
                    ("--test", Some(&name)) => assert!(seen.insert((package, name)), "{name}"),
                    ("--lib" | "--bins", _) => assert!(seen.insert((package, word)), "{package}"),
                    _ => {}
                }
            }
        }
        assert!(seen.contains(&("lb-tests", "e2e")), "{seen:?}");
    }
}
