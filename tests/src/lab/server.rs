//! A server of [`crate::tool`] in a place.

use std::io::{BufRead as _, BufReader};
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
    pub(super) fn start(site: &Site, mut tool: Command, name: &str, port: u16) -> Result<Self> {
        let options = ServeOptions {
            name: name.to_owned(),
            port,
        };
        let command = tool
            .args(options.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = command.spawn().context("start lab-tool")?;
        let mut server = Self {
            child,
            options,
            instance: Arc::clone(site.instance()),
        };
        let stdout = server.child.stdout.take().context("a pipe was asked for")?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("read from lab-tool")?;
        ensure!(line.trim_end() == READY, "lab-tool does not listen");
        Ok(server)
    }

    /// The name that it answers with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
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
            // Both fail only if it has ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
