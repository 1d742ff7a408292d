//! Figures as they stand in a document.

use std::{fs, path::Path, thread};

use anyhow::{Context as _, Result};

use super::report::{self, Row};

/// Between these lines of a document, figures are written.
const MARKS: [&str; 2] = ["<!-- figures -->", "<!-- end of figures -->"];

/// Writes the figures that there are goals for into a document, in the place of those that are there.
///
/// # Errors
///
/// If the document cannot be read or written, or has no place for them.
pub(super) fn record(document: &Path, rows: &[Row]) -> Result<()> {
    let text = fs::read_to_string(document);
    let text = text.with_context(|| format!("read {}", document.display()))?;
    let rows: Vec<Row> = rows
        .iter()
        .filter(|row| row.has_bounds())
        .cloned()
        .collect();
    let figures = format!("{}\n\n{}", machine()?, report::markdown(&rows));
    let text = replaced(&text, &figures)
        .with_context(|| format!("{} has no lines {MARKS:?}", document.display()))?;
    fs::write(document, text).with_context(|| format!("write {}", document.display()))
}

/// The document with other figures; nothing if it has no place for them.
fn replaced(text: &str, figures: &str) -> Option<String> {
    let (before, rest) = text.split_once(MARKS[0])?;
    let (_, after) = rest.split_once(MARKS[1])?;
    let [begin, end] = MARKS;
    Some(format!("{before}{begin}\n\n{figures}\n\n{end}{after}"))
}

/// What they were measured on.
fn machine() -> Result<String> {
    let cpus = thread::available_parallelism()?;
    let info = fs::read_to_string("/proc/cpuinfo").context("read what the processor is")?;
    let model = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version: Vec<&str> = release.splitn(3, '.').take(2).collect();
    Ok(format!(
        "{cpus} processors ({}), Linux {}.",
        model.as_deref().unwrap_or("unknown"),
        version.join(".")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_the_place_of_earlier_ones() {
        let text = "a\n<!-- figures -->\nold\n<!-- end of figures -->\nb\n";
        let new = replaced(text, "new").unwrap();
        assert_eq!(
            new,
            "a\n<!-- figures -->\n\nnew\n\n<!-- end of figures -->\nb\n"
        );
        assert_eq!(replaced(&new, "new").unwrap(), new);
    }

    #[test]
    fn document_without_a_place_for_figures_is_refused() {
        assert_eq!(replaced("a <!-- figures --> b", "new"), None);
    }

    #[test]
    fn machine_has_processors_and_a_kernel() {
        let machine = machine().unwrap();
        assert!(
            machine.contains("processors (") && machine.contains("Linux "),
            "{machine}"
        );
    }
}
