//! What every measurement yields: rows, as a table and as `summary.json`.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{
    CellAlignment, Table,
    presets::{ASCII_MARKDOWN, NOTHING},
};
use serde::{Deserialize, Serialize};

use super::{
    goals::{self, Goal},
    samples::Samples,
};

/// Name of the file that holds the newest row of each name.
const SUMMARY: &str = "summary.json";

/// One figure. What there is not is null in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    /// What was measured; names of `goals` have bounds.
    pub(super) name: String,
    /// The median of all rounds.
    pub(super) value: f64,
    /// Its unit.
    pub(super) unit: String,
    /// What it is compared with, in the same unit, measured in the same run.
    pub(super) baseline: Option<f64>,
    /// Value to baseline.
    pub(super) ratio: Option<f64>,
    /// The bound that must be kept; `goals` says on which side.
    pub(super) gate: Option<f64>,
    /// The bound that should be.
    pub(super) goal: Option<f64>,
    /// What separates the rounds, as a part of the value ([`Samples::spread`]).
    pub(super) spread: Option<f64>,
    pub(super) meets_gate: Option<bool>,
    pub(super) meets_goal: Option<bool>,
}

impl Row {
    /// A figure; with its gate and goal, if it has any.
    pub(super) fn new(name: impl Into<String>, value: f64, unit: impl Into<String>) -> Self {
        let name = name.into();
        let value = round(value);
        let goal = goals::of(&name);
        let meets = |bound: Option<f64>| Some(goal?.direction.is_met(value, bound?));
        let (gate, aim) = (
            goal.and_then(|goal| goal.gate),
            goal.and_then(|goal| goal.goal),
        );
        Self {
            meets_gate: meets(gate),
            meets_goal: meets(aim),
            name,
            value,
            unit: unit.into(),
            baseline: None,
            ratio: None,
            gate,
            goal: aim,
            spread: None,
        }
    }

    /// The median of some rounds, and their spread.
    pub(super) fn of(name: impl Into<String>, samples: &Samples, unit: impl Into<String>) -> Self {
        let spread = (samples.len() > 1).then(|| round(samples.spread()));
        Self {
            spread,
            ..Self::new(name, samples.median(), unit)
        }
    }

    /// The same, compared with what somebody else took, or had, in the same run.
    pub(super) fn against(self, baseline: f64) -> Self {
        let ratio = (baseline != 0.0).then(|| round(self.value / baseline));
        Self {
            baseline: Some(round(baseline)),
            ratio,
            ..self
        }
    }

    /// Whether it has a gate and misses it.
    pub(super) fn misses_gate(&self) -> bool {
        self.meets_gate == Some(false)
    }

    /// Whether it is one of `goals`.
    pub(super) fn has_bounds(&self) -> bool {
        self.gate.or(self.goal).is_some()
    }

    fn cells(&self) -> [String; 7] {
        let goal = goals::of(&self.name);
        let sign = goal.map(|goal| goal.direction.sign());
        let bound = |bound: Option<f64>, met: Option<bool>| match (sign, bound) {
            (Some(sign), Some(bound)) => {
                let mark = if met == Some(true) { '✓' } else { '✗' };
                format!("{sign} {} {mark}", shown(bound))
            }
            _ => String::new(),
        };
        [
            self.name.clone(),
            format!("{} {}", shown(self.value), self.unit),
            self.spread.map_or_else(String::new, percent),
            self.baseline.map_or_else(String::new, shown),
            self.ratio
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            bound(self.gate, self.meets_gate),
            bound(self.goal, self.meets_goal),
        ]
    }
}

/// The rows, one below the other.
pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.force_no_tty();
    table.set_header(["", "median", "spread", "baseline", "ratio", "gate", "goal"]);
    for row in rows {
        table.add_row(row.cells());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The same as Markdown.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut table = table(rows);
    table.load_style(ASCII_MARKDOWN);
    table.to_string()
}

/// Writes the rows to `summary.json` in a directory. What it holds of other names stays; figures of
/// `goals` come first, in their order.
///
/// # Errors
///
/// If the file cannot be written, or is not such a summary.
pub(super) fn merge(directory: &Path, rows: &[Row]) -> Result<Vec<Row>> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let path = directory.join(SUMMARY);
    let old = read(&path)?;
    let merged = merged(old, rows);
    let json = serde_json::to_string_pretty(&merged).context("write the summary as JSON")?;
    fs::write(&path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    Ok(merged)
}

fn read(path: &Path) -> Result<Vec<Row>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("read {}", path.display()))?,
    };
    serde_json::from_str(&text).with_context(|| format!("{} is not a summary", path.display()))
}

fn merged(old: Vec<Row>, new: &[Row]) -> Vec<Row> {
    let place = |name: &str| {
        goals::GOALS
            .iter()
            .position(|goal: &Goal| goal.name == name)
    };
    let key = |row: &Row| {
        let place = place(&row.name).unwrap_or(goals::GOALS.len());
        (place, row.name.clone())
    };
    let all = old.into_iter().chain(new.iter().cloned());
    let rows: BTreeMap<_, _> = all.map(|row| (key(&row), row)).collect();
    rows.into_values().collect()
}

/// To four digits: more are noise.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let parts = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * parts).round() / parts
}

/// As a person wants to read it.
pub(super) fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: &str = "established, hot: DNAT";

    #[test]
    fn row_of_a_goal_says_whether_it_is_met() {
        let row = |value| Row::new(HOT, value, "ns/packet");
        let said = |row: Row| (row.meets_gate, row.meets_goal);
        assert_eq!(said(row(50.0)), (Some(true), Some(true)));
        assert_eq!(said(row(100.0)), (Some(true), Some(false)));
        assert!(row(200.0).misses_gate());
        assert!(!Row::new("something else", 200.0, "ns").misses_gate());
    }

    #[test]
    fn summary_has_all_fields_of_a_row_and_nulls_for_what_there_is_not() {
        let json = serde_json::to_string(&Row::new("return", 1.5, "ns").against(3.0)).unwrap();
        assert_eq!(
            json,
            r#"{"name":"return","value":1.5,"unit":"ns","baseline":3.0,"ratio":0.5,"gate":null,"goal":null,"spread":null,"meets_gate":null,"meets_goal":null}"#
        );
    }

    #[test]
    fn later_run_replaces_rows_of_the_same_name_only() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = [10.0, 20.0].map(|value| Row::new("b", value, "ns"));
        let other = Row::new("a", 1.0, "ns");
        let goal = Row::new(HOT, 1.0, "ns/packet");
        merge(directory.path(), &[first, other.clone()]).unwrap();
        let merged = merge(directory.path(), &[second.clone(), goal.clone()]).unwrap();
        assert_eq!(merged, [goal, other, second]);
        assert_eq!(read(&directory.path().join(SUMMARY)).unwrap(), merged);
    }

    #[test]
    fn file_that_is_no_summary_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SUMMARY);
        fs::write(&path, "mine").unwrap();
        assert!(merge(directory.path(), &[]).is_err());
        assert_eq!(fs::read_to_string(path).unwrap(), "mine");
    }

    #[test]
    fn table_shows_bounds_with_their_sign_and_whether_they_are_met() {
        let samples: Samples = [99.0, 100.0, 101.0].into_iter().collect();
        let row = Row::of(HOT, &samples, "ns/packet").against(50.0);
        let table = table(&[row]).to_string();
        for part in ["100 ns/packet", "2 %", "2.00", "≤ 130 ✓", "≤ 60.0 ✗"] {
            assert!(table.contains(part), "{part} in\n{table}");
        }
    }

    #[test]
    fn values_have_four_digits() {
        assert_eq!(round(123_456.0), 123_500.0);
        assert_eq!(round(0.001_234_56), 0.001_235);
        assert_eq!(round(0.0), 0.0);
        assert_eq!(round(-99.999), -100.0);
    }
}
