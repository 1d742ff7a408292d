//! SYNs from nobody, as many as the machine gives: an XDP program on live frames.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::Xdp;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use bytemuck::{Pod, Zeroable};
use etherparse::PacketBuilder;
use lb_agent::object;

use super::agent::PEER_PIN;
use super::cluster::Cluster;
use super::live::{self, xdp};
use super::node::Node;
use super::place::Place as _;

/// Where the SYNs say that they are from: the first two bytes of their address. Nobody is there.
const SPOOFED: [u8; 2] = [198, 18];
/// Frames of one call of the kernel.
const REPEAT: u32 = 1 << 16;
/// SYNs under way at once that no queue is too short for.
const IN_FLIGHT: u64 = 128;
const GENERATOR: &str = "lab_xdp_flood";
const STATE: &str = "FLOOD_STATE";

/// How fast SYNs follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as they are answered: all that the node, its backends and whoever else is on the way
    /// can take, none of which is lost on the way to the node.
    Answered,
    /// As fast as they can be made: most of them, and of the packets of everybody else some, are lost
    /// in the queue of the node's uplink before any program sees them.
    Unlimited,
}

/// What became of a flood.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    /// SYNs sent.
    pub sent: u64,
    /// Of them, those that were answered.
    pub answered: u64,
    /// In what time.
    pub took: Duration,
}

/// `State` of `lb-ebpf/src/lab/flood.rs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct State {
    sent: u64,
    answered: u64,
    lost: u64,
    waits: u64,
    in_flight: u64,
}

// SAFETY: `bytemuck::Pod` guarantees `Copy`, no padding and no invalid bit patterns.
unsafe impl aya::Pod for State {}

/// A flood of spoofed SYNs that goes on until it is dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    programs: Arc<Programs>,
    started: Instant,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Sends SYNs for `to` to the uplink of a node.
    ///
    /// # Errors
    /// When the kernel refuses the program.
    pub fn start(cluster: &Cluster, node: usize, to: SocketAddrV4, pace: Pace) -> Result<Self> {
        let node = cluster.node(node);
        let (switch, peer) = node.uplink_peer();
        let ifindex = switch.interface_index(peer)?;
        let syn = syn(mac(node)?, to)?;
        let programs = switch.run(|| Programs::load(&syn, pace, node))??;
        let programs = Arc::new(programs);
        let stop = Arc::<AtomicBool>::default();
        let handle = switch.handle();
        let (until, generator) = (Arc::clone(&stop), Arc::clone(&programs));
        let thread = thread::spawn(move || {
            // The kernel looks the device up in the namespace of the thread.
            nix::sched::setns(&*handle, nix::sched::CloneFlags::CLONE_NEWNET)?;
            if pace == Pace::Unlimited {
                give_way();
            }
            while !until.load(Ordering::Relaxed) {
                live::run(generator.fd()?, &syn, ifindex, REPEAT).context("run the generator")?;
            }
            Ok(())
        });
        Ok(Self {
            stop,
            programs,
            started: Instant::now(),
            thread: Some(thread),
        })
    }

    /// How long it has gone on.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn stop(mut self) -> Result<Flooded> {
        self.end()?;
        let state = self.programs.state()?;
        Ok(Flooded {
            sent: state.sent,
            answered: state.answered,
            took: self.elapsed(),
        })
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(anyhow!("the flood has panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Whoever cares has stopped it.
        let _ = self.end();
    }
}

/// Lets whoever receives go first on this thread's processor: else most SYNs end at the device, whose
/// queue is short, and are no load to anybody.
fn give_way() {
    const LAST: libc::c_int = 19;
    // SAFETY: changes a number of the calling thread. Where that is refused, fewer SYNs arrive.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LAST) };
}

/// MAC address of a node's uplink.
pub(super) fn mac(node: &super::Node) -> Result<[u8; 6]> {
    let mut command = node.netns().command("ip");
    let output = command.args(["-o", "link", "show", node.uplink()]).output();
    let output = String::from_utf8(output.context("run ip")?.stdout)?;
    let mut words = output.split(' ').skip_while(|word| *word != "link/ether");
    let text = words.nth(1).context("a MAC address")?;
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    bytes
        .try_into()
        .map_err(|bytes| anyhow!("{text} is no MAC address: {bytes:?}"))
}

/// The SYN that the program makes others of: the lower half of its source address, and its source
/// port, are zero.
fn syn(destination: [u8; 6], to: SocketAddrV4) -> Result<Vec<u8>> {
    let [high, low] = SPOOFED;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], destination)
        .ipv4([high, low, 0, 0], to.ip().octets(), 64)
        .tcp(0, to.port(), 0x0102_0304, 0x2000)
        .syn()
        .write(&mut frame, &[])?;
    Ok(frame)
}

/// The generator, and the sink of the answers.
#[derive(Debug)]
struct Programs(Ebpf);

impl Programs {
    /// Loads both; answers end at the far end of the node's cable.
    fn load(syn: &[u8], pace: Pace, node: &Node) -> Result<Self> {
        let mut ebpf = Ebpf::load(object::LAB)?;
        let mut template: Array<_, [u16; 27]> =
            ebpf.map_mut("FLOOD").context("no map")?.try_into()?;
        let words: &[[u8; 2]] = bytemuck::try_cast_slice(syn).map_err(|e| anyhow!("{e}"))?;
        let words: Vec<u16> = words.iter().map(|word| u16::from_ne_bytes(*word)).collect();
        let words: [u16; 27] = words
            .try_into()
            .map_err(|words| anyhow!("no SYN: {words:?}"))?;
        template.set(0, words, 0)?;
        let mut state: Array<_, State> = ebpf.map_mut(STATE).context("no map")?.try_into()?;
        let in_flight = match pace {
            Pace::Answered => IN_FLIGHT,
            Pace::Unlimited => i64::MAX.cast_unsigned(),
        };
        let begin = State {
            in_flight,
            ..State::zeroed()
        };
        state.set(0, begin, 0)?;
        xdp(&mut ebpf, GENERATOR)?.load()?;
        let sink = xdp(&mut ebpf, "lab_xdp_flood_sink")?;
        sink.load()?;
        let link = PinnedLink::from_pin(node.pin_dir().join(PEER_PIN))?;
        sink.attach_to_link(XdpLink::try_from(FdLink::from(link))?)?;
        Ok(Self(ebpf))
    }

    fn state(&self) -> Result<State> {
        let map = self.0.map(STATE).context("no map")?;
        let map: Array<&MapData, State> = map.try_into()?;
        Ok(map.get(&0, 0)?)
    }

    fn fd(&self) -> Result<BorrowedFd<'_>> {
        let program = self.0.program(GENERATOR).context("no such program")?;
        let program: &Xdp = program.try_into()?;
        Ok(program.fd()?.as_fd())
    }
}
