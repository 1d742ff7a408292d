//! Steady traffic from a place, and the servers of it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::tool::{EchoOptions, READY, TrafficOptions, TrafficReport};

/// Traffic that goes on until it is told to stop; dropping it ends it.
#[derive(Debug)]
pub struct Traffic {
    running: Running,
    stdin: Option<ChildStdin>,
}

/// Servers of one place, killed on drop.
#[derive(Debug)]
pub struct Echo {
    _running: Running,
}

#[derive(Debug)]
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Traffic {
    /// Starts it, and waits until every connection that stays has had an answer.
    pub(super) fn start(tool: Command, options: &TrafficOptions) -> Result<Self> {
        let options = serde_json::to_string(options)?;
        let mut running = Running::start(tool, "traffic", &options)?;
        let stdin = running.child.stdin.take();
        Ok(Self { running, stdin })
    }

    /// Ends it, and says what happened.
    ///
    /// # Errors
    /// When it has ended by itself.
    pub fn finish(mut self) -> Result<TrafficReport> {
        self.stdin = None;
        let line = self.running.line()?;
        serde_json::from_str(&line).with_context(|| format!("parse {line:?}"))
    }
}

impl Echo {
    /// Starts the servers, and waits until they listen.
    pub(super) fn start(tool: Command, options: &EchoOptions) -> Result<Self> {
        let options = serde_json::to_string(options)?;
        let running = Running::start(tool, "echo", &options)?;
        Ok(Self { _running: running })
    }
}

impl Running {
    fn start(mut tool: Command, task: &str, options: &str) -> Result<Self> {
        let command = tool.args([task, options]);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.spawn().context("start lab-tool")?;
        let stdout = child.stdout.take().context("a pipe was asked for")?;
        let mut running = Self {
            child,
            stdout: BufReader::new(stdout),
        };
        let line = running.line()?;
        ensure!(line == READY, "lab-tool {task} did not begin: {line:?}");
        Ok(running)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .context("read from lab-tool")?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
