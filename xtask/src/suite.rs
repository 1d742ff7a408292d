//! `cargo xtask test`: runs the test suites and sums up their results.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::Deserialize;

use crate::{kernels, process, semantics, setup, tally::Tally, tidy, workspace::Workspace};

/// Environment variable that tells tests and the demo where the agent's binary is.
pub(crate) const AGENT: &str = "LB_AGENT_BIN";
/// Environment variable that tells tests where the agent's binary with another layout is.
const OTHER_LAYOUT: &str = "LB_AGENT_OTHER_LAYOUT_BIN";
/// Environment variable that tells the chaos test how many seeds to try.
const CHAOS_SEEDS: &str = "LB_CHAOS_SEEDS";
/// So many of them in a long run.
const CHAOS_SEEDS_LONG: &str = "10000";
/// Environment variable that tells the tests of floods how long these go on, in seconds.
const FLOOD_SECONDS: &str = "LB_FLOOD_SECONDS";
/// So long in a long run.
const FLOOD_SECONDS_LONG: &str = "60";

/// Environment variable that tells how often two processors change a table at once.
const RACE_OPERATIONS: &str = "LB_RACE_OPERATIONS";
/// So often in a long run.
const RACE_OPERATIONS_LONG: &str = "1000000000";

/// Environment variable that tells the tests of an agent's life to go on for long.
const LIFECYCLE_LONG: &str = "LB_LIFECYCLE_LONG";
/// Environment variable that tells these where the agent is that kills itself.
const FAILPOINTS: &str = "LB_AGENT_FAILPOINTS_BIN";
/// Its file, beside the agent's.
const FAILPOINTS_FILE: &str = "lb-agent-failpoints";

/// Environment variable that tells labs how unkind they shall be.
const LAB_MODE: &str = "LB_LAB_MODE";

/// Tests that run once more: what holds where packets are treated kindly must hold where pods' veths
/// compute no checksums, and where nodes drop what their conntrack takes for invalid.
struct SecondPass {
    name: &'static str,
    /// Arguments of `cargo test`.
    arguments: &'static str,
    lab_mode: &'static str,
}

/// A part of the tests.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Suite {
    /// What needs no kernel: lb-common, lb-agent, the stand-in of an API server and the agent against
    /// a hostile one, xtask.
    Unit,
    /// What the agent asks of the kernel, and the kernel programs, packet by packet
    /// (`BPF_PROG_TEST_RUN`); needs root.
    Programs,
    /// Clusters of network namespaces with real agents and sockets; needs root.
    E2e,
    /// Agents that end and begin, in whatever way, under traffic that must not notice; needs root.
    Lifecycle,
    /// Those of all suites that prove an item of `docs/semantics.md`; needs root.
    Semantics,
    /// Some of them on other kernels, emulated; no part of the tests without a name, since it downloads
    /// kernels and takes a quarter of an hour; needs root.
    Kernels,
}

impl Suite {
    /// The suites that have each test once.
    pub(crate) const PARTS: [Self; 4] = [Self::Unit, Self::Programs, Self::E2e, Self::Lifecycle];

    /// Arguments of `cargo test`, one run after the other. xtask is tested apart: the agent would
    /// be compiled anew with the features that its dependencies have there. What the suite of
    /// semantics runs is chosen by name.
    pub(crate) fn runs(self) -> &'static [&'static str] {
        match self {
            Self::Unit => &[
                "-p lb-common --features lb-common/alloc -p lb-agent --lib --bins",
                "-p lb-tests --test apiserver",
                "-p lb-tests --test chaos",
                "-p xtask",
            ],
            Self::Programs => &[
                "-p lb-agent --test bpf_dataplane --test interfaces",
                "-p lb-tests --test programs",
            ],
            // A flood disturbs whatever runs beside it.
            Self::E2e => &[
                "-p lb-tests --lib --test lab --test e2e",
                "-p lb-tests --test flood",
            ],
            Self::Lifecycle => &["-p lb-tests --test lifecycle"],
            Self::Semantics | Self::Kernels => &[],
        }
    }

    /// What runs again, in another mode.
    fn second_pass(self) -> Option<SecondPass> {
        match self {
            Self::E2e => Some(SecondPass {
                name: "e2e, tx off and ct invalid dropped",
                arguments: "-p lb-tests --test e2e",
                lab_mode: "tx-off,drop-invalid",
            }),
            Self::Unit | Self::Programs | Self::Lifecycle | Self::Semantics | Self::Kernels => None,
        }
    }

    /// Whether the suite loads programs into the kernel.
    fn needs_root(self) -> bool {
        !matches!(self, Self::Unit)
    }
}

/// Runs one suite; without one, tidy and all tests. A long run tries more seeds,
/// longer floods, more races and more restarts.
pub(crate) fn run(only: Option<Suite>, is_long: bool) -> Result<Tally> {
    let mut tally = Tally::default();
    if only.is_none() {
        tally.add(tidy::run(false)?);
        tally.record(semantics::check_all_proved());
    }
    for suite in only.map_or(Suite::PARTS.to_vec(), |suite| vec![suite]) {
        match run_suite(suite, is_long) {
            Ok(counts) => tally.add(counts),
            Err(error) => tally.record(Err(error)),
        }
    }
    Ok(tally)
}

/// Builds what a suite needs, then runs it.
fn run_suite(suite: Suite, is_long: bool) -> Result<Tally> {
    println!(
        "test: {}",
        suite
            .to_possible_value()
            .context("suite without a name")?
            .get_name()
    );
    let bench = Bench::prepare(suite.needs_root())?;
    if let Suite::Semantics = suite {
        return semantics::suite::run(&bench);
    }
    if let Suite::Kernels = suite {
        return kernels::run(&bench);
    }
    let mut tally = Tally::default();
    for arguments in suite.runs() {
        let mut cargo = bench.cargo_test(arguments);
        if is_long {
            cargo.env(CHAOS_SEEDS, CHAOS_SEEDS_LONG);
            cargo.env(FLOOD_SECONDS, FLOOD_SECONDS_LONG);
            cargo.env(RACE_OPERATIONS, RACE_OPERATIONS_LONG);
            cargo.env(LIFECYCLE_LONG, "1");
        }
        if let Suite::Lifecycle = suite {
            let failpoints = bench.failpoints()?;
            // What each of them measures, others would disturb.
            cargo
                .env(FAILPOINTS, failpoints)
                .env("RUST_TEST_THREADS", "1");
        }
        tally.add(count(&mut cargo)?);
    }
    if let Some(pass) = suite.second_pass() {
        println!("test: {}", pass.name);
        let mut cargo = bench.cargo_test(pass.arguments);
        tally.add(count(cargo.env(LAB_MODE, pass.lab_mode))?);
    }
    Ok(tally)
}

/// Where tests run: everything that they need is there.
pub(crate) struct Bench {
    pub(crate) workspace: Workspace,
    /// The agent's binary, and that of one with another layout, for those that need root.
    agent: Option<[PathBuf; 2]>,
}

impl Bench {
    /// Installs and builds what tests need.
    fn prepare(needs_root: bool) -> Result<Self> {
        ensure!(
            process::is_root() || !needs_root,
            "these tests need root: they build network namespaces and load BPF programs"
        );
        let workspace = Workspace::find()?;
        let agent = if needs_root {
            setup::all()?;
            // In this order: both are built to the same place.
            let other = build_other_layout(&workspace)?;
            Some([build_agent(&workspace, Profile::Debug)?, other])
        } else {
            setup::for_building()?;
            None
        };
        Ok(Self { workspace, agent })
    }

    /// Builds the agent that kills itself where it is told to, beside the agent.
    fn failpoints(&self) -> Result<PathBuf> {
        let [agent, _] = self.agent.as_ref().context("no agent is built")?;
        let path = agent.with_file_name(FAILPOINTS_FILE);
        // The same packages as for the agent: cargo would build what they share anew.
        let mut cargo = self.workspace.cargo();
        cargo
            .args([
                "build", "-p", "lb-agent", "-p", "lb-tests", "--bin", "lb-agent",
            ])
            .args(["--features", "lb-agent/failpoints"]);
        process::output(&mut cargo)?;
        fs::copy(agent, &path).with_context(|| format!("cannot write {}", path.display()))?;
        build_agent(&self.workspace, Profile::Debug)?;
        Ok(path)
    }

    /// The agent's binary; none for tests that need no root.
    pub(crate) fn agent(&self) -> Option<&Path> {
        self.agent.as_ref().map(|[agent, _]| agent.as_path())
    }

    /// A `cargo test` that goes on after failures.
    pub(crate) fn cargo_test(&self, arguments: &str) -> Command {
        let mut cargo = self.workspace.cargo();
        cargo
            .args(["test", "--no-fail-fast"])
            .args(arguments.split(' '));
        if let Some([agent, other]) = &self.agent {
            cargo.env(AGENT, agent).env(OTHER_LAYOUT, other);
        }
        cargo
    }
}

/// Runs a `cargo test`, shows its output, and counts its results.
pub(crate) fn count(cargo: &mut Command) -> Result<Tally> {
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", process::line(cargo)))?;
    let mut tally = Tally::default();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line.context("cannot read the tests' output")?;
        println!("{line}");
        tally.read(&line);
    }
    let status = child.wait().context("lost the tests")?;
    if !status.success() && !tally.has_failures() {
        // It did not compile, or a test brought its whole process down.
        tally.record(Err(anyhow::anyhow!(
            "{} failed: {status}",
            process::line(cargo)
        )));
    }
    Ok(tally)
}

/// How cargo builds.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    /// Flags of cargo's commands.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }

    /// Which binaries there are to be. To optimise one takes minutes.
    fn binaries(self) -> &'static str {
        match self {
            Self::Debug => "--bins",
            Self::Release => "--bin lb-agent --bin lab-perf --bin lab-tool",
        }
    }
}

/// Builds the lab's binaries and the agent, and returns the path of the agent's binary.
pub(crate) fn build_agent(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "-p", "lb-agent", "-p", "lb-tests"])
        .args(profile.binaries().split(' '))
        .args(["--message-format", "json-render-diagnostics"])
        .args(profile.flags());
    let messages = process::output(&mut cargo)?;
    let messages = String::from_utf8(messages).context("cargo's messages are not UTF-8")?;
    executable(&messages, "lb-agent").context("cargo built no lb-agent")
}

/// Builds an agent with another layout of the maps, and returns the path of a copy of its binary.
fn build_other_layout(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "-p", "lb-agent", "--features", "lab-layout"])
        .args(["--message-format", "json-render-diagnostics"]);
    let messages = process::output(&mut cargo)?;
    let messages = String::from_utf8(messages).context("cargo's messages are not UTF-8")?;
    let built = executable(&messages, "lb-agent").context("cargo built no lb-agent")?;
    let copy = built.with_file_name("lb-agent-other-layout");
    // A running one stays as it is: the new one gets the name.
    let new = copy.with_extension("new");
    fs::copy(&built, &new).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    Ok(copy)
}

/// Finds the path of the binary `name` among cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    executables(messages)
        .into_iter()
        .find(|path| path.file_name().is_some_and(|file| file == name))
}

/// The paths of all binaries among cargo's messages.
pub(crate) fn executables(messages: &str) -> Vec<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_binary_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/t/debug/lab-demo"}
{"reason":"compiler-artifact","executable":"/t/debug/lb-agent"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(messages, "lb-agent"),
            Some(PathBuf::from("/t/debug/lb-agent"))
        );
        assert_eq!(executable(messages, "other"), None);
    }

    #[test]
    fn run_that_dies_without_a_result_counts_as_failed() {
        let tally = count(Command::new("sh").args(["-c", "exit 101"])).unwrap();
        assert!(tally.has_failures());
    }

    #[test]
    fn missing_test_target_is_a_failure() {
        let workspace = Workspace::find().unwrap();
        let mut cargo = workspace.cargo();
        cargo.args(["test", "-p", "lb-common", "--test", "no-such-target"]);
        let tally = count(cargo.stderr(Stdio::null())).unwrap();
        assert!(tally.has_failures());
    }
}
