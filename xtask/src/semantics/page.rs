//! `docs/semantics.md`.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use super::{
    Semantics,
    items::{Item, Items},
    proofs::Proof,
};

const INTRODUCTION: &str = "\
# What a Service proxy owes its users

<!-- `cargo xtask semantics` writes this page, out of docs/semantics.yaml and the names of the tests. -->

What kube-proxy does, item by item, as users of Kubernetes 1.36 rely on it. The numbers stand in
comments and in the names of tests: `s41_…` proves item 41, `s13_s14_…` proves two items. Where
this project does otherwise on purpose, the item says what and why. `cargo xtask test semantics`
runs the tests that are named here.
";

/// Writes the page.
pub(super) fn write(semantics: &Semantics) -> String {
    let mut page = INTRODUCTION.to_owned();
    let written = write_all(&mut page, semantics);
    debug_assert!(written.is_ok(), "text can always grow");
    page
}

fn write_all(page: &mut String, semantics: &Semantics) -> fmt::Result {
    let Semantics { items, proofs } = semantics;
    write_overview(page, items, proofs)?;
    for (&section, title) in &items.sections {
        write!(page, "\n## {section}. {title}\n")?;
        for (number, item) in items.of(section) {
            write_item(page, number, item)?;
            write_proofs(page, number, item, proofs)?;
        }
    }
    Ok(())
}

/// A table of the sections.
fn write_overview(page: &mut String, items: &Items, proofs: &[Proof]) -> fmt::Result {
    page.push_str("\n| section | items | with tests | tests |\n| --- | --- | --- | --- |\n");
    for (&section, title) in &items.sections {
        let numbers: Vec<_> = items.of(section).map(|(number, _)| number).collect();
        let tests_of = |number: u32| {
            proofs
                .iter()
                .filter(move |proof| proof.items.contains(&number))
        };
        let proved = numbers
            .iter()
            .filter(|&&number| tests_of(number).next().is_some());
        let tests = proofs
            .iter()
            .filter(|proof| proof.items.iter().any(|item| numbers.contains(item)));
        writeln!(
            page,
            "| {section}. {title} | {} | {} | {} |",
            range(&numbers),
            proved.count(),
            tests.count(),
        )?;
    }
    Ok(())
}

/// The first and the last of consecutive numbers.
fn range(numbers: &[u32]) -> String {
    match numbers {
        [] => String::new(),
        [only] => only.to_string(),
        [first, .., last] => format!("{first}–{last}"),
    }
}

fn write_item(page: &mut String, number: u32, item: &Item) -> fmt::Result {
    write!(
        page,
        "\n### {number}. {}\n\n{}\n",
        item.title,
        item.text.trim()
    )?;
    if let Some(difference) = &item.difference {
        write!(page, "\n**Different here:** {}\n", difference.trim())?;
    }
    Ok(())
}

/// The tests that prove item `number`, file by file.
fn write_proofs(page: &mut String, number: u32, item: &Item, proofs: &[Proof]) -> fmt::Result {
    let mut by_file: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for proof in proofs.iter().filter(|proof| proof.items.contains(&number)) {
        let tests = by_file.entry(&proof.path).or_default();
        tests.push(format!("`{}`", proof.name));
    }
    if by_file.is_empty() {
        let why = if item.not_ours {
            "Not done here."
        } else {
            "No test yet."
        };
        return write!(page, "\n{why}\n");
    }
    page.push_str("\nTests:\n\n");
    for (path, tests) in by_file {
        writeln!(page, "- [{path}](../{path}): {}", tests.join(", "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: &str = "
sections: {A: One, B: Other}
items:
  1: {section: A, title: First, text: Does., difference: Does not.}
  2: {section: A, title: Second, text: Does too.}
  3: {section: B, title: Third, text: Is done elsewhere., not_ours: true}
";

    fn proof(path: &str, name: &str, items: &[u32]) -> Proof {
        Proof {
            path: path.to_owned(),
            name: name.to_owned(),
            items: items.to_vec(),
        }
    }

    fn page(proofs: Vec<Proof>) -> String {
        let items = Items::parse(ITEMS).unwrap();
        write(&Semantics { items, proofs })
    }

    #[test]
    fn item_has_its_text_its_difference_and_its_tests() {
        let page = page(vec![
            proof("b.rs", "s1_x", &[1]),
            proof("a.rs", "s1_y", &[1]),
            proof("a.rs", "s1_s2_z", &[1, 2]),
        ]);
        let item = "## A. One

### 1. First

Does.

**Different here:** Does not.

Tests:

- [a.rs](../a.rs): `s1_y`, `s1_s2_z`
- [b.rs](../b.rs): `s1_x`

### 2. Second

Does too.

Tests:

- [a.rs](../a.rs): `s1_s2_z`

## B. Other
";
        assert!(page.contains(item), "{page}");
        assert!(page.contains("| A. One | 1–2 | 2 | 3 |\n"), "{page}");
    }

    #[test]
    fn item_without_a_test_says_so() {
        let page = page(vec![proof("a.rs", "s1_x", &[1])]);
        assert!(page.contains("Does too.\n\nNo test yet.\n"), "{page}");
        assert!(
            page.contains("Is done elsewhere.\n\nNot done here.\n"),
            "{page}"
        );
        assert!(page.contains("| A. One | 1–2 | 1 | 1 |\n"), "{page}");
    }
}
