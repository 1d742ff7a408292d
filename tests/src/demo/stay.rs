//! A demo that goes on serving the API when its lab is kept: a process behind the one that its user
//! has started.

use std::env;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::scene::Scene;

/// The process that stays is started by this flag, and its last line says how it went.
pub(super) const FLAG: &str = "--stay";
const PASSED: &str = "stays: passed";
const FAILED: &str = "stays: failed";

/// Starts the process that stays, and passes on what it shows; true if nothing failed.
pub(super) fn run_behind() -> Result<bool> {
    let mut demo = Command::new(env::current_exe()?);
    demo.args(["--kubernetes", "--keep", FLAG]);
    let mut child = demo.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("a pipe was asked for")?;
    for line in BufReader::new(stdout).lines() {
        match line?.as_str() {
            PASSED => return Ok(true),
            FAILED => return Ok(false),
            line => println!("{line}"),
        }
    }
    let status = child.wait()?;
    anyhow::bail!("the demo that ought to stay has ended: {status}")
}

/// Says how the demo went, leaves the user's terminal, and lives until the lab is removed.
pub(super) fn stay(scene: Scene, outcome: Result<bool>) -> Result<bool> {
    scene.cluster().hold().context("stay with the lab")?;
    let passed = outcome.unwrap_or_else(|error| {
        eprintln!("demo: {error:#}");
        false
    });
    println!("{}", if passed { PASSED } else { FAILED });
    // It fails for the leader of a group, which this process is not if it was started as above.
    let _ = setsid();
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    dup2_stderr(&nothing)?;
    loop {
        // Removing the lab ends this process.
        thread::park();
    }
}
