//! Programs of sockets, which a cgroup holds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{PinDir, soon, unique};

/// A cgroup that goes with the test.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then_some(path)
        });
        let path = Path::new(mount.expect("cgroup v2 is mounted")).join(unique());
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Number of programs that are attached.
    fn programs(&self) -> usize {
        let mut command = Command::new("bpftool");
        let output = command.args(["-j", "cgroup", "show"]).arg(&self.0).output();
        let stdout = output.unwrap().stdout;
        // Of a cgroup without programs, it says nothing at all.
        if stdout.trim_ascii().is_empty() {
            return 0;
        }
        let json: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
        json.as_array().unwrap().len()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn socket_programs_are_exchanged_without_a_leak() {
    let (pins, cgroup) = (PinDir::new(), Cgroup::new());
    for _ in 0..3 {
        let path = Some(cgroup.0.clone());
        drop(pins.open_with(|options| options.cgroup = path).unwrap());
        assert_eq!(fs::read_dir(pins.links()).unwrap().count(), 8);
        assert!(cgroup.programs() >= 8);
        soon("only the new ones are left", || cgroup.programs() == 8);
    }
    drop(pins.open());
    assert_eq!(fs::read_dir(pins.links()).unwrap().count(), 0);
    soon("none is left", || cgroup.programs() == 0);
}

#[test]
fn missing_cgroup_is_named() {
    let pins = PinDir::new();
    let error = pins.open_with(|options| options.cgroup = Some("/nonexistent/cgroup".into()));
    let error = error.err().unwrap().to_string();
    assert_eq!(error, "open the cgroup /nonexistent/cgroup");
}
