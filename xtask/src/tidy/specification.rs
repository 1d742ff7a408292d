//! `SPECIFICATION.md`: every figure in it is enforced by a test that there is, or said not to be.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result};

use super::source::Source;
use crate::{semantics::test_names, workspace::Workspace};

/// Where the figures are: tables whose last column names the tests.
const PAGE: &str = "SPECIFICATION.md";
/// What stands there where nothing enforces a figure.
const NOT_YET: &str = "not yet";

/// What is wrong with the page.
pub(super) fn check(workspace: &Workspace, sources: &[Source]) -> Result<Vec<String>> {
    let text = fs::read_to_string(workspace.root.join(PAGE))
        .with_context(|| format!("cannot read {PAGE}"))?;
    let tests = sources.iter().flat_map(test_names).collect();
    Ok(problems(&text, &tests))
}

fn problems(text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, cell) in last_cells(text) {
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        if names.is_empty() && !cell.contains(NOT_YET) {
            problems.push(format!("{PAGE}:{number}: no test, and no {NOT_YET:?}"));
        }
        let missing = names.iter().filter(|name| !tests.contains(**name));
        problems.extend(missing.map(|name| format!("{PAGE}:{number}: there is no test {name}")));
    }
    problems
}

/// The last cells of the rows of all tables, without their headers, and their lines' numbers.
fn last_cells(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_body = false;
    text.lines().zip(1..).filter_map(move |(line, number)| {
        let row = line
            .trim()
            .strip_prefix('|')
            .and_then(|row| row.strip_suffix('|'));
        let is_rule = row.is_some_and(|row| row.trim().starts_with("---"));
        let was_body = is_body;
        is_body = row.is_some() && (is_body || is_rule);
        let cell = row.filter(|_| was_body)?.rsplit('|').next()?;
        Some((number, cell.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_without_a_test_that_there_is_are_problems() {
        let tests = ["r1_it_holds".to_owned()].into();
        let text = "| figure | tests |\n\
                    | --- | --- |\n\
                    | a | `r1_it_holds` |\n\
                    | b | `r1_it_holds`, `r2_gone` |\n\
                    | c | not yet: hard |\n\
                    | d |  |\n\
                    \n\
                    | no table |\n";
        assert_eq!(
            problems(text, &tests),
            [
                "SPECIFICATION.md:4: there is no test r2_gone",
                "SPECIFICATION.md:6: no test, and no \"not yet\"",
            ]
        );
    }
}
