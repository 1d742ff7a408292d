//! A cgroup (version 2) of the lab's own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How long the kernel may take to end killed processes.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// A cgroup that is emptied and removed on drop.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    kept: bool,
}

impl Cgroup {
    /// Makes the cgroup at `path`, and its parents.
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path, kept: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets `command` move into the cgroup before it starts its program.
    pub(super) fn admit(&self, command: &mut Command) -> Result<()> {
        let procs = self.path.join("cgroup.procs");
        let procs = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("open {}", procs.display()))?;
        let enter = move || move_self(&procs);
        // SAFETY: between fork and exec the closure makes one system call, on a
        // descriptor that it owns; it neither allocates nor takes locks.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }

    /// Leaves the cgroup in place when this value is dropped.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.path);
        }
    }
}

/// Moves the calling process.
fn move_self(mut procs: &File) -> io::Result<()> {
    procs.write_all(b"0")
}

/// Kills what runs in the cgroup and below, waits for its end, and removes both.
pub(super) fn remove(path: &Path) {
    // A failure here means that it is gone already, or shows when it cannot be removed.
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let deadline = Instant::now() + KILL_TIMEOUT;
    while is_populated(path) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(2));
    }
    remove_tree(path);
}

fn is_populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// A cgroup's files cannot be removed, only its directories: children first.
fn remove_tree(path: &Path) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path());
    }
    let _ = fs::remove_dir(path);
}
