//! What a lab needs of its machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;

/// Where pins go.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// Where Debian, and then everybody else, puts CNI plugins.
const CNI_DIRECTORIES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
const CNI_PLUGINS: [&str; 3] = ["bridge", "ptp", "host-local"];
const PROGRAMS: [&str; 3] = ["ip", "bridge", "nft"];
const TOOL: &str = "lab-tool";

/// What the machine offers.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// The root of the cgroup (version 2) tree.
    pub(super) cgroup_root: PathBuf,
    /// Where the CNI plugins are.
    pub(super) cni_directory: PathBuf,
    /// The binary of [`crate::tool`].
    pub(super) tool: PathBuf,
}

/// Checks that a lab can be built on this machine; mounts bpffs if nobody has.
///
/// # Errors
/// Says what is missing: root, a program, the CNI plugins, cgroup version 2, bpffs, or
/// the binary `lab-tool`.
pub fn preflight() -> Result<()> {
    Host::inspect().map(drop)
}

impl Host {
    pub(super) fn inspect() -> Result<Self> {
        ensure!(
            geteuid().is_root(),
            "a lab makes network namespaces: run this as root"
        );
        for program in PROGRAMS {
            ensure!(
                is_in_path(program),
                "{program} is not installed (Debian: iproute2, nftables)"
            );
        }
        mount_bpffs()?;
        Ok(Self {
            cgroup_root: cgroup_root()?,
            cni_directory: cni_directory()?,
            tool: tool()?,
        })
    }
}

fn is_in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Finds where the file system of a type is mounted.
fn mount_points(kind: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let points = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, found) = (fields.next()?, fields.next()?);
        (found == kind).then(|| PathBuf::from(point))
    });
    Ok(points.collect())
}

fn cgroup_root() -> Result<PathBuf> {
    let first = mount_points("cgroup2")?.into_iter().next();
    first.context("cgroup version 2 is not mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")
}

fn mount_bpffs() -> Result<()> {
    if mount_points("bpf")?
        .iter()
        .any(|point| point == Path::new(BPFFS))
    {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mount bpffs at {BPFFS}"))
}

fn cni_directory() -> Result<PathBuf> {
    let given = env::var_os("CNI_PATH");
    let candidates: Vec<PathBuf> = match &given {
        Some(path) => env::split_paths(path).collect(),
        None => CNI_DIRECTORIES.map(PathBuf::from).to_vec(),
    };
    let has_all = |directory: &&PathBuf| {
        CNI_PLUGINS
            .iter()
            .all(|plugin| directory.join(plugin).is_file())
    };
    let Some(directory) = candidates.iter().find(has_all) else {
        bail!(
            "no CNI plugins {CNI_PLUGINS:?} in {candidates:?} \
             (Debian: containernetworking-plugins; elsewhere: set CNI_PATH)"
        );
    };
    Ok(directory.clone())
}

/// The tool's binary: `LAB_TOOL`, or where Cargo puts it beside what is running.
fn tool() -> Result<PathBuf> {
    if let Some(tool) = env::var_os("LAB_TOOL") {
        return Ok(tool.into());
    }
    let own = env::current_exe().context("find the running program")?;
    // Tests run from `deps`, one directory below the binaries.
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(TOOL));
    found
        .into_iter()
        .find(|tool| tool.is_file())
        .with_context(|| {
            format!(
                "no {TOOL} near {} (cargo build -p lb-tests --bins)",
                own.display()
            )
        })
}
