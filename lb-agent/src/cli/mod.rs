//! The command line.

mod addresses;
mod counters;
mod run;
mod serve;

use clap::{Parser, Subcommand};

pub use self::{
    counters::CountersArgs,
    run::{Error, RunArgs},
};

/// Serves Kubernetes Services from the kernel's own network hooks.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep this node's Services in step with a cluster or with manifests.
    Run(Box<RunArgs>),
    /// Show what the kernel programs have counted, whether or not an agent runs.
    Counters(CountersArgs),
}
