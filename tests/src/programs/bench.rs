//! The node under test, and what its programs make of packets.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_agent::{
    dataplane::bpf::{self, BpfDataplane, Options, XdpMode, kernel},
    desired::NodeView,
    model::Model,
    object,
    reconcile::Reconciler,
};
use lb_common::{
    Counter, DatapathConfig, Flow, FlowKey, Hop, Pin, PinKey,
    counter::{Hook, Outcome},
    maps::{self, MapSpec},
};
use nix::mount::{MntFlags, umount2};

use super::{Answer, Family, Packet, Service, devices::Devices, model, packet::ends, store::Store};
use crate::lab::{Netns, preflight};

/// What XDP leaves in front of a packet that tc on the same device is to leave alone.
///
/// That tc does leave it alone is for the end-to-end tests: `BPF_PROG_TEST_RUN` takes no metadata
/// for an skb.
const FINISHED: u32 = 0x6c62_f001;

/// A packet program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// XDP on the uplink.
    Xdp,
    /// tcx ingress of the uplink.
    WireIngress,
    /// tcx egress of the uplink.
    WireEgress,
    /// tcx ingress of the tunnel.
    Tunnel,
    /// tcx ingress of the pod's veth.
    PodIngress,
    /// tcx egress of the pod's veth.
    PodEgress,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Xdp,
        Self::WireIngress,
        Self::WireEgress,
        Self::Tunnel,
        Self::PodIngress,
        Self::PodEgress,
    ];
    /// Those that meet what comes in by the uplink: the same decisions at two hooks.
    pub const WIRE: [Self; 2] = [Self::Xdp, Self::WireIngress];

    /// Name in the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "lb_xdp",
            Self::WireIngress => "lb_wire_ingress",
            Self::WireEgress => "lb_wire_egress",
            Self::Tunnel => "lb_tunnel",
            Self::PodIngress => "lb_pod_ingress",
            Self::PodEgress => "lb_pod_egress",
        }
    }

    /// Where it counts.
    fn hook(self) -> Hook {
        match self {
            Self::Xdp => Hook::Xdp,
            Self::WireIngress | Self::Tunnel => Hook::WireIngress,
            Self::WireEgress => Hook::WireEgress,
            Self::PodIngress => Hook::PodIngress,
            Self::PodEgress => Hook::PodEgress,
        }
    }

    fn device(self, devices: &Devices) -> u32 {
        match self {
            Self::Xdp | Self::WireIngress | Self::WireEgress => devices.uplink,
            Self::Tunnel => devices.tunnel,
            Self::PodIngress | Self::PodEgress => devices.pod,
        }
    }
}

/// What a program says is to happen, the same word for XDP and tc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next hook: `XDP_PASS`, `TCX_NEXT`.
    Next,
    /// `XDP_DROP`, `TCX_DROP`.
    Drop,
    /// Out by a device at once: `XDP_TX`, `TCX_REDIRECT`.
    Out,
    /// Something that no program of ours should say.
    Other(u32),
}

impl Verdict {
    fn new(program: Program, verdict: u32) -> Self {
        const TCX_NEXT: u32 = u32::MAX;
        match (program, verdict) {
            (Program::Xdp, 2) => Self::Next,
            (Program::Xdp, 1) => Self::Drop,
            (Program::Xdp, 3) => Self::Out,
            (Program::Xdp, other) => Self::Other(other),
            (_, TCX_NEXT) => Self::Next,
            (_, 2) => Self::Drop,
            (_, 7) => Self::Out,
            (_, other) => Self::Other(other),
        }
    }
}

/// What a program made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What is to happen.
    pub verdict: Verdict,
    /// The frame.
    pub frame: Vec<u8>,
    /// Whether it carries XDP's mark for tc.
    pub marked: bool,
}

impl Run {
    /// Source and destination of the frame.
    #[must_use]
    pub fn ends(&self) -> [SocketAddr; 2] {
        ends(&self.frame)
    }

    /// What the frame answers to a client.
    #[must_use]
    #[track_caller]
    pub fn answer(&self) -> Answer {
        Answer::read(&self.frame)
    }
}

/// The node under test; see the [module](super).
pub struct Bench {
    devices: Devices,
    reconciler: Reconciler<BpfDataplane>,
    store: Store,
    /// Advances with each change of tables, so that their places are reused at once.
    now: Instant,
    config: DatapathConfig,
}

/// Runs `test` on the bench, with no Service and no connection there.
///
/// The tests of a process share one, one after the other: loading the programs takes as long as
/// running them on a hundred thousand packets.
///
/// # Panics
///
/// Where `test` does, and if there can be no bench: without root, or on an old kernel.
pub fn on_bench(test: impl FnOnce(&mut Bench) + Send) {
    static BENCH: LazyLock<(Netns, Mutex<Bench>)> = LazyLock::new(|| {
        let (netns, bench) = Bench::set_up().expect("a bench for the kernel programs");
        (netns, Mutex::new(bench))
    });
    let (netns, bench) = &*BENCH;
    // A program that is run finds its device in the network namespace of the calling thread.
    let run = netns.run(|| {
        // What a failed test left is cleared away as what any other left.
        let mut bench = bench.lock().unwrap_or_else(PoisonError::into_inner);
        bench.clear();
        test(&mut bench);
    });
    run.expect("the bench's network namespace");
}

impl Bench {
    /// Nobody drops a static. So the network namespace and the pins lose their names at once: the
    /// kernel ends both with the process.
    fn set_up() -> Result<(Netns, Self)> {
        preflight()?;
        let name = format!("lb-{}-bench", std::process::id());
        let netns = Netns::create(&name)?;
        let devices = Devices::create(&netns);
        umount2(&netns.path(), MntFlags::MNT_DETACH).context("unmount the namespace")?;
        fs::remove_file(netns.path()).context("remove the namespace's name")?;
        let pin_dir = Path::new("/sys/fs/bpf").join(name);
        let bench = devices.and_then(|devices| Self::load(&pin_dir, devices));
        fs::remove_dir_all(&pin_dir).context("remove the pins")?;
        Ok((netns, bench?))
    }

    fn load(pin_dir: &Path, devices: Devices) -> Result<Self> {
        let config = DatapathConfig {
            ticks_per_second: kernel::ticks_per_second()?,
            ..DatapathConfig::DEFAULT
        };
        let options = Options {
            pin_dir: pin_dir.to_owned(),
            cgroup: None,
            xdp: XdpMode::Native,
            maps: specs(),
            config,
        };
        let dataplane = bpf::open(object::LB, &options)?;
        Ok(Self {
            devices,
            reconciler: Reconciler::new(dataplane, config.seed)?,
            store: Store::open(pin_dir)?,
            now: Instant::now(),
            config,
        })
    }

    /// Forgets all Services and connections.
    pub(super) fn clear(&mut self) {
        self.serve(&[]);
        self.forget_connections();
    }

    /// Forgets all connections.
    ///
    /// # Panics
    ///
    /// If a map cannot be changed.
    pub fn forget_connections(&mut self) {
        self.store.clear().expect("forget the connections");
    }

    /// Forgets the records of all connections, but not the pins.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn forget_records(&mut self) {
        self.store.clear_flows().expect("forget the records");
    }

    /// Makes the node serve `services`, and nothing else.
    ///
    /// # Panics
    ///
    /// If one of them cannot be served.
    #[track_caller]
    pub fn serve(&mut self, services: &[Service]) {
        self.serve_model(&model(services));
    }

    /// Makes the node serve `model`, as node `node1`.
    ///
    /// # Panics
    ///
    /// If something in it cannot be served.
    #[track_caller]
    pub fn serve_model(&mut self, model: &Model) {
        self.now += Duration::from_secs(10);
        let node = NodeView {
            name: "node1".into(),
            node_port_addresses: Family::ALL.map(|family| family.node(1)).into(),
            localhost_node_ports: true,
            answers_echo: true,
            interfaces: self.devices.interfaces(),
            ..NodeView::default()
        };
        let outcome = self.reconciler.reconcile(model, &node, self.now);
        let rejections = outcome.expect("fill the tables").rejections;
        assert_eq!(rejections, [], "all Services can be served");
    }

    /// Constants of the programs.
    #[must_use]
    pub fn config(&self) -> &DatapathConfig {
        &self.config
    }

    /// Interface index of the pod's veth.
    #[must_use]
    pub fn pod_ifindex(&self) -> u32 {
        self.devices.pod
    }

    /// Runs `program` on `frame`.
    ///
    /// # Panics
    ///
    /// If the kernel does not run it.
    #[track_caller]
    pub fn run(&mut self, program: Program, frame: &[u8]) -> Run {
        let ifindex = program.device(&self.devices);
        let dataplane = self.reconciler.dataplane();
        let run = dataplane.run_program(program.name(), frame, ifindex);
        let run = run.unwrap_or_else(|error| panic!("{:#}", anyhow::Error::from(error)));
        assert!(
            run.metadata.is_empty() || run.metadata == FINISHED.to_ne_bytes(),
            "unknown metadata: {:?}",
            run.metadata
        );
        Run {
            verdict: Verdict::new(program, run.verdict),
            frame: run.packet,
            marked: !run.metadata.is_empty(),
        }
    }

    /// Runs `program` on `packet` and checks all that can be seen of it: the verdict; the frame,
    /// byte for byte; the mark, which XDP leaves on what it has changed and passes on; and that
    /// exactly the counters `Seen` and `counted` of this hook moved, by one.
    ///
    /// # Panics
    ///
    /// If any of it is not as expected.
    #[track_caller]
    pub fn check(
        &mut self,
        program: Program,
        packet: &Packet,
        verdict: Verdict,
        expected: &Packet,
        counted: &[Outcome],
    ) {
        let (run, moved) = self.run_counted(program, &packet.bytes());
        let what = format!("{program:?} on {packet:?}");
        let changed = packet != expected;
        assert_eq!(run.verdict, verdict, "verdict of {what}: {moved:?}");
        assert!(
            run.frame == expected.bytes(),
            "{what} became\n{:02x?} ({:?}), not\n{:02x?}",
            run.frame,
            run.ends(),
            expected.bytes()
        );
        let marked = program == Program::Xdp && verdict == Verdict::Next && changed;
        assert_eq!(run.marked, marked, "mark of {what}");
        self.check_moved(program, &moved, counted, &what);
    }

    /// Runs `program` on `packet`, checks the verdict and the counters as [`check`](Self::check)
    /// does, and returns the run: for packets of which the programs choose a part.
    ///
    /// # Panics
    ///
    /// If the verdict or a counter is not as expected.
    #[track_caller]
    pub fn run_checked(
        &mut self,
        program: Program,
        packet: &Packet,
        verdict: Verdict,
        counted: &[Outcome],
    ) -> Run {
        let (run, moved) = self.run_counted(program, &packet.bytes());
        let what = format!("{program:?} on {packet:?}");
        assert_eq!(run.verdict, verdict, "verdict of {what}: {moved:?}");
        self.check_moved(program, &moved, counted, &what);
        run
    }

    #[track_caller]
    fn check_moved(
        &self,
        program: Program,
        moved: &[(Hook, Outcome, u64)],
        counted: &[Outcome],
        what: &str,
    ) {
        let expected: Vec<_> = Outcome::ALL
            .into_iter()
            .filter(|outcome| *outcome == Outcome::Seen || counted.contains(outcome))
            .map(|outcome| (program.hook(), outcome, 1))
            .collect();
        assert_eq!(moved, expected, "counters of {what}");
    }

    /// Runs `program` on `frame`; with the counters that moved, and by how much.
    ///
    /// # Panics
    ///
    /// If the kernel does not run it.
    #[track_caller]
    pub fn run_counted(
        &mut self,
        program: Program,
        frame: &[u8],
    ) -> (Run, Vec<(Hook, Outcome, u64)>) {
        let before = self.counters();
        let run = self.run(program, frame);
        let after = self.counters();
        let mut moved = Vec::new();
        for hook in Hook::ALL {
            for outcome in Outcome::ALL {
                let index = Counter { hook, outcome }.index() as usize;
                if after[index] != before[index] {
                    moved.push((hook, outcome, after[index] - before[index]));
                }
            }
        }
        (run, moved)
    }

    fn counters(&mut self) -> Vec<u64> {
        let counters = self.reconciler.dataplane().counters();
        counters.expect("read the counters")
    }

    /// The connections that the programs know of.
    ///
    /// # Panics
    ///
    /// If the map cannot be read.
    #[must_use]
    pub fn flows(&self) -> Vec<(FlowKey, Flow)> {
        self.store.flows().expect("read the connections")
    }

    /// The connections whose backend the tables do not say.
    ///
    /// # Panics
    ///
    /// If the map cannot be read.
    #[must_use]
    pub fn pins(&self) -> Vec<(PinKey, Pin)> {
        self.store.pins().expect("read the pins")
    }

    /// Lets every connection remember a next hop that was right once.
    ///
    /// # Panics
    /// When the map refuses.
    pub fn remember_hop(&mut self, hop: Hop) {
        for (key, mut flow) in self.flows() {
            (flow.forward, flow.reply) = (hop, hop);
            self.store
                .put_flow(&key, &flow)
                .expect("change a connection");
        }
    }

    /// Lets time pass for all connections.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed, or the machine has not been up for so long.
    pub fn age(&mut self, seconds: u32) {
        let ticks = u64::from(seconds) * u64::from(self.config.ticks_per_second);
        for (key, mut flow) in self.flows() {
            for tick in [&mut flow.seen_tick, &mut flow.expires_tick] {
                *tick = tick.checked_sub(ticks).expect("ticks since boot");
            }
            self.store.put_flow(&key, &flow).expect("age a connection");
        }
    }
}

/// All maps, as large as a test needs them.
#[must_use]
pub fn specs() -> Vec<MapSpec> {
    let capacity = |spec: &MapSpec| match spec.name {
        maps::FRONTENDS => 1024,
        maps::BACKENDS => 2048,
        maps::SLOTS => 1 << 18,
        maps::FLOWS => 65_536,
        maps::PINS => 4096,
        maps::SOCKETS => 64,
        _ => spec.max_entries,
    };
    let spec = |spec: &MapSpec| MapSpec {
        max_entries: capacity(spec),
        ..*spec
    };
    maps::SPECS.iter().map(spec).collect()
}
