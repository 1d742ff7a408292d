//! The same objects from files: a cluster of one, without an API server.
//!
//! Besides what a cluster's proxy watches, manifests may hold `Endpoints` and `Pod`s: a Service
//! with a selector and without endpoints of its own gets them from the Pods that it selects, as
//! the cluster's own controller would make them. Nothing is allocated: a Service has to say its
//! addresses and node ports.
//!
//! Each change re-reads everything. What a file said last stays in force while it cannot be
//! parsed, and so does an object while something in it is wrong. A file that is written in place
//! may be read half-way; rename a finished one over it, as editors do.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task, time};

use self::{files::Files, watch::Watch};
use super::{Rejection, Role, Sender};

mod assemble;
mod document;
mod files;
mod parse;
mod pods;
mod watch;

/// A change is read when nothing has happened for so long.
const QUIET: Duration = Duration::from_millis(75);
/// … but no later than this after the first sign of it.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// The source that reads manifests.
#[derive(Clone, Debug)]
pub struct Manifests {
    input: Input,
    role: Role,
}

#[derive(Clone, Debug)]
enum Input {
    Stdin,
    Path(PathBuf),
}

/// Why manifests cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path, or standard input, cannot be read.
    #[error("read manifests from {}", path.display())]
    Read {
        /// The path; `-` for standard input.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The only file there is cannot be parsed, and there is no earlier state to keep.
    #[error("{0}")]
    Parse(Rejection),
}

impl Manifests {
    /// Reads from `path`: a file; a directory, of which the `*.yaml`, `*.yml` and `*.json` files
    /// are read, hidden ones and subdirectories are not; or `-` for standard input, once.
    ///
    /// The Node object of the role's name is taken for this node.
    pub fn new(path: &Path, role: impl Into<Role>) -> Self {
        Self {
            input: match path.to_str() {
                Some("-") => Input::Stdin,
                // Watches report absolute paths.
                _ => Input::Path(std::path::absolute(path).unwrap_or_else(|_| path.to_owned())),
            },
            role: role.into(),
        }
    }

    /// Publishes what the manifests say until all receivers are gone.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] if the path cannot be read at the start, [`Error::Parse`] if it is a
    /// single file (or standard input) that cannot be parsed at the start. Nothing has been
    /// published then. Later problems are published as rejections.
    pub async fn run(self, sender: Sender) -> Result<(), Error> {
        let Self { input, role } = self;
        match input {
            Input::Stdin => {
                let read = task::spawn_blocking(|| io::read_to_string(io::stdin())).await;
                let read = read.map_err(io::Error::other).flatten();
                let text = read.map_err(|source| Error::Read {
                    path: PathBuf::from("-"),
                    source,
                })?;
                run_once(text, role, &sender)?;
                sender.closed().await;
                Ok(())
            }
            Input::Path(path) => follow(path, role, &sender).await,
        }
    }
}

/// Publishes what `text` from standard input says.
fn run_once(text: String, role: Role, sender: &Sender) -> Result<(), Error> {
    let files = Files::from_text(text, role).map_err(Error::Parse)?;
    files.publish(sender);
    Ok(())
}

async fn follow(path: PathBuf, role: Role, sender: &Sender) -> Result<(), Error> {
    let mut watch = Watch::new(&path);
    watch.arm(&[]);
    let mut files = Files::open(path, role)?;
    loop {
        files.publish(sender);
        tokio::select! {
            () = sender.closed() => return Ok(()),
            () = watch.changed() => settle(&watch).await,
        }
        // Armed first: what changes after the reading must be noticed.
        watch.arm(&files.directories());
        files.reload();
    }
}

/// Waits until a series of changes is over.
async fn settle(watch: &Watch) {
    let deadline = time::Instant::now() + MAX_DELAY;
    loop {
        let now = time::Instant::now();
        let quiet = (now + QUIET).min(deadline);
        if now >= deadline || time::timeout_at(quiet, watch.notified()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
