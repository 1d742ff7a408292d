//! Datagrams through a node, as many as it forwards: a generator on live frames and a sink, both on
//! one processor with all that is between them, and never more under way than queues hold.
//!
//! They leave the far end of a node's cable, and come back to it.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use bytemuck::{Pod, Zeroable};
use etherparse::PacketBuilder;
use lb_agent::object;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{Pid, getpid, gettid};

use super::agent::PEER_PIN;
use super::live::{self, xdp};
use super::node::Node;
use super::place::Place as _;
use super::{flood, offload, processor};

/// What is sent to one of these ports ends in the sink.
const PORTS: (u16, u16) = (9000, 16);
/// Words of two bytes of the longest frame.
const WORDS: usize = 31;
/// Bytes of a frame over IPv4; over IPv6 the headers alone have more.
const SHORT: usize = 60;
/// Before it counts, a load goes on for so long.
const WARM_UP: Duration = Duration::from_millis(20);
/// In what time something has to arrive.
const FIRST: Duration = Duration::from_secs(2);
/// In what time each flow has to have had its turn.
const DEADLINE: Duration = Duration::from_secs(40);
/// Frames of one call of the kernel: more than there is ever time for. A signal ends it.
const REPEAT: u32 = 400_000_000;
/// How often the generator is told to end, until it does, and how often it is looked whether it goes on.
const INTERVAL: Duration = Duration::from_millis(1);

/// Whom datagrams come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flows {
    /// One flow.
    One,
    /// 65,536 flows, by turns, in an order that looks like chance.
    Many,
    /// Each from a flow that has not been before.
    New,
}

impl Flows {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::One, Self::Many, Self::New];

    fn mask(self) -> u32 {
        match self {
            Self::One => 0,
            Self::Many => u16::MAX.into(),
            Self::New => u32::MAX,
        }
    }

    /// How many there are, as long as they are met again.
    fn count(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Many => 1 << 16,
            Self::New => 0,
        }
    }

    /// How many frames there have to be until all flows go on: each is answered once, and its client goes on twice. Those
    /// that are new never do.
    #[must_use]
    pub fn warm_up(self) -> u64 {
        self.count().max(1) * 3
    }
}

/// Where a load goes.
#[derive(Clone, Copy, Debug)]
pub struct Aim<'a> {
    /// Through this node,
    pub node: &'a Node,
    /// to this address,
    pub to: SocketAddr,
    /// from so many.
    pub flows: Flows,
}

/// What became of a load.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Frames that arrived.
    pub arrived: u64,
    /// Frames that did not.
    pub lost: u64,
    /// In what time.
    pub took: Duration,
    /// When other processes had the processor: in that time, and until the next frame was made.
    pub waited: Duration,
}

impl Sent {
    /// Frames a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.took.as_secs_f64()
    }

    /// Whether it says what the node forwards: some frames arrived, and hardly any were lost.
    #[must_use]
    pub fn is_meaningful(&self) -> bool {
        self.arrived > 0 && self.lost * 100 <= self.arrived
    }

    /// The part of the time when other processes had the processor.
    #[must_use]
    pub fn disturbance(&self) -> f64 {
        self.waited.as_secs_f64() / self.took.as_secs_f64()
    }
}

/// `State` of `lb-ebpf/src/lab/load.rs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct State {
    sent: u64,
    arrived: u64,
    lost: u64,
    waits: u64,
    flow: u32,
    mask: u32,
    port: u32,
    ports: u32,
    answers: u64,
}

// SAFETY: `bytemuck::Pod` guarantees `Copy`, no padding and no invalid bit patterns.
unsafe impl aya::Pod for State {}

/// The generator and the sink.
#[derive(Debug)]
pub struct Load {
    ebpf: Ebpf,
}

impl Load {
    /// Networks that datagrams come from, of IPv4 and of IPv6. Nobody is there.
    pub const SOURCES: [&str; 2] = ["198.18.0.0/16", "2001:db8:c612::/112"];

    /// Loads both.
    ///
    /// # Errors
    /// When the kernel refuses a program.
    pub fn new() -> Result<Self> {
        let mut ebpf = Ebpf::load(object::LAB)?;
        for name in ["lab_xdp_load4", "lab_xdp_load6", SINK, "lab_xdp_bounce"] {
            xdp(&mut ebpf, name)?
                .load()
                .with_context(|| format!("load {name}"))?;
        }
        listen_to_signal()?;
        Ok(Self { ebpf })
    }

    /// Ports that the sink is behind.
    pub fn ports() -> impl Iterator<Item = u16> {
        let (first, count) = PORTS;
        first..first + count
    }

    /// Puts the sink at the far end of a node's cable, and lets the node take frames in batches.
    /// Agents start after that.
    ///
    /// # Errors
    /// When something is attached there already.
    pub fn sink_at(&mut self, node: &Node) -> Result<()> {
        offload::enable_gro(node.netns(), node.card())?;
        let (far, peer) = node.uplink_peer();
        let program = xdp(&mut self.ebpf, SINK)?;
        far.run(|| {
            let link = program.attach(peer, XdpMode::Driver)?;
            let link = FdLink::try_from(program.take_link(link)?)?;
            link.pin(node.pin_dir().join(PEER_PIN))?;
            Ok(())
        })?
    }

    /// Lets a node send back all UDP, as soon as XDP can.
    ///
    /// # Errors
    /// When something is attached there already.
    pub fn bounce_at(&mut self, node: &Node) -> Result<()> {
        let program = xdp(&mut self.ebpf, "lab_xdp_bounce")?;
        node.netns().run(|| {
            let link = program.attach(node.card(), XdpMode::Driver)?;
            let link = FdLink::try_from(program.take_link(link)?)?;
            link.pin(node.pin_dir().join("lab-bounce"))?;
            Ok(())
        })?
    }

    /// Sends until all flows that are met again have been answered and have gone on, then for as long as `window`, and counts what arrives.
    ///
    /// # Errors
    /// When nothing arrives.
    pub fn send(&mut self, aim: Aim<'_>, window: Duration) -> Result<Sent> {
        let (far, peer) = aim.node.uplink_peer();
        let ifindex = far.interface_index(peer)?;
        let frame = frame(flood::mac(aim.node)?, aim.to)?;
        self.prepare(&frame, aim.flows)?;
        let name = match aim.to {
            SocketAddr::V4(_) => "lab_xdp_load4",
            SocketAddr::V6(_) => "lab_xdp_load6",
        };
        let program: &Xdp = self.ebpf.program(name).context("no program")?.try_into()?;
        let program = program.fd()?.as_fd();
        let netns = far.handle();
        thread::scope(|scope| {
            let (begun, begin) = mpsc::channel();
            let (ended, end) = mpsc::channel();
            scope.spawn(move || {
                let run = || {
                    settle(&netns)?;
                    // Nobody listens if it has ended before.
                    let _ = begun.send(gettid());
                    live::run(program, &frame, ifindex, REPEAT).context("run the generator")
                };
                let _: Result<(), _> = Sender::send(&ended, run());
            });
            let Ok(thread) = begin.recv() else {
                end.recv()??;
                bail!("the generator has not begun");
            };
            let generator = Generator { thread, end };
            self.measure(&generator, aim.flows, window)
                .with_context(|| format!("send to {} through {}", aim.to, aim.node.name()))
        })
    }

    fn measure(&self, generator: &Generator, flows: Flows, window: Duration) -> Result<Sent> {
        let begin = Instant::now();
        loop {
            generator.go_on(WARM_UP)?;
            let state = self.state()?;
            let arrived = state.arrived - state.lost;
            if arrived >= flows.warm_up() {
                break;
            }
            let patience = if arrived == 0 { FIRST } else { DEADLINE };
            ensure!(
                begin.elapsed() < patience,
                "{arrived} datagrams arrived, {} are lost",
                state.lost
            );
        }
        let (before, waited, start) = (self.state()?, generator.waited()?, Instant::now());
        generator.go_on(window)?;
        let (after, end) = (self.state()?, Instant::now());
        let waits = self.waited_until(generator, after)?;
        let lost = after.lost - before.lost;
        Ok(Sent {
            arrived: after.arrived - before.arrived - lost,
            lost,
            took: end - start,
            waited: waits.saturating_sub(waited),
        })
    }

    /// For how long the generator has waited for the processor until it went on after this. The kernel counts no time
    /// for which somebody still waits.
    fn waited_until(&self, generator: &Generator, state: State) -> Result<Duration> {
        let begin = Instant::now();
        while self.state()? == state {
            ensure!(begin.elapsed() < FIRST, "the generator does not go on");
            generator.go_on(INTERVAL)?;
        }
        generator.waited()
    }

    /// Tells the generator what to send, and the sink that it begins anew.
    fn prepare(&mut self, frame: &[u8], flows: Flows) -> Result<()> {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(frame.chunks_exact(2)) {
            *word = u16::from_ne_bytes([bytes[0], bytes[1]]);
        }
        let map = self.ebpf.map_mut("LOAD_FRAME").context("no map")?;
        Array::<_, [u16; WORDS]>::try_from(map)?.set(0, words, 0)?;
        let (port, ports) = PORTS;
        let state = State {
            mask: flows.mask(),
            port: port.into(),
            ports: ports.into(),
            answers: flows.count(),
            // New flows go on where they have ended.
            flow: self.state()?.flow,
            ..State::zeroed()
        };
        let map = self.ebpf.map_mut(STATE).context("no map")?;
        Array::<_, State>::try_from(map)?.set(0, state, 0)?;
        Ok(())
    }

    fn state(&self) -> Result<State> {
        let map = self.ebpf.map(STATE).context("no map")?;
        let map: Array<&MapData, State> = map.try_into()?;
        Ok(map.get(&0, 0)?)
    }
}

const SINK: &str = "lab_xdp_sink";
const STATE: &str = "LOAD";

/// A thread that sends; dropped, it is told to end until it does.
struct Generator {
    thread: Pid,
    end: Receiver<Result<()>>,
}

impl Generator {
    /// Lets it go on for a time.
    fn go_on(&self, time: Duration) -> Result<()> {
        match self.end.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => bail!("the generator has panicked"),
            Ok(result) => result.and_then(|()| Err(anyhow!("the generator has ended"))),
        }
    }

    /// For how long it has waited for the processor.
    fn waited(&self) -> Result<Duration> {
        let path = format!("/proc/self/task/{}/schedstat", self.thread);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let waited = text.split(' ').nth(1).context("no schedstat")?;
        Ok(Duration::from_nanos(waited.parse()?))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        loop {
            // SAFETY: takes numbers. The thread may be gone: then nothing happens.
            unsafe {
                libc::syscall(
                    libc::SYS_tgkill,
                    getpid().as_raw(),
                    self.thread.as_raw(),
                    SIGNAL as libc::c_int,
                )
            };
            match self.end.recv_timeout(INTERVAL) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }
}

/// Ends a generator.
const SIGNAL: Signal = Signal::SIGUSR1;

/// The signal interrupts what the kernel does for its thread, and that is all.
fn listen_to_signal() -> Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { sigaction(SIGNAL, &action) }?;
    Ok(())
}

/// Moves the calling thread into the namespace, where the kernel looks devices up.
fn settle(netns: &Arc<File>) -> Result<()> {
    setns(&**netns, CloneFlags::CLONE_NEWNET)?;
    processor::take_last().context("take a processor")
}

/// The datagram that the generator makes others of: the last two bytes of its source address, and its
/// source port, are zero.
fn frame(destination: [u8; 6], to: SocketAddr) -> Result<Vec<u8>> {
    const FROM: [u8; 6] = [2, 0, 0, 0, 0, 9];
    /// The first ones of [`Load::SOURCES`].
    const SOURCES: (Ipv4Addr, Ipv6Addr) = (
        Ipv4Addr::new(198, 18, 0, 0),
        Ipv6Addr::new(0x2001, 0xdb8, 0xc612, 0, 0, 0, 0, 0),
    );
    let ethernet = PacketBuilder::ethernet2(FROM, destination);
    let ip = match to.ip() {
        IpAddr::V4(to) => ethernet.ipv4(SOURCES.0.octets(), to.octets(), 64),
        IpAddr::V6(to) => ethernet.ipv6(SOURCES.1.octets(), to.octets(), 64),
    };
    let udp = ip.udp(0, to.port());
    let payload = vec![0; SHORT.saturating_sub(udp.size(0))];
    let mut frame = Vec::new();
    udp.write(&mut frame, &payload)?;
    Ok(frame)
}
