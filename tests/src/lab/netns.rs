//! A network namespace with a name.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};

use super::script;

/// Where `ip netns` looks for names, too.
pub(super) const DIRECTORY: &str = "/run/netns";

/// A named network namespace, unmounted and removed on drop.
///
/// The kernel frees it once no process, thread or descriptor is left in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    handle: Arc<File>,
    kept: bool,
}

impl Netns {
    /// Makes an empty namespace that is called `name` under `/run/netns`.
    ///
    /// # Errors
    /// When the name is taken, or without the privilege to make namespaces.
    pub fn create(name: &str) -> Result<Self> {
        fs::create_dir_all(DIRECTORY).with_context(|| format!("create {DIRECTORY}"))?;
        let path = path(name);
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let handle = mount_new(&path)
            .and_then(|()| File::open(&path))
            .inspect_err(|_| remove(name))
            .with_context(|| format!("make network namespace {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            handle: Arc::new(handle),
            kept: false,
        })
    }

    /// The name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace (for `nsenter --net=…`).
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// Runs `work` in the namespace, on a thread of its own, and waits for it.
    ///
    /// A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// When the thread cannot enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || {
            setns(&*self.handle, CloneFlags::CLONE_NEWNET)?;
            Ok::<_, Errno>(work())
        };
        let joined = thread::scope(|scope| scope.spawn(inside).join());
        let entered = joined.unwrap_or_else(|panic| panic::resume_unwind(panic));
        entered.with_context(|| format!("enter network namespace {}", self.name))
    }

    /// A command that runs in the namespace.
    ///
    /// Unlike `ip netns exec` it leaves the mounts alone, so that the command sees
    /// `/sys/fs/bpf` and the cgroups.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = Arc::clone(&self.handle);
        let enter = move || Ok(setns(&*handle, CloneFlags::CLONE_NEWNET)?);
        // SAFETY: between fork and exec the closure makes one system call, on a
        // descriptor that it owns; it neither allocates nor takes locks.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Sets kernel parameters of the namespace: pairs of a path below
    /// `/proc/sys/net` and a value.
    ///
    /// # Errors
    /// Names the first parameter that cannot be written.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        // `/proc/sys/net` shows the namespace of the thread that opens it.
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value)
                    .with_context(|| format!("write {value} to {}", path.display()))
            })
        })?
    }

    /// Runs `ip` commands (without the word `ip`) in the namespace; the first that fails
    /// ends it.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn ip(&self, commands: &[impl AsRef<str>]) -> Result<()> {
        script::ip(self, commands)
    }

    /// Runs a program in the namespace on an input, and returns what it says.
    ///
    /// # Errors
    /// When it fails: what it said.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(program);
        let (ok, stdout, stderr) = script::feed(command.args(arguments), input)?;
        ensure!(ok, "{program} in {}: {stderr}{stdout}", self.name);
        Ok(stdout)
    }

    /// The index of an interface.
    ///
    /// # Errors
    /// When there is no interface of that name.
    pub fn interface_index(&self, name: &str) -> Result<u32> {
        let index = self.run(|| if_nametoindex(name))?;
        index.with_context(|| format!("find {name} in {}", self.name))
    }

    /// Something to enter the namespace by that outlives its name.
    pub(super) fn handle(&self) -> Arc<File> {
        Arc::clone(&self.handle)
    }

    /// Leaves the namespace in place when this value is dropped.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.name);
        }
    }
}

/// Removes a namespace's name; the namespace itself lives on while it is used.
pub(super) fn remove(name: &str) {
    let path = path(name);
    // Both fail when another process cleans up at the same time: then all is well.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&path);
}

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes a namespace on a thread of its own and mounts it over the file at `path`.
fn mount_new(path: &Path) -> io::Result<()> {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none = None::<&str>;
        mount(
            Some("/proc/thread-self/ns/net"),
            path,
            none,
            MsFlags::MS_BIND,
            none,
        )
    };
    let made = thread::scope(|scope| scope.spawn(make).join());
    Ok(made.unwrap_or_else(|panic| panic::resume_unwind(panic))?)
}
