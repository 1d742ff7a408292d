//! Measurements of the whole, each a command of `cargo xtask perf`.
//!
//! The last line of standard output says in JSON what was measured.

mod control;
mod memory;
mod objects;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures the load balancer.
#[derive(Debug, Parser)]
#[command(name = "perf")]
pub struct Options {
    #[command(subcommand)]
    subject: Subject,

    /// Print the line of JSON only.
    #[arg(long, global = true)]
    json: bool,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum Subject {
    /// An agent that has everything to learn: time until all is in the maps, and memory.
    Control(control::Options),
}

/// Measures, and prints what came out.
///
/// # Errors
/// When the lab cannot be made, or an agent does not do its work.
pub fn run(options: &Options) -> Result<()> {
    let (table, line) = match &options.subject {
        Subject::Control(control) => {
            let result = control::measure(control)?;
            (result.table(), serde_json::to_string(&result)?)
        }
    };
    if !options.json {
        println!("{}\n", table.trim_fmt());
    }
    println!("{line}");
    Ok(())
}
