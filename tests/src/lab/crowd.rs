//! Many connections at once, from place to place.
//!
//! Both ends are on one processor, ahead of others: what is measured is what a connection takes.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::processor;
use crate::tool::{AttendOptions, CrowdOptions, Crowded, READY};

/// A server for crowds, killed on drop.
#[derive(Debug)]
pub struct Attendant(Child);

impl Attendant {
    pub(super) fn start(mut tool: Command, options: AttendOptions) -> Result<Self> {
        let tool = ahead(&mut tool).arg("attend");
        let tool = tool.arg(serde_json::to_string(&options)?);
        let mut attendant = Self(tool.stdout(Stdio::piped()).spawn()?);
        let stdout = attendant.0.stdout.take().context("a pipe was asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim_end() == READY, "it does not listen");
        Ok(attendant)
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets a crowd ask, and waits for it.
pub(super) fn crowd(mut tool: Command, options: &CrowdOptions) -> Result<Crowded> {
    let tool = ahead(&mut tool).arg("crowd");
    let tool = tool.arg(serde_json::to_string(options)?);
    let output = tool.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).context("read what came of it")
}

fn ahead(tool: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes system calls; it neither allocates nor takes
    // locks.
    unsafe { tool.pre_exec(|| Ok(processor::take_last()?)) }
}
