//! The items themselves: `docs/semantics.yaml`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// What every Service proxy owes its users, by number.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Items {
    /// What a section is about, by its letter.
    pub(super) sections: BTreeMap<char, String>,
    pub(super) items: BTreeMap<u32, Item>,
}

/// One thing that a Service proxy does.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    /// Letter of its section.
    pub(super) section: char,
    pub(super) title: String,
    /// What kube-proxy does.
    pub(super) text: String,
    /// What is done here in its place, and why.
    pub(super) difference: Option<String>,
    /// Whether it is for others to do, so that no test has to prove it.
    #[serde(default)]
    pub(super) not_ours: bool,
}

impl Items {
    /// Reads `text`, which is YAML.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let items: Self = serde_saphyr::from_str(text).context("cannot read the items")?;
        items.check()?;
        Ok(items)
    }

    /// Numbers leave no gap, sections stand in their order, and no text is empty.
    fn check(&self) -> Result<()> {
        let mut last = None;
        for ((number, item), expected) in self.items.iter().zip(1..) {
            ensure!(
                *number == expected,
                "item {number} follows where {expected} should"
            );
            ensure!(
                self.sections.contains_key(&item.section),
                "item {number} is in section {}, which is not there",
                item.section
            );
            ensure!(
                last <= Some(item.section),
                "item {number} is not beside the others of its section"
            );
            last = Some(item.section);
            let difference = item.difference.as_deref().unwrap_or("-");
            let texts = [item.title.as_str(), item.text.as_str(), difference];
            ensure!(
                texts.iter().all(|text| !text.trim().is_empty()),
                "item {number} lacks words"
            );
        }
        Ok(())
    }

    /// The items that tests have to prove.
    pub(super) fn ours(&self) -> impl Iterator<Item = (u32, &Item)> {
        let items = self.items.iter().filter(|(_, item)| !item.not_ours);
        items.map(|(&number, item)| (number, item))
    }

    /// The items of one section.
    pub(super) fn of(&self, section: char) -> impl Iterator<Item = (u32, &Item)> {
        let items = self.items.iter();
        items
            .filter(move |(_, item)| item.section == section)
            .map(|(&number, item)| (number, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
sections: {A: One, B: Other}
items:
  1: {section: A, title: First, text: Does., difference: Does not.}
  2: {section: B, title: Second, text: Does too., not_ours: true}
";

    fn error(text: &str) -> String {
        let error = Items::parse(text).err().expect("something is wrong");
        format!("{error:#}")
    }

    #[test]
    fn what_is_not_ours_needs_no_proof() {
        let items = Items::parse(GOOD).unwrap();
        assert_eq!(items.items.len(), 2);
        let ours: Vec<_> = items.ours().map(|(number, _)| number).collect();
        assert_eq!(ours, [1]);
    }

    #[test]
    fn gap_disorder_and_silence_are_errors() {
        assert!(error(&GOOD.replace("  2:", "  3:")).contains("item 3 follows where 2 should"));
        assert!(error(&GOOD.replace("section: B", "section: C")).contains("section C"));
        let back = GOOD.replace("1: {section: A", "1: {section: B");
        assert!(error(&back.replace("2: {section: B", "2: {section: A")).contains("beside"));
        assert!(error(&GOOD.replace("Does not.", "''")).contains("item 1 lacks words"));
    }

    #[test]
    fn misspelt_field_and_repeated_number_are_errors() {
        assert!(error(&GOOD.replace("difference", "diference")).contains("diference"));
        error(&GOOD.replace("  2:", "  1:"));
    }
}
