//! A real `lb-agent` on a node of the lab.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use lb_agent::dataplane::bpf;
use lb_agent::object;
use lb_common::counter::{Hook, Outcome};
use lb_common::maps::LAYOUT_VERSION;
use lb_common::{Counter, Frontend, FrontendKey};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::instance::Instance;
use super::node::Node;
use super::place::Place as _;
use super::pod::Pod;

/// Names the agent's binary where it does not lie beside this one.
pub(crate) const BINARY_VARIABLE: &str = "LB_AGENT_BIN";

/// Holds the XDP program at the far end of a node's cable.
pub(super) const PEER_PIN: &str = "lab-peer";
/// The user of an agent without privileges.
const NOBODY: u32 = 65_532;

/// How long an agent may take to do what is waited for.
const DEADLINE: Duration = Duration::from_secs(90);
/// How often that is looked for.
const INTERVAL: Duration = Duration::from_millis(5);

/// An agent, ended by SIGKILL on drop; what it has pinned stays until the lab goes.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    pin_dir: PathBuf,
    log: PathBuf,
    /// What earlier agents of the node have written there, in bytes.
    log_before: u64,
    instance: Arc<Instance>,
}

/// How an agent is started, beside its flags.
#[derive(Clone, Copy, Debug)]
pub struct AgentSetup<'a> {
    /// What it logs.
    pub filter: &'a str,
    /// Another binary than the one that there is.
    pub binary: Option<&'a Path>,
    /// More variables of its environment.
    pub environment: &'a [(&'a str, &'a str)],
    /// How far its clocks are ahead of the kernel's, in seconds; the wall clock has no namespace.
    pub clocks_ahead_s: i64,
}

impl Default for AgentSetup<'_> {
    fn default() -> Self {
        Self {
            filter: "info,lb_agent=debug",
            binary: None,
            environment: &[],
            clocks_ahead_s: 0,
        }
    }
}

impl Agent {
    /// Starts an agent on `node`, with more flags than the lab's own.
    ///
    /// # Errors
    /// When there is no such binary.
    pub fn start(node: &Node, flags: &[&str]) -> Result<Self> {
        Self::start_with_log(node, flags, "info,lb_agent=debug")
    }

    /// Starts an agent that logs what `filter` lets through.
    ///
    /// # Errors
    /// When there is no such binary.
    pub fn start_with_log(node: &Node, flags: &[&str], filter: &str) -> Result<Self> {
        let setup = AgentSetup {
            filter,
            ..AgentSetup::default()
        };
        Self::start_as(node, flags, &setup)
    }

    /// Starts an agent that is nobody in particular, with these capabilities alone (`net_admin`), and
    /// that finds everything read-only that is not a file system of the kernel's.
    ///
    /// # Errors
    /// When there is no such binary, or its pins cannot be given to it.
    pub fn start_unprivileged(node: &Node, flags: &[&str], capabilities: &[&str]) -> Result<Self> {
        chown(node.pin_dir(), Some(NOBODY), Some(NOBODY))?;
        let mut command = node.command("unshare")?;
        let script = "mount -o remount,bind,ro / && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script, "sh"]);
        let plus: String = capabilities.iter().map(|cap| format!(",+{cap}")).collect();
        command.args(["setpriv", "--clear-groups", "--no-new-privs"]);
        for id in ["--reuid", "--regid"] {
            command.arg(format!("{id}={NOBODY}"));
        }
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.arg(format!("{set}=-all{plus}"));
        }
        command.arg(binary()?);
        Self::spawn(node, flags, &AgentSetup::default(), command)
    }

    /// Starts an agent as somebody else would.
    ///
    /// # Errors
    /// When there is no such binary.
    pub fn start_as(node: &Node, flags: &[&str], setup: &AgentSetup<'_>) -> Result<Self> {
        let program = match setup.binary {
            Some(path) => path.to_owned(),
            None => binary()?,
        };
        if setup.clocks_ahead_s == 0 {
            return Self::spawn(node, flags, setup, node.command(program)?);
        }
        let mut command = node.command("unshare")?;
        command.arg("--time");
        for clock in ["--monotonic", "--boottime"] {
            command.arg(format!("{clock}={}", setup.clocks_ahead_s));
        }
        command.arg(program);
        Self::spawn(node, flags, setup, command)
    }

    /// Starts an agent by a command that takes the agent's arguments.
    fn spawn(
        node: &Node,
        flags: &[&str],
        setup: &AgentSetup<'_>,
        mut command: Command,
    ) -> Result<Self> {
        pass_at_peer(node).context("let the switch receive what XDP sends")?;
        let pin_dir = node.pin_dir().join("agent");
        let log = node.dir().join("agent.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let log_before = output.metadata()?.len();
        let child = command
            .args(["run", "--node-name", node.name()])
            .arg("--pin-dir")
            .arg(&pin_dir)
            .arg("--cgroup")
            .arg(node.cgroup())
            .args(flags)
            .env("RUST_LOG", setup.filter)
            .envs(setup.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            // In a kept lab it outlives the terminal that it was started from.
            .process_group(0)
            .spawn()
            .context("start lb-agent")?;
        Ok(Self {
            child,
            pin_dir,
            log,
            log_before,
            instance: Arc::clone(node.site().instance()),
        })
    }

    /// Waits until the frontends in the maps are such that `done` is true.
    ///
    /// # Errors
    /// When they are not in time, or the agent ends: with the end of its log.
    pub fn wait_for(
        &mut self,
        what: &str,
        done: impl Fn(&BTreeMap<FrontendKey, Frontend>) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let frontends = bpf::pinned_frontends(&self.pin_dir);
            if frontends.as_ref().is_ok_and(&done) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("lb-agent ended ({status}):\n{}", self.log_end());
            }
            ensure!(
                Instant::now() < deadline,
                "{what}: not within {DEADLINE:?}, frontends {:?}:\n{}",
                frontends.map(|frontends| frontends.len()),
                self.log_end()
            );
            thread::sleep(INTERVAL);
        }
    }

    /// Waits until packets from and to `pod`, a new one of its node, meet its programs.
    ///
    /// # Errors
    /// When they do not in time: with the end of its log.
    pub fn wait_until_it_serves(&self, pod: &Pod) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        // The one that gets there last.
        let link = format!("links/{}-pod-ingress", pod.host_veth_index());
        let link = self.pin_dir.join(format!("v{LAYOUT_VERSION}")).join(link);
        while !link.exists() {
            ensure!(
                Instant::now() < deadline,
                "programs at pod {}: not within {DEADLINE:?}:\n{}",
                pod.name(),
                self.log_end()
            );
            thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Waits until it has written `text` into its log.
    ///
    /// # Errors
    /// When it does not in time, or ends: with the end of its log.
    pub fn wait_until_it_says(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while !self.has_said(text) {
            if let Some(status) = self.child.try_wait()? {
                bail!("lb-agent ended ({status}):\n{}", self.log_end());
            }
            ensure!(
                Instant::now() < deadline,
                "{text}: not within {DEADLINE:?}:\n{}",
                self.log_end()
            );
            thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Whether it has written `text` into its log.
    #[must_use]
    pub fn has_said(&self, text: &str) -> bool {
        self.log_from(self.log_before).contains(text)
    }

    /// Waits until its log says `text`, from byte `from` on.
    ///
    /// # Errors
    /// When it does not in time, or the agent ends.
    pub fn wait_for_log(&mut self, text: &str, from: u64) -> Result<()> {
        let log = self.log.clone();
        self.wait_for(text, |_| read_from(&log, from).contains(text))
    }

    /// What its log says from byte `from` on.
    #[must_use]
    pub fn log_from(&self, from: u64) -> String {
        read_from(&self.log, from)
    }

    /// Waits until it has ended by itself, and says how.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "it goes on after {DEADLINE:?}:\n{}",
                self.log_end()
            );
            thread::sleep(INTERVAL);
        }
    }

    /// What the programs of this node have counted for `outcome` at `hook`.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counter(&self, hook: Hook, outcome: Outcome) -> Result<u64> {
        let counters = bpf::pinned_counters(&self.pin_dir)?;
        let index = Counter { hook, outcome }.index() as usize;
        counters.get(index).copied().context("no such counter")
    }

    /// Ends it by a signal, and waits for it.
    ///
    /// # Errors
    /// When it ends with an error, other than by this signal.
    pub fn stop(mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)?;
        let status = self.child.wait()?;
        ensure!(
            status.success() || signal == Signal::SIGKILL,
            "lb-agent ended with {status}:\n{}",
            self.log_end()
        );
        Ok(())
    }

    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it pins its maps and links.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Where it writes its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.instance.is_kept() {
            // Both fail only if it has ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What `lb-agent drops` says on `node`, whether or not its agent runs.
///
/// # Errors
/// When the command fails: with what it says.
pub fn drops(node: &Node) -> Result<Value> {
    let mut command = node.command(binary()?)?;
    command.args(["drops", "-o", "json", "--pin-dir"]);
    let output = command.arg(node.pin_dir().join("agent")).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "lb-agent drops: {error}");
    serde_json::from_slice(&output.stdout).context("read JSON")
}

fn read_from(log: &Path, from: u64) -> String {
    let read = || {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Runs another command of `lb-agent` on `node`, with the pin directory of the node's agent.
///
/// # Errors
/// When there is no such binary.
pub fn lb_agent(node: &Node, arguments: &[&str]) -> Result<Output> {
    let mut command: Command = node.command(binary()?)?;
    command.args(arguments).arg("--pin-dir");
    let output = command.arg(node.pin_dir().join("agent")).output();
    output.context("run lb-agent")
}

/// The agent's binary: what the environment says, else beside this program or one level up.
fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY_VARIABLE) {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("lb-agent"))
        .find(|path| path.exists())
        .with_context(|| {
            format!("lb-agent is not built: `cargo build -p lb-agent`, or set {BINARY_VARIABLE}")
        })
}

/// A veth delivers what its peer sends by `XDP_TX` only if it runs XDP itself.
fn pass_at_peer(node: &Node) -> Result<()> {
    let (router, peer) = node.uplink_peer();
    let pin = node.pin_dir().join(PEER_PIN);
    if pin.exists() {
        return Ok(());
    }
    let peer = peer.to_owned();
    router.run(move || {
        let mut ebpf = Ebpf::load(object::LAB)?;
        let program: &mut Xdp = ebpf
            .program_mut("lab_xdp_pass")
            .context("no such program")?
            .try_into()?;
        program.load()?;
        let link = program.attach(&peer, XdpMode::Driver)?;
        let link = aya::programs::links::FdLink::try_from(program.take_link(link)?)?;
        link.pin(pin)?;
        Ok(())
    })?
}
