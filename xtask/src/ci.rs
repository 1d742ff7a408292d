//! `cargo xtask ci`: everything that must hold before a change goes in.

use anyhow::Result;

use crate::{process, setup, suite, tally::Tally, workspace::Workspace};

pub(crate) fn run() -> Result<Tally> {
    setup::for_building()?;
    let workspace = Workspace::find()?;
    let mut tally = Tally::default();
    tally.record(cargo(&workspace, "fmt --all --check", &[]));
    let host = "clippy --workspace --exclude lb-ebpf --all-targets -- -D warnings";
    tally.record(cargo(&workspace, host, &[]));
    // The programs have no unwinding and no tests of their own, so the host's clippy needs to be
    // told the former and must not look for the latter.
    let programs = "clippy -p lb-ebpf --lib --bins -- -D warnings";
    tally.record(cargo(
        &workspace,
        programs,
        &[("CARGO_PROFILE_DEV_PANIC", "abort")],
    ));
    tally.add(suite::run(None, false)?);
    Ok(tally)
}

fn cargo(workspace: &Workspace, arguments: &str, environment: &[(&str, &str)]) -> Result<()> {
    println!("ci: cargo {arguments}");
    let mut cargo = workspace.cargo();
    process::run(
        cargo
            .args(arguments.split(' '))
            .envs(environment.iter().copied()),
    )
}
