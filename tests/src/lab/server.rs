//! A server of [`crate::tool`] in a place.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::instance::Instance;
use super::place::Site;
use crate::tool::{READY, ServeOptions};

/// A running server, killed on drop.
#[derive(Debug)]
pub struct Server {
    child: Child,
    options: ServeOptions,
    instance: Arc<Instance>,
}

impl Server {
    /// Starts the tool, and waits until it listens.
    pub(super) fn start(site: &Site, mut tool: Command, options: ServeOptions) -> Result<Self> {
        let instance = Arc::clone(site.instance());
        let ServeOptions { name, port, .. } = &options;
        // Not this process's error output: in a kept lab the server outlives whoever
        // waits for the end of that.
        let log = instance.directory().join(format!("{name}-{port}.log"));
        let stderr = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let pipes = tool
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // Nor this process's group, which the end of its terminal ends.
            .process_group(0);
        let child = pipes.args(options.arguments()).spawn();
        let mut server = Self {
            child: child.context("start lab-tool")?,
            options,
            instance,
        };
        ensure!(
            server.is_ready()?,
            "{}",
            fs::read_to_string(&log)?.trim_end()
        );
        Ok(server)
    }

    /// Waits until the tool listens, or has ended without.
    fn is_ready(&mut self) -> Result<bool> {
        let stdout = self.child.stdout.take().context("a pipe was asked for")?;
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut line).context("read from lab-tool")?;
        Ok(line.trim_end() == READY)
    }

    /// The name that it answers with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Ends it, whether the lab is kept or not.
    pub fn end(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.options.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.instance.is_kept() {
            self.kill();
        }
    }
}
