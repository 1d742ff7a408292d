//! Measurements of the whole, each a command of `cargo xtask perf`.
//!
//! What they find is a table for people, and `summary.json` in `target/perf`; the last line of
//! standard output says it in JSON, too.

mod agents;
mod compare;
mod connections;
mod control;
mod forward;
mod goals;
mod memory;
mod objects;
mod plot;
mod programs;
mod progress;
mod record;
mod report;
mod rules;
mod samples;
mod services;

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use self::report::Row;

/// Measures the load balancer.
#[derive(Debug, Parser)]
#[command(name = "perf")]
pub struct Options {
    /// What to measure; everything, if it is left out.
    #[command(subcommand)]
    subject: Option<Subject>,

    #[command(flatten)]
    common: Common,

    /// Print the line of JSON only.
    #[arg(long, global = true)]
    json: bool,

    /// End with status 1 if a gate is missed.
    #[arg(long, global = true)]
    check: bool,

    /// Write the newest figures that there are goals for into this document, between its marks.
    #[arg(long, global = true, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Measure in turn with the binaries of another revision, which are in this directory.
    #[arg(long, global = true, value_name = "DIRECTORY", hide = true)]
    beside: Option<PathBuf>,
}

/// What concerns every measurement.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Measure less, and what matters most: all subjects in two minutes.
    #[arg(long, global = true)]
    pub(crate) quick: bool,

    /// Where the summary and the plots go.
    #[arg(
        long,
        global = true,
        value_name = "DIRECTORY",
        default_value = "target/perf"
    )]
    pub(crate) out: PathBuf,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum Subject {
    /// An agent that has everything to learn, and one that follows what changes: time and memory.
    Control(control::Options),
    /// How many datagrams a second a node forwards, beside the kernel alone and beside rules.
    Forward(forward::Options),
    /// What every program costs a packet.
    Programs(programs::Options),
    /// How many TCP connections a second there can be, and how long they take, beside direct ones
    /// and beside rules.
    Connections(connections::Options),
    /// How costs grow with Services and flows.
    Scale(programs::scale::Options),
}

impl Subject {
    /// All of them, as they are measured without further options.
    fn all() -> Vec<Self> {
        let command = Options::command();
        let names = command.get_subcommands().map(clap::Command::get_name);
        let subject = |name| Options::parse_from(["perf", name]).subject;
        names.filter_map(subject).collect()
    }

    /// As it is called on the command line.
    fn name(&self) -> &'static str {
        match self {
            Self::Control(_) => "control",
            Self::Connections(_) => "connections",
            Self::Forward(_) => "forward",
            Self::Programs(_) => "programs",
            Self::Scale(_) => "scale",
        }
    }

    fn measure(&self, common: &Common) -> Result<Vec<Row>> {
        match self {
            Self::Control(options) => control::measure(options, common),
            Self::Forward(options) => forward::measure(options, common.quick),
            Self::Programs(options) => programs::measure(options, common),
            Self::Connections(options) => connections::measure(options, common.quick),
            Self::Scale(options) => programs::scale::measure(options, common),
        }
    }
}

/// Measures, and prints what came out.
///
/// # Errors
///
/// When the lab cannot be made, what is measured does not do its work, or, with `--check`, a gate is
/// missed.
pub fn run(options: &Options) -> Result<()> {
    if let Some(other) = &options.beside {
        let arguments = compare::passed_on(env::args().skip(1));
        let rows = compare::compare(other, &arguments, &options.common.out)?;
        if !options.json {
            println!("{}\n", report::table(&rows).trim_fmt());
        }
        println!("{}", serde_json::to_string(&rows)?);
        return check(options, &rows);
    }
    let all = Subject::all();
    let subjects = options.subject.as_ref().map_or(&*all, std::slice::from_ref);
    let (mut rows, mut newest) = (Vec::new(), Vec::new());
    for subject in subjects {
        let measured = subject.measure(&options.common)?;
        newest = report::merge(&options.common.out, &measured)?;
        draw(subject.name(), &measured, &options.common.out)?;
        if !options.json {
            println!("{}\n", report::table(&measured).trim_fmt());
        }
        rows.extend(measured);
    }
    println!("{}", serde_json::to_string(&rows)?);
    if let Some(document) = &options.record {
        record::record(document, &newest)?;
    }
    check(options, &rows)
}

/// With `--check`, a gate that is missed is an error.
fn check(options: &Options, rows: &[Row]) -> Result<()> {
    let missed: Vec<_> = rows.iter().filter(|row| row.misses_gate()).collect();
    if options.check && !missed.is_empty() {
        let names: Vec<_> = missed.iter().map(|row| row.name.as_str()).collect();
        bail!("gates are missed: {}", names.join("; "));
    }
    Ok(())
}

/// Bars of all rows: a plot for each unit.
fn draw(subject: &str, rows: &[Row], out: &Path) -> Result<()> {
    /// What fits into a plot that a person would look at.
    const MOST: usize = 70;
    let mut units: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        units.entry(&row.unit).or_default().push(row);
    }
    for (unit, rows) in units {
        let word: String = unit.chars().filter(char::is_ascii_alphabetic).collect();
        let name = match word.as_str() {
            "" => format!("{subject}.svg"),
            word => format!("{subject}-{word}.svg"),
        };
        let drawn = &rows[..rows.len().min(MOST)];
        plot::bars(
            &out.join(name),
            &title(subject, drawn.len(), rows.len()),
            unit,
            drawn,
        )?;
    }
    Ok(())
}

/// What stands above a plot; if not all is in it, where the rest is.
fn title(subject: &str, drawn: usize, all: usize) -> String {
    if drawn == all {
        format!("perf {subject}")
    } else {
        format!("perf {subject}: {drawn} of {all} rows (all of them: summary.json)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plot_that_does_not_show_all_says_so() {
        assert_eq!(title("scale", 9, 9), "perf scale");
        let some = "perf programs: 70 of 252 rows (all of them: summary.json)";
        assert_eq!(title("programs", 70, 252), some);
    }
}
