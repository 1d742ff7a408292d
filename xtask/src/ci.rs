//! `cargo xtask ci`: everything that must hold before a change goes in.

use anyhow::Result;

use crate::{process, suite, tally::Tally, workspace::Workspace};

pub(crate) fn run() -> Result<Tally> {
    let workspace = Workspace::find()?;
    let mut tally = Tally::default();
    for step in [
        "fmt --all --check",
        // The programs do not compile for the host; the eBPF build reports their warnings.
        "clippy --workspace --exclude lb-ebpf --all-targets -- -D warnings",
    ] {
        let mut cargo = workspace.cargo();
        cargo.args(step.split(' '));
        tally.record(process::run(&mut cargo));
    }
    tally.add(suite::run(None)?);
    Ok(tally)
}
