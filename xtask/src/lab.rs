//! `cargo xtask demo` and `cargo xtask perf`: build everything, then hand over to one of the lab's
//! own binaries.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::{
    process, setup,
    suite::{self, Profile},
    workspace::Workspace,
};

/// Shows the load balancer at work.
pub(crate) fn demo(arguments: &[String]) -> Result<ExitCode> {
    run("demo", Profile::Debug, arguments)
}

/// Measures; as it is shipped, so with all optimisations.
pub(crate) fn perf(arguments: &[String]) -> Result<ExitCode> {
    run("perf", Profile::Release, arguments)
}

/// Runs `lab-<name>`.
fn run(name: &str, profile: Profile, arguments: &[String]) -> Result<ExitCode> {
    ensure!(
        process::is_root(),
        "{name} needs root: it builds network namespaces and loads BPF programs"
    );
    setup::all()?;
    let workspace = Workspace::find()?;
    eprintln!("{name}: building the agent and the lab");
    let agent = suite::build_agent(&workspace, profile)?;
    let status = workspace
        .cargo()
        .args(["run", "--quiet", "-p", "lb-tests", "--bin"])
        .arg(format!("lab-{name}"))
        .args(profile.flags())
        .arg("--")
        .args(arguments)
        .env(suite::AGENT, agent)
        .status()
        .context("cannot run cargo")?;
    // A status without a code is a signal's.
    Ok(status.code().map_or(ExitCode::FAILURE, |code| {
        u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
    }))
}
