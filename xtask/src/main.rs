//! The project's own commands: `cargo xtask --help` lists them, `docs/development.md` explains.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod ci;
mod ebpf;
mod kernels;
mod lab;
mod process;
mod semantics;
mod setup;
mod suite;
mod tally;
mod tidy;
mod toolchain;
mod workspace;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing need; the other commands do so by themselves.
    Setup,
    /// Build the kernel programs alone, into `target/ebpf`.
    BuildEbpf,
    /// Run tidy and all tests, or the tests of one suite.
    Test {
        suite: Option<suite::Suite>,
        /// Try ten times as many seeds of chaos, floods of a minute, and a thousand restarts.
        #[arg(long)]
        long: bool,
    },
    /// Check the rules that compilers do not know.
    Tidy {
        /// Record the verifier's instruction counts and the tests of `docs/semantics.md` as they
        /// are now.
        #[arg(long)]
        bless: bool,
    },
    /// Write `docs/semantics.md`: what every Service proxy owes its users, and the tests of it.
    Semantics {
        /// Only say whether the page is up to date.
        #[arg(long)]
        check: bool,
    },
    /// Check formatting and lints, then run tidy and all tests.
    Ci,
    /// Show the load balancer at work in a cluster of network namespaces.
    Demo {
        /// Passed on to the demo; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the kernel programs against the model of them, on random packets.
    Fuzz {
        /// Passed on to the fuzzer: `--packets N`, `--seed S`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure the load balancer: programs, forwarding, connections, the control plane, growth.
    Perf {
        /// Passed on to the measurements; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Setup => setup::all().map(|()| ExitCode::SUCCESS),
        Command::BuildEbpf => ebpf::build().map(|_| ExitCode::SUCCESS),
        Command::Test { suite, long } => suite::run(suite, long).map(|tally| tally.report()),
        Command::Tidy { bless } => tidy::run(bless).map(|tally| tally.report()),
        Command::Semantics { check } => semantics::run(check).map(|tally| tally.report()),
        Command::Ci => ci::run().map(|tally| tally.report()),
        Command::Demo { arguments } => lab::demo(&arguments),
        Command::Fuzz { arguments } => lab::fuzz(&arguments),
        Command::Perf { arguments } => lab::perf(&arguments),
    }
}
