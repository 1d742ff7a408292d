//! `cargo xtask semantics`: what every Service proxy owes its users, and the tests that prove it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, anyhow, ensure};

pub(crate) use self::proofs::test_names;
use self::{items::Items, proofs::Proof};
use crate::{tally::Tally, tidy::source::Source, workspace::Workspace};

mod items;
mod page;
mod proofs;
pub(crate) mod suite;

/// Where the items are.
const ITEMS: &str = "docs/semantics.yaml";

/// Where items and tests are for people to read.
const PAGE: &str = "docs/semantics.md";

/// What every Service proxy owes its users, and how it is proved that this one does it.
pub(crate) struct Semantics {
    items: Items,
    proofs: Vec<Proof>,
}

/// Writes the page; with `check`, only compares it.
pub(crate) fn run(check: bool) -> Result<Tally> {
    let workspace = Workspace::find()?;
    let semantics = Semantics::read(&workspace, &Source::read_all(&workspace.root)?)?;
    println!("semantics: {}", semantics.summary());
    let problems = semantics.check_page(&workspace, !check)?;
    let mut tally = Tally::default();
    tally.record(if problems.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(problems.join("\n  ")))
    });
    Ok(tally)
}

/// An error if any item that is ours has no test.
pub(crate) fn check_all_proved() -> Result<()> {
    let workspace = Workspace::find()?;
    let semantics = Semantics::read(&workspace, &Source::read_all(&workspace.root)?)?;
    println!("semantics: {}", semantics.summary());
    ensure!(
        semantics.unproved().is_empty(),
        "not every item of {ITEMS} has a test"
    );
    Ok(())
}

impl Semantics {
    /// Reads the items, and looks for proofs in `sources`.
    pub(crate) fn read(workspace: &Workspace, sources: &[Source]) -> Result<Self> {
        let text = fs::read_to_string(workspace.root.join(ITEMS))
            .with_context(|| format!("cannot read {ITEMS}"))?;
        Ok(Self {
            items: Items::parse(&text).context(ITEMS)?,
            proofs: proofs::find(sources),
        })
    }

    /// What is wrong with the page or with the names of tests; with `bless`, writes the page first.
    pub(crate) fn check_page(&self, workspace: &Workspace, bless: bool) -> Result<Vec<String>> {
        let (path, page) = (workspace.root.join(PAGE), page::write(self));
        if bless {
            fs::write(&path, &page).with_context(|| format!("cannot write {PAGE}"))?;
        }
        let mut problems = self.wrong_names();
        // A page that is not there is out of date, too.
        if fs::read_to_string(&path).ok() != Some(page) {
            problems.push(format!(
                "{PAGE} is out of date; `cargo xtask semantics` writes it"
            ));
        }
        Ok(problems)
    }

    /// Names of tests that prove items which are not there, and names that more than one test has:
    /// to run each once, and to quote it, takes a name of its own.
    fn wrong_names(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut paths: BTreeMap<&str, &str> = BTreeMap::new();
        for Proof { path, name, items } in &self.proofs {
            let strange = items
                .iter()
                .filter(|item| !self.items.items.contains_key(item));
            problems.extend(strange.map(|item| format!("{path}: {name}: there is no item {item}")));
            if let Some(before) = paths.insert(name, path) {
                problems.push(format!("{path}: {name}: a test in {before} has this name"));
            }
        }
        problems
    }

    /// An error for each item that ought to have a test and has none.
    pub(crate) fn unproved(&self) -> Vec<anyhow::Error> {
        self.unproved_items()
            .map(|number| {
                let title = &self.items.items[&number].title;
                anyhow!("no test proves item {number} ({title}): name one s{number}_…")
            })
            .collect()
    }

    fn unproved_items(&self) -> impl Iterator<Item = u32> {
        let numbers = self.items.ours().map(|(number, _)| number);
        numbers.filter(|number| !self.proofs.iter().any(|proof| proof.items.contains(number)))
    }

    /// How far things are, in a line.
    fn summary(&self) -> String {
        let unproved: Vec<_> = self
            .unproved_items()
            .map(|number| number.to_string())
            .collect();
        let all = self.items.ours().count();
        let (proved, tests) = (all - unproved.len(), self.proofs.len());
        let summary = format!("{tests} tests prove {proved} of {all} items");
        if unproved.is_empty() {
            summary
        } else {
            format!("{summary}; not yet {}", unproved.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn semantics(sources: &[(&str, &str)]) -> Semantics {
        let sources: Vec<_> = sources
            .iter()
            .map(|(path, text)| Source::parse(path, text).unwrap())
            .collect();
        Semantics::read(&Workspace::find().unwrap(), &sources).unwrap()
    }

    #[test]
    fn items_are_those_that_the_names_of_tests_count_on() {
        let items = semantics(&[]).items;
        assert_eq!(items.items.len(), 72);
        let not_ours = items.items.iter().filter(|(_, item)| item.not_ours);
        assert_eq!(
            not_ours.map(|(&number, _)| number).collect::<Vec<_>>(),
            [72]
        );
        assert_eq!(items.sections.keys().collect::<String>(), "ABCDEFGHIJKLMN");
        assert_eq!(items.items[&41].title, "No endpoint anywhere");
    }

    #[test]
    fn every_item_without_a_test_is_an_error_but_what_is_not_ours() {
        assert_eq!(semantics(&[]).unproved().len(), 71);
        let some = semantics(&[("a.rs", "#[test] fn s1_and_s71_x() {}")]);
        assert_eq!(some.unproved().len(), 69);
        let first = some.unproved()[0].to_string();
        assert!(first.contains("item 2 ("), "{first}");
        assert!(
            some.summary()
                .starts_with("1 tests prove 2 of 71 items; not yet 2, 3,")
        );
    }

    #[test]
    fn proof_of_nothing_and_name_of_two_tests_are_problems() {
        let problems = semantics(&[
            ("a.rs", "#[test] fn s73_x() {} #[test] fn s1_y() {}"),
            ("b.rs", "#[test] fn s1_y() {} #[test] fn s1000_z() {}"),
        ])
        .wrong_names();
        assert_eq!(
            problems,
            [
                "a.rs: s73_x: there is no item 73",
                "b.rs: s1_y: a test in a.rs has this name",
                "b.rs: s1000_z: there is no item 1000",
            ]
        );
    }

    #[test]
    fn page_that_is_missing_or_old_is_a_problem_until_it_is_written() {
        let semantics = semantics(&[]);
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("docs")).unwrap();
        let workspace = Workspace {
            root: root.path().to_owned(),
            target: root.path().join("target"),
            packages: Vec::new(),
        };
        let problems = |bless| semantics.check_page(&workspace, bless).unwrap().len();
        assert_eq!(problems(false), 1);
        assert_eq!(problems(true), 0);
        assert_eq!(problems(false), 0);
        fs::write(root.path().join(PAGE), "old").unwrap();
        assert_eq!(problems(false), 1);
    }
}
