//! What the machine has.

use std::{
    env,
    ffi::OsString,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Result;

use super::plan::{TOOLS, Tool};
use crate::{process, toolchain};

/// Debian's LLVM of the major version that Debian's compiler uses.
pub(super) const LLVM_22: &str = "/usr/lib/llvm-22";

/// Where the agent pins maps and links.
pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// What setup looks for. Absent is false.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// We may install packages and mount file systems.
    pub(super) root: bool,
    /// What apt offers.
    pub(super) apt: Apt,
    /// A toolchain that compiles for eBPF.
    pub(super) toolchain: bool,
    /// `/usr/bin/rustc` with the sources of its library, which only needs to be linked.
    pub(super) system_compiler: bool,
    /// LLVM 22 with its headers, to compile bpf-linker against.
    pub(super) llvm_22: bool,
    /// bpf-linker, new enough.
    pub(super) linker: bool,
    /// cargo-binstall, which downloads a bpf-linker with an LLVM of its own.
    pub(super) binstall: bool,
    /// Tools of the tests that are not there.
    pub(super) missing: Vec<&'static Tool>,
    /// The BPF file system is mounted.
    pub(super) bpffs: bool,
}

/// What apt can install.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Apt {
    /// There is no apt, or it was not asked.
    #[default]
    Nothing,
    /// Tools, but no compiler that is new enough.
    Tools,
    /// Tools, and a compiler with its sources.
    ToolsAndCompiler,
}

impl Found {
    /// Looks without changing anything, and without the network.
    pub(super) fn look() -> Self {
        Self {
            root: process::is_root(),
            apt: Apt::Nothing,
            toolchain: toolchain::find().is_some(),
            system_compiler: Path::new("/usr/bin/rustc").exists()
                && Path::new("/usr/lib/rustlib/src/rust/library/core/src/lib.rs").exists(),
            llvm_22: Path::new(LLVM_22).join("bin/llvm-config").exists(),
            linker: linker_is_new_enough(),
            binstall: is_command("cargo-binstall"),
            missing: TOOLS.iter().filter(|tool| !is_there(tool.proof)).collect(),
            bpffs: is_mounted(&fs::read_to_string("/proc/mounts").unwrap_or_default()),
        }
    }

    /// Refreshes apt's lists and asks what it has; the slow part, for when something is missing.
    pub(super) fn ask_apt(&mut self) -> Result<()> {
        if !self.root || !is_command("apt-get") {
            return Ok(());
        }
        println!("setup: refreshing the lists of packages, because something is missing");
        process::run(super::apt_get().args(["update", "-qq"]))?;
        let mut show = Command::new("apt-cache");
        show.args(["show", "--no-all-versions"])
            .args(super::plan::COMPILER);
        let known = show
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?
            .success();
        self.apt = if known {
            Apt::ToolsAndCompiler
        } else {
            Apt::Tools
        };
        Ok(())
    }
}

fn linker_is_new_enough() -> bool {
    let output = Command::new("bpf-linker").arg("--version").output();
    output.is_ok_and(|output| is_supported(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether `bpf-linker --version` prints 0.13 or later.
fn is_supported(version: &str) -> bool {
    let numbers = version.trim().strip_prefix("bpf-linker ").map(|version| {
        let mut parts = version.split('.').map(str::parse::<u32>);
        (parts.next(), parts.next())
    });
    matches!(numbers, Some((Some(Ok(major)), Some(Ok(minor)))) if (major, minor) >= (0, 13))
}

/// Whether a line of `/proc/mounts` is the BPF file system's.
fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

/// A path, or the name of a command.
fn is_there(proof: &str) -> bool {
    if proof.starts_with('/') {
        Path::new(proof).exists()
    } else {
        is_command(proof)
    }
}

/// Whether a command exists; those of administrators are not on everybody's `PATH`.
fn is_command(name: &str) -> bool {
    let mut paths = env::var_os("PATH").unwrap_or_default();
    paths.push(OsString::from(":/usr/sbin:/sbin"));
    which::which_in(name, Some(paths), "/").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linker_must_be_of_version_0_13_or_later() {
        assert!(is_supported("bpf-linker 0.13.0\n"));
        assert!(is_supported("bpf-linker 1.0.0"));
        assert!(!is_supported("bpf-linker 0.9.15"));
        assert!(!is_supported("something else 2.0.0"));
        assert!(!is_supported(""));
    }

    #[test]
    fn only_a_bpf_file_system_in_its_place_counts() {
        assert!(is_mounted(
            "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n"
        ));
        assert!(!is_mounted("tmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!is_mounted("bpf /run/bpf bpf rw 0 0\n"));
    }

    #[test]
    fn command_that_does_not_exist_is_not_there() {
        assert!(is_there("sh"));
        assert!(is_there("/bin/sh"));
        assert!(!is_there("no-such-command"));
        assert!(!is_there("/no/such/file"));
    }
}
