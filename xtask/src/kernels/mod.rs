//! `cargo xtask test kernels`: other kernels, each in a machine of its own (software emulation), with programs,
//! packets and a small cluster; and this machine's.

use std::{fs, iter, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::{process, setup, suite::Bench, tally::Tally};

mod guest;
mod packages;
mod page;

/// A kernel that is tried.
#[derive(Clone, Copy, Debug)]
struct Choice {
    /// Debian's suite.
    suite: &'static str,
    /// What its version begins with; empty for the newest.
    series: &'static str,
    /// Whether an agent is to serve there.
    is_supported: bool,
}

/// Debian's kernels for clouds: what nodes run, or will run.
const CHOICES: [Choice; 4] = [
    Choice {
        suite: "bullseye",
        series: "5.10",
        is_supported: false,
    },
    Choice {
        suite: "bookworm",
        series: "6.1",
        is_supported: true,
    },
    Choice {
        suite: "trixie",
        series: "6.12",
        is_supported: true,
    },
    Choice {
        suite: "sid",
        series: "",
        is_supported: true,
    },
];

/// What it takes, and Debian's packages of that.
const TOOLS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
];

/// Boots each kernel, writes `docs/kernels.md`, and counts the tests.
pub(crate) fn run(bench: &Bench) -> Result<Tally> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the machines for other kernels are x86-64 only"
    );
    setup::tools(&TOOLS)?;
    let binaries = Binaries::build(bench)?;
    let directory = bench.workspace.target.join("kernels");
    let (mut tally, mut rows) = (Tally::default(), Vec::new());
    let others = CHOICES.into_iter().map(|choice| {
        let directory = directory.join(choice.suite);
        let told = packages::fetch(&directory, choice)
            .and_then(|kernel| guest::try_on(&directory, &kernel, &binaries));
        let told = told.with_context(|| format!("Debian's {}", choice.suite));
        (choice.is_supported, told)
    });
    let here = iter::once_with(|| (true, guest::try_here(&binaries)));
    for (is_supported, told) in others.chain(here) {
        match told {
            Ok(told) => {
                tally.add(judge(is_supported, &told));
                rows.push(told);
            }
            Err(error) => tally.record(Err(error)),
        }
    }
    let text = page::write(&rows);
    println!("{text}");
    let path = bench.workspace.root.join("docs/kernels.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(tally)
}

/// Where the kernel is to serve, all tests count; elsewhere it is enough that it says why not.
fn judge(is_supported: bool, told: &guest::Told) -> Tally {
    let mut tally = Tally::default();
    if is_supported {
        tally.add(told.programs);
        tally.add(told.clusters);
        let is_complete =
            told.is_complete && told.programs.total() > 0 && told.clusters.total() > 0;
        let complete = is_complete.then_some(());
        tally.record(complete.with_context(|| format!("{} did not get to the end", told.release)));
    } else {
        let reason = told.reason.as_ref().map(drop);
        tally.record(
            reason.with_context(|| format!("{} does not say what is missing", told.release)),
        );
    }
    tally
}

/// What runs in the machines.
struct Binaries {
    agent: PathBuf,
    tool: PathBuf,
    programs: PathBuf,
    clusters: PathBuf,
}

impl Binaries {
    fn build(bench: &Bench) -> Result<Self> {
        let agent = bench.agent().context("no agent is built")?.to_owned();
        let mut cargo = bench.cargo_test("-p lb-tests --test programs --test e2e --no-run");
        let messages =
            process::output(cargo.args(["--message-format", "json-render-diagnostics"]))?;
        let messages = String::from_utf8(messages).context("cargo's messages are not UTF-8")?;
        let built = |name: &str| {
            crate::suite::executables(&messages)
                .into_iter()
                .find(|path| is_test_of(path, name))
                .with_context(|| format!("cargo built no test {name}"))
        };
        Ok(Self {
            tool: agent.with_file_name("lab-tool"),
            agent,
            programs: built("programs")?,
            clusters: built("e2e")?,
        })
    }
}

/// Whether this is the binary of a test target: cargo appends a hash to its name.
fn is_test_of(path: &std::path::Path, name: &str) -> bool {
    let file = path.file_name().and_then(|file| file.to_str());
    file.and_then(|file| file.strip_prefix(name))
        .is_some_and(|rest| rest.starts_with('-'))
}
