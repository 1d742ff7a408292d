//! A client of [`crate::tool`] in a place.

use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::{Context as _, Result, anyhow};

pub use crate::tool::RequestOptions as Request;
use crate::tool::{Outcome, Reply};

/// A running client: an iterator over how its requests ended, in order.
///
/// Dropping it ends the client.
#[derive(Debug)]
pub struct Requests {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<io::Result<String>>,
}

impl Requests {
    pub(super) fn start(mut tool: Command, request: &Request) -> Result<Self> {
        let command = tool
            .args(request.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("start lab-tool")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("a pipe was asked for")?;
        let (sender, lines) = mpsc::channel();
        // Reads ahead: a client must not wait until somebody cares for its replies.
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            lines.try_for_each(|line| sender.send(line))
        });
        Ok(Self {
            child,
            stdin,
            lines,
        })
    }

    /// Tells a client without a count to stop, and returns how all requests ended that
    /// have not been iterated over.
    pub fn finish(mut self) -> Vec<Result<Reply>> {
        self.stop();
        self.by_ref().collect()
    }

    /// How requests ended that have ended by now and have not been iterated over.
    pub fn ended(&mut self) -> impl Iterator<Item = Result<Reply>> + '_ {
        self.lines.try_iter().map(parse)
    }

    /// Tells a client without a count to stop after the request that is under way.
    pub fn stop(&mut self) {
        self.stdin = None;
    }
}

impl Iterator for Requests {
    type Item = Result<Reply>;

    /// Waits for the next request to end; the error says why it failed.
    fn next(&mut self) -> Option<Result<Reply>> {
        self.lines.recv().ok().map(parse)
    }
}

fn parse(line: io::Result<String>) -> Result<Reply> {
    let line = line.context("read from lab-tool")?;
    let outcome = serde_json::from_str(&line).with_context(|| format!("parse {line}"))?;
    match outcome {
        Outcome::Reply(reply) => Ok(reply),
        Outcome::Failure { error } => Err(anyhow!(error)),
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
