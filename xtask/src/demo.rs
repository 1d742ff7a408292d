//! `cargo xtask demo`: builds everything, then hands over to the lab's own binary.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::{process, setup, suite, workspace::Workspace};

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    ensure!(
        process::is_root(),
        "the demo needs root: it builds network namespaces and loads BPF programs"
    );
    setup::all()?;
    let workspace = Workspace::find()?;
    println!("demo: building the agent and the lab");
    let agent = suite::build_agent(&workspace)?;
    let status = workspace
        .cargo()
        .args([
            "run", "--quiet", "-p", "lb-tests", "--bin", "lab-demo", "--",
        ])
        .args(arguments)
        .env(suite::AGENT, agent)
        .status()
        .context("cannot run cargo")?;
    // A status without a code is a signal's.
    Ok(status.code().map_or(ExitCode::FAILURE, |code| {
        u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
    }))
}
