//! `cargo xtask demo`, `perf` and `fuzz`: build everything, then hand over to one of the lab's
//! own binaries.

use std::{
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process, setup,
    suite::{self, Profile},
    workspace::Workspace,
};

/// Shows the load balancer at work.
pub(crate) fn demo(arguments: &[String]) -> Result<ExitCode> {
    run("demo", Profile::Debug, arguments)
}

/// Measures; as it is shipped, so with all optimisations. `--compare REVISION` measures that one, too,
/// both in turn.
pub(crate) fn perf(arguments: &[String]) -> Result<ExitCode> {
    let (revision, mut arguments) = compared(arguments)?;
    if let Some(revision) = revision {
        setup::all()?;
        let beside = build_revision(&Workspace::find()?, &revision)?;
        let beside = beside.to_str().context("a path that is not UTF-8")?;
        arguments.extend(["--beside".to_owned(), beside.to_owned()]);
    }
    run("perf", Profile::Release, &arguments)
}

/// Takes `--compare REVISION` out of the arguments.
fn compared(arguments: &[String]) -> Result<(Option<String>, Vec<String>)> {
    const COMPARE: &str = "--compare";
    let (mut revision, mut left) = (None, Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == COMPARE {
            let next = arguments.next().cloned();
            revision = Some(next.context("--compare wants a revision, as git knows them")?);
        } else if let Some(value) = argument.strip_prefix("--compare=") {
            revision = Some(value.to_owned());
        } else {
            left.push(argument.clone());
        }
    }
    Ok((revision, left))
}

/// Builds another revision in a work tree of its own, and returns where its binaries are.
fn build_revision(workspace: &Workspace, revision: &str) -> Result<PathBuf> {
    let git = || {
        let mut git = Command::new("git");
        git.current_dir(&workspace.root);
        git
    };
    let commit = format!("{revision}^{{commit}}");
    let commit = process::output(git().args(["rev-parse", "--verify", &commit]))?;
    let commit = String::from_utf8(commit).context("git's answer is not UTF-8")?;
    let (tree, target) = (
        workspace.target.join("compare/tree"),
        workspace.target.join("compare/target"),
    );
    if tree.exists() {
        let mut checkout = Command::new("git");
        checkout
            .current_dir(&tree)
            .args(["checkout", "--quiet", "--detach"]);
        process::run(checkout.arg(commit.trim()))?;
    } else {
        let mut add = git();
        add.args(["worktree", "add", "--quiet", "--force", "--detach"]);
        process::run(add.arg(&tree).arg(commit.trim()))?;
    }
    eprintln!("perf: building revision {revision}");
    let mut cargo = workspace.cargo();
    cargo.current_dir(&tree).env("CARGO_TARGET_DIR", &target);
    cargo.args([
        "build", "--quiet", "-p", "lb-agent", "-p", "lb-tests", "--bins",
    ]);
    process::run(cargo.args(Profile::Release.flags()))?;
    Ok(target.join("release"))
}

/// Runs the kernel programs against their model: for millions of packets, with optimisations.
pub(crate) fn fuzz(arguments: &[String]) -> Result<ExitCode> {
    ensure!(process::is_root(), "fuzz needs root: it loads BPF programs");
    setup::all()?;
    let workspace = Workspace::find()?;
    // The bench is a part of the lab, which wants its tool beside it.
    let mut tool = workspace.cargo();
    tool.args(["build", "--quiet", "-p", "lb-tests", "--bin", "lab-tool"])
        .args(Profile::Release.flags());
    process::run(&mut tool)?;
    let status = workspace
        .cargo()
        .args(["run", "--quiet", "-p", "lb-tests", "--bin", "lab-fuzz"])
        .args(Profile::Release.flags())
        .arg("--")
        .args(arguments)
        .status()
        .context("cannot run cargo")?;
    Ok(code(status))
}

/// Runs `lab-<name>`.
fn run(name: &str, profile: Profile, arguments: &[String]) -> Result<ExitCode> {
    ensure!(
        process::is_root(),
        "{name} needs root: it builds network namespaces and loads BPF programs"
    );
    setup::all()?;
    let workspace = Workspace::find()?;
    eprintln!("{name}: building the agent and the lab");
    let agent = suite::build_agent(&workspace, profile)?;
    let status = workspace
        .cargo()
        .args(["run", "--quiet", "-p", "lb-tests", "--bin"])
        .arg(format!("lab-{name}"))
        .args(profile.flags())
        .arg("--")
        .args(arguments)
        .env(suite::AGENT, agent)
        .status()
        .context("cannot run cargo")?;
    Ok(code(status))
}

/// A status without a code is a signal's.
fn code(status: ExitStatus) -> ExitCode {
    status.code().map_or(ExitCode::FAILURE, |code| {
        u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_is_taken_out_of_the_arguments() {
        let split = |line: &str| {
            let arguments: Vec<_> = line.split(' ').map(str::to_owned).collect();
            compared(&arguments).map(|(revision, left)| (revision, left.join(" ")))
        };
        let with = (Some("HEAD~3".to_owned()), "programs --quick".to_owned());
        assert_eq!(split("programs --compare HEAD~3 --quick").unwrap(), with);
        assert_eq!(split("programs --compare=HEAD~3 --quick").unwrap(), with);
        assert_eq!(split("all").unwrap(), (None, "all".to_owned()));
        assert!(split("programs --compare").is_err());
    }
}
