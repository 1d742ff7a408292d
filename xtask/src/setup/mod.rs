//! `cargo xtask setup`: finds or installs what building and testing need.
//!
//! Every command that needs something calls this first, so it must cost next to nothing when all
//! is there: [`found`] looks at files, [`plan`] decides (pure), and only then something runs.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use self::{
    found::Found,
    plan::{Need, Step},
};
use crate::process;

mod found;
mod plan;

/// Makes sure that everything builds and every test can run.
pub(crate) fn all() -> Result<()> {
    provide(Need::Everything)
}

/// Makes sure that commands are there, of which each has the name of Debian's package beside it.
pub(crate) fn tools(tools: &[(&str, &'static str)]) -> Result<()> {
    let missing = tools
        .iter()
        .filter(|(command, _)| which::which(command).is_err());
    let packages: Vec<_> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let step = Step::Packages(packages);
    println!("setup: {step}");
    carry_out(&step).with_context(|| format!("setup could not carry out: {step}"))
}

/// Makes sure that everything builds.
pub(crate) fn for_building() -> Result<()> {
    provide(Need::Building)
}

fn provide(need: Need) -> Result<()> {
    let mut found = Found::look();
    if plan::is_complete(&found, need) {
        return Ok(());
    }
    if plan::wants_packages(&found, need) {
        found.ask_apt()?;
    }
    let steps = plan::plan(&found, need).map_err(by_hand)?;
    for step in steps {
        println!("setup: {step}");
        carry_out(&step).with_context(|| {
            format!("setup could not carry out: {step}; see docs/development.md")
        })?;
    }
    let found = Found::look();
    if !plan::is_complete(&found, need) {
        bail!("setup ran to its end, and something is still missing: {found:?}");
    }
    Ok(())
}

/// One error out of everything that somebody has to do.
fn by_hand(advice: Vec<String>) -> anyhow::Error {
    anyhow::anyhow!(
        "this machine lacks what setup cannot install here:\n  - {}",
        advice.join("\n  - ")
    )
}

fn carry_out(step: &Step) -> Result<()> {
    match step {
        Step::Packages(names) => {
            let mut apt = apt_get();
            process::run(
                apt.args(["install", "-y", "--no-install-recommends"])
                    .args(names),
            )
        }
        Step::LinkToolchain => run(
            "rustup",
            &["toolchain", "link", crate::toolchain::LINKED, "/usr"],
        ),
        Step::Nightly => run(
            "rustup",
            &[
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ],
        ),
        Step::CompileLinker => {
            let features = ["--no-default-features", "--features", "llvm-22"];
            let mut cargo = Command::new("cargo");
            cargo.args(["install", plan::LINKER]).args(features);
            process::run(cargo.env("LLVM_PREFIX", found::LLVM_22))
        }
        Step::DownloadLinker => run("cargo", &["binstall", "--no-confirm", plan::LINKER]),
        Step::MountBpffs => run("mount", &["-t", "bpf", "bpf", found::BPFFS]),
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    process::run(Command::new(program).args(arguments))
}

/// An `apt-get` that asks nothing.
fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}
