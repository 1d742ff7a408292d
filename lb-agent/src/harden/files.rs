//! Files, by Landlock (Linux 5.13).

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus,
    path_beneath_rules,
};

use super::{Error, Needs};

/// The rights that are handled; what a kernel does not know of them it leaves out.
const VERSION: ABI = ABI::V6;

/// What every process reads: names of hosts and certificates, libraries of the resolver, the kernel's
/// own files, the token of a pod.
const READ: [&str; 10] = [
    "/etc",
    "/usr/lib",
    "/usr/share",
    "/lib",
    "/lib64",
    "/proc",
    "/sys",
    "/dev",
    "/run/secrets",
    "/var/run/secrets",
];

/// Leaves the process what it needs.
pub(super) fn restrict(needs: &Needs) -> Result<String, Error> {
    let all = AccessFs::from_all(VERSION);
    // Programs are not run.
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let paths = READ.map(PathBuf::from);
    let readable = paths.iter().chain(&needs.reads);
    let status = Ruleset::default()
        .handle_access(all)?
        .create()?
        .add_rules(path_beneath_rules(readable, read))?
        .add_rules(path_beneath_rules(&needs.writes, all & !AccessFs::Execute))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "by Landlock".into(),
        RulesetStatus::PartiallyEnforced => "by Landlock, as far as this kernel goes".into(),
        RulesetStatus::NotEnforced => "not at all, as this kernel has no Landlock".into(),
    })
}
