//! The command line.

mod addresses;
mod capacities;
mod cleanup;
mod counters;
mod drops;
mod features;
mod run;
mod serve;

use clap::{Parser, Subcommand};

pub use self::{
    cleanup::{CleanupArgs, Error as CleanupError},
    counters::CountersArgs,
    drops::{DropsArgs, Error as DropsError},
    features::{Error as FeaturesError, FeaturesArgs},
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
    /// Show which packets were dropped, why, and what to do, whether or not an agent runs.
    Drops(DropsArgs),
    /// Show what the kernel has of what an agent uses, and what happens where something is missing.
    Features(FeaturesArgs),
    /// Detach all programs and remove all maps, where no agent runs; or remove kube-proxy's rules.
    Cleanup(CleanupArgs),
}
