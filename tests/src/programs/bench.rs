//! The node under test, and what its programs make of packets.

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_agent::{
    dataplane::{
        Dataplane as _,
        bpf::{self, BpfDataplane, Known, Options, TcMode, XdpMode, kernel},
    },
    desired::{NodeView, Rejection},
    interfaces::State,
    model::Model,
    object,
    reconcile::Reconciler,
};
use lb_common::{
    Backend, Counter, DatapathConfig, Flow, FlowKey, Hop,
    counter::{Hook, Outcome},
    flow::opening,
    maps::{self, MapSpec},
};
use nix::mount::{MntFlags, umount2};

use super::{
    Family, Packet, Program, Run, Service, Verdict, devices::Devices, kernel::open_maps, model,
    store::Store,
};
use crate::lab::{Netns, preflight};

/// What XDP leaves in front of a packet that tc on the same device is to leave alone.
///
/// That tc does leave it alone is for the end-to-end tests: `BPF_PROG_TEST_RUN` takes no metadata for an skb.
pub(super) const FINISHED: u32 = 0x6c62_f001;

/// The node under test; see the [module](super).
pub struct Bench {
    pub(super) devices: Devices,
    pub(super) reconciler: Reconciler<BpfDataplane>,
    pub(super) store: Store,
    pub(super) known: Arc<Known>,
    /// Maps for [`Kernel`](super::Kernel), by name.
    pub(super) pinned: Vec<(&'static str, OwnedFd)>,
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
        // Tests send more packets a second than anybody has to be told about.
        let config = DatapathConfig {
            icmp_errors_per_second: 0,
            ..DatapathConfig::DEFAULT
        };
        let bench = Bench::set_up("bench", config, specs());
        let (netns, bench) = bench.expect("a bench for the kernel programs");
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

/// Runs `test` on a bench of its own, whose programs have other constants. `name` is nobody else's.
///
/// # Panics
///
/// As [`on_bench`].
pub fn on_own_bench(name: &str, config: DatapathConfig, test: impl FnOnce(&mut Bench) + Send) {
    let bench = Bench::set_up(name, config, specs());
    let (netns, mut bench) = bench.expect("a bench for the kernel programs");
    let run = netns.run(|| test(&mut bench));
    run.expect("the bench's network namespace");
}

impl Bench {
    /// Nobody drops a static. So the network namespace and the pins lose their names at once: the
    /// kernel ends both with the process.
    pub(crate) fn set_up(
        name: &str,
        config: DatapathConfig,
        maps: Vec<MapSpec>,
    ) -> Result<(Netns, Self)> {
        preflight()?;
        let name = format!("lb-{}-{name}", std::process::id());
        let netns = Netns::create(&name)?;
        let devices = Devices::create(&netns);
        umount2(&netns.path(), MntFlags::MNT_DETACH).context("unmount the namespace")?;
        fs::remove_file(netns.path()).context("remove the namespace's name")?;
        let pin_dir = Path::new("/sys/fs/bpf").join(name);
        let bench = devices.and_then(|devices| Self::load(&pin_dir, devices, config, maps));
        // What was not loaded has no pins.
        let removed = fs::remove_dir_all(&pin_dir).context("remove the pins");
        let bench = bench?;
        removed?;
        Ok((netns, bench))
    }

    fn load(
        pin_dir: &Path,
        devices: Devices,
        config: DatapathConfig,
        maps: Vec<MapSpec>,
    ) -> Result<Self> {
        let config = DatapathConfig {
            ticks_per_second: kernel::ticks_per_second()?,
            ..config
        };
        let options = Options {
            pin_dir: pin_dir.to_owned(),
            cgroup: None,
            xdp: XdpMode::Native,
            tc: TcMode::Auto,
            maps,
            config,
            discards_unknown_layouts: false,
            stop_after: None,
        };
        let mut dataplane = bpf::open(object::LB, &options)?;
        // Nothing is attached, so that there are no programs but these.
        let synced = dataplane.sync_attachments(&State::default());
        ensure!(synced.failed.is_empty(), "{:?}", synced.failed);
        let mut bench = Self {
            devices,
            reconciler: Reconciler::new(dataplane, config.seed)?,
            store: Store::open(pin_dir)?,
            known: Arc::new(Known::open(pin_dir)?),
            pinned: open_maps(pin_dir)?,
            now: Instant::now(),
            config,
        };
        bench.renew_known();
        Ok(bench)
    }

    /// Forgets all Services and connections.
    ///
    /// # Panics
    ///
    /// If a map cannot be changed.
    pub fn clear(&mut self) {
        (self.devices.direct, self.devices.xdp) = (0, false);
        self.devices.routing = Devices::BY_DESTINATION;
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
        let rejections = self.program(model);
        assert_eq!(rejections, [], "all Services can be served");
    }

    /// Makes the node serve what it can of `model`; what it cannot.
    ///
    /// # Panics
    ///
    /// If a map cannot be written.
    #[track_caller]
    pub fn program(&mut self, model: &Model) -> Vec<Rejection> {
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
        outcome.expect("fill the tables").rejections
    }

    /// Lets XDP meet the uplink's packets first, from the next change of Services on.
    pub fn put_xdp_first(&mut self) {
        self.devices.xdp = true;
    }

    /// Lets the pod's packets for other pods go by their bridge, in the families of `flags` (of
    /// `lb_common::interface::flags`), from the next change of Services on.
    pub fn allow_direct(&mut self, flags: u8) {
        self.devices.direct = flags;
    }

    /// Lets routes depend on more than destinations, as far as the programs know, from the next change of Services on.
    pub fn route_by_more(&mut self) {
        self.devices.routing = 0;
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
    /// If the kernel does not run it, or if `DROPS` did not move with the counters of drops.
    #[track_caller]
    pub fn run_counted(
        &mut self,
        program: Program,
        frame: &[u8],
    ) -> (Run, Vec<(Hook, Outcome, u64)>) {
        let (before, dropped) = (self.counters(), self.drops());
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
        self.check_drops(program, &dropped, &moved);
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

    /// An element of `BACKENDS`.
    ///
    /// # Panics
    ///
    /// If the maps cannot be read, or nobody has had it.
    pub fn backend(&mut self, index: u32) -> Backend {
        let observed = self.reconciler.dataplane().observe();
        observed.expect("read the maps").backends[&index]
    }

    /// The connections that no flood displaces.
    ///
    /// # Panics
    ///
    /// If the map cannot be read.
    #[must_use]
    pub fn kept(&self) -> Vec<(FlowKey, Flow)> {
        self.store.kept().expect("read the connections")
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
        self.age_opening(ticks);
    }
}

/// What clients may dial, at most.
const FRONTENDS_MAX: u32 = 1024;

/// Connections that open, at most.
const OPENING_MAX: u32 = 65_536;
/// Elements of `OPENING_PINS` on the bench: so many that chance does not put five of hundreds of pins into a bucket.
pub(super) const OPENING_PINS_MAX: u32 = 8192;

/// Connections that no flood displaces, at most.
pub const FLOWS_MAX: u32 = 256;

/// All maps, as large as a test needs them.
#[must_use]
pub fn specs() -> Vec<MapSpec> {
    let capacity = |spec: &MapSpec| match spec.name {
        maps::FRONTENDS => FRONTENDS_MAX,
        // So few that some frontends spill: programs have to find these, too.
        maps::FRONTEND_INDEX => 4,
        maps::FRONTEND_COPIES => maps::index_copies(FRONTENDS_MAX),
        maps::BACKENDS => 2048,
        maps::SLOTS => 1 << 18,
        maps::FLOWS => FLOWS_MAX,
        maps::OPENING => OPENING_MAX,
        maps::OPENING_WORDS => opening::lines(OPENING_MAX),
        // So few that connections displace each other's marks.
        maps::ESTABLISHED => 16,
        maps::PINS => 512,
        maps::OPENING_PINS => OPENING_PINS_MAX,
        maps::SOCKETS => 64,
        _ => spec.max_entries,
    };
    let spec = |spec: &MapSpec| MapSpec {
        max_entries: capacity(spec),
        ..*spec
    };
    maps::SPECS.iter().map(spec).collect()
}
