//! The `lb-agent` binary.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use lb_agent::{
    agent,
    cli::{Cli, Command},
    harden::harden,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run(args.options()?),
        Command::Counters(args) => {
            writeln!(io::stdout(), "{}", args.table()?).context("write the table")
        }
        Command::Drops(args) => Ok(args.run(&mut io::stdout())?),
        Command::Features(args) => Ok(args.run(&mut io::stdout())?),
        Command::Cleanup(args) => Ok(args.run(&mut io::stdout())?),
    }
}

fn run(options: agent::Options) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    // In this order: other threads have what this one has when it starts them.
    let prepared = agent::prepare(&options)?;
    if options.is_hardened {
        harden(&agent::needs(&options));
    }
    serve(options, prepared)
}

#[tokio::main]
async fn serve(options: agent::Options, prepared: agent::Prepared) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stop = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    agent::run(options, prepared, stop).await?;
    Ok(())
}
