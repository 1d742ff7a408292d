//! One lab on this machine: its name, its directory, its end.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use super::preflight::{BPFFS, Host};
use super::remains::{self, HELD, KEEP, LABS};

/// Counts the labs of this process.
static COUNTER: AtomicU32 = AtomicU32::new(0);
/// The first lab of a process removes what dead ones left.
static SWEEP: Once = Once::new();

/// What all parts of a lab share; the last of them removes what is still there.
#[derive(Debug)]
pub(super) struct Instance {
    name: String,
    host: Host,
    kept: AtomicBool,
}

impl Instance {
    pub(super) fn create() -> Result<Self> {
        let host = Host::inspect()?;
        SWEEP.call_once(|| remains::remove_before_first(&host));
        let name = reserve_name()?;
        let kept = AtomicBool::new(false);
        Ok(Self { name, host, kept })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn directory(&self) -> PathBuf {
        Path::new(LABS).join(&self.name)
    }

    /// The lab's cgroup, above those of its places.
    pub(super) fn cgroup(&self) -> PathBuf {
        self.host.cgroup_root.join(&self.name)
    }

    /// Makes a directory of the lab's, to be removed with it.
    pub(super) fn make_directory(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))
    }

    /// Makes a directory for pins on bpffs, to be removed with the lab.
    pub(super) fn make_pin_directory(&self, place: &str) -> Result<PathBuf> {
        let path = Path::new(BPFFS).join(format!("{}-{place}", self.name));
        self.make_directory(&path)?;
        Ok(path)
    }

    /// Whether the lab outlives its values.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// Lets the lab outlive its values, and this process.
    pub(super) fn keep(&self) -> Result<()> {
        self.mark("")?;
        self.kept.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes this process part of the kept lab: whoever removes the lab ends it.
    pub(super) fn hold(&self) -> Result<()> {
        let group = self.cgroup().join("holder");
        fs::create_dir_all(&group)?;
        fs::write(group.join("cgroup.procs"), "0").context("move into the lab's cgroup")?;
        self.mark(HELD)
    }

    fn mark(&self, text: &str) -> Result<()> {
        let marker = self.directory().join(KEEP);
        fs::write(&marker, text).with_context(|| format!("write {}", marker.display()))
    }
}

/// Takes the first name of this process that is free, by making the lab's directory.
///
/// A kept lab of an earlier process with the same id may have taken some.
fn reserve_name() -> Result<String> {
    fs::create_dir_all(LABS).with_context(|| format!("create {LABS}"))?;
    loop {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("lb-{}-{count}", std::process::id());
        let path = Path::new(LABS).join(&name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => {
                return made
                    .map(|()| name)
                    .with_context(|| format!("create {}", path.display()));
            }
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.is_kept() {
            remains::remove(&self.host, &self.name);
        }
    }
}
