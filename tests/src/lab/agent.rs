//! A real `lb-agent` on a node of the lab.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use lb_agent::dataplane::bpf;
use lb_agent::object;
use lb_common::counter::{Hook, Outcome};
use lb_common::{Counter, Frontend, FrontendKey};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::instance::Instance;
use super::node::Node;
use super::place::Place as _;

/// Names the agent's binary where it does not lie beside this one.
const BINARY_VARIABLE: &str = "LB_AGENT_BIN";

/// How long an agent may take to do what is waited for.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often that is looked for.
const INTERVAL: Duration = Duration::from_millis(5);

/// An agent, ended by SIGKILL on drop; what it has pinned stays until the lab goes.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    pin_dir: PathBuf,
    log: PathBuf,
    instance: Arc<Instance>,
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
        pass_at_peer(node).context("let the switch receive what XDP sends")?;
        let pin_dir = node.pin_dir().join("agent");
        let log = node.dir().join("agent.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let child = node
            .command(binary()?)?
            .args(["run", "--node-name", node.name()])
            .arg("--pin-dir")
            .arg(&pin_dir)
            .arg("--cgroup")
            .arg(node.cgroup())
            .args(flags)
            .env("RUST_LOG", filter)
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
            if bpf::pinned_frontends(&self.pin_dir).is_ok_and(|frontends| done(&frontends)) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("lb-agent ended ({status}):\n{}", self.log_end());
            }
            ensure!(
                Instant::now() < deadline,
                "{what}: not within {DEADLINE:?}:\n{}",
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
    let pin = node.pin_dir().join("lab-peer");
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
