//! Removes labs by name: at their end, and those that a dead process left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::preflight::{BPFFS, Host};
use super::{cgroup, netns};

/// Where labs have their directories.
pub(super) const LABS: &str = "/run/lb-lab";
/// The file in a lab's directory that lets it outlive its process.
pub(super) const KEEP: &str = "keep";
/// What that file says if the process lives only for the lab.
pub(super) const HELD: &str = "held";

/// Removes what is left of labs whose process is dead, except kept ones.
///
/// The first lab of every process does this by itself.
///
/// # Errors
/// Those of [`preflight`](super::preflight()).
pub fn remove_dead() -> Result<()> {
    let host = Host::inspect()?;
    remove_where(&host, |pid, name| !is_alive(pid) && !is_kept(name));
    Ok(())
}

/// Removes kept labs whose process is dead or part of them, with everything that runs in them.
///
/// # Errors
/// Those of [`preflight`](super::preflight()).
pub fn remove_kept() -> Result<()> {
    let host = Host::inspect()?;
    remove_where(&host, |pid, name| {
        is_kept(name) && (!is_alive(pid) || is_held(name))
    });
    Ok(())
}

/// Removes the lab of the given name, kept or not, with everything that runs in it.
///
/// # Errors
/// Those of [`preflight`](super::preflight()), and when it is not the name of a lab.
pub fn remove_lab(name: &str) -> Result<()> {
    let host = Host::inspect()?;
    let is_lab = lab_of(name).is_some_and(|(_, lab)| lab == name);
    ensure!(is_lab, "{name:?} is not the name of a lab");
    remove(&host, name);
    Ok(())
}

/// Like [`remove_dead`], in a process that has no lab yet: a lab under its own process
/// id is one of an earlier process that had the same.
pub(super) fn remove_before_first(host: &Host) {
    let own = std::process::id();
    remove_where(host, |pid, name| {
        (pid == own || !is_alive(pid)) && !is_kept(name)
    });
}

/// Removes all that carries a lab's name; nothing, if there is nothing.
pub(super) fn remove(host: &Host, name: &str) {
    cgroup::remove(&host.cgroup_root.join(name));
    let prefix = format!("{name}-");
    for netns in entries(netns::DIRECTORY).filter(|entry| entry.starts_with(&prefix)) {
        netns::remove(&netns);
    }
    for pins in entries(BPFFS).filter(|entry| entry.starts_with(&prefix)) {
        let _ = fs::remove_dir_all(Path::new(BPFFS).join(pins));
    }
    // Last: it holds the marker of kept labs. What fails here (another process is
    // quicker) is tried again by the next lab.
    let _ = fs::remove_dir_all(Path::new(LABS).join(name));
}

fn remove_where(host: &Host, is_remains: impl Fn(u32, &str) -> bool) {
    let directories = [
        Path::new(LABS),
        Path::new(netns::DIRECTORY),
        &host.cgroup_root,
    ];
    let entries = directories
        .into_iter()
        .chain([Path::new(BPFFS)])
        .flat_map(entries);
    let labs: BTreeSet<_> = entries.filter_map(|entry| lab_of(&entry)).collect();
    for (_, name) in labs.iter().filter(|(pid, name)| is_remains(*pid, name)) {
        remove(host, name);
    }
}

/// The process id and the name of the lab that a name (`lb-<pid>-<counter>…`) belongs to.
fn lab_of(entry: &str) -> Option<(u32, String)> {
    let mut parts = entry.strip_prefix("lb-")?.split('-');
    let pid = parts.next()?.parse().ok()?;
    let count: u32 = parts.next()?.parse().ok()?;
    Some((pid, format!("lb-{pid}-{count}")))
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn is_kept(name: &str) -> bool {
    Path::new(LABS).join(name).join(KEEP).exists()
}

fn is_held(name: &str) -> bool {
    let marker = Path::new(LABS).join(name).join(KEEP);
    fs::read_to_string(marker).is_ok_and(|text| text == HELD)
}

/// The names in a directory; none, if it cannot be read.
pub(super) fn entries(directory: impl AsRef<Path>) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::lab_of;

    #[test]
    fn only_names_of_labs_are_taken_for_labs() {
        let lab = Some((12, "lb-12-1".to_owned()));
        assert_eq!(lab_of("lb-12-1"), lab);
        assert_eq!(lab_of("lb-12-1-node1"), lab);
        for other in ["lb", "lb-agent-1", "lb-12", "lb-12-x", "xlb-12-1", "lb--1"] {
            assert_eq!(lab_of(other), None, "{other}");
        }
    }
}
