//! The agent: a loop that follows the sources and the devices, and keeps the maps in step.

mod chains;
mod drops;
mod guard;
mod monitor;
mod options;
mod predecessor;
mod prepare;
mod probe;
mod snat;
mod sweeper;

use std::{
    collections::BTreeSet,
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{DatapathConfig, FrontendKey, Interface, interface};
use tokio::{sync::watch, task::JoinHandle, time};
use tracing::{debug, error, info, warn};

use self::{
    chains::Chains,
    guard::Guard,
    monitor::{Identity, Monitor},
    predecessor::Predecessor,
    prepare::tell_found,
    probe::{Faults, chain},
    sweeper::Watch,
};
pub use self::{
    monitor::Options as MonitorOptions,
    options::{Capacities, NodeOptions, Options, Source},
    prepare::{Prepared, needs, prepare},
    snat::SnatAddresses,
};
use crate::{
    dataplane::{
        self, Dataplane as _, Element,
        bpf::{self, BpfDataplane, kernel},
    },
    desired::NodeView,
    event::{self, Event, Events},
    http::ListenError,
    interfaces::{self},
    model::Reference,
    pace::{Pace, until},
    preflight,
    reconcile::Reconciler,
    report::{Rejections, Reporter},
    sockets,
    source::{self, Snapshot, kubernetes, manifest},
};

/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is looked whether the pins are still there.
const PINS_LOOK: Duration = Duration::from_secs(1);

/// Why the agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not say what the programs need to know.
    #[error("ask the kernel about itself")]
    Kernel(#[from] kernel::Error),
    /// Something that it needs is missing.
    #[error("this cannot run here")]
    Preflight(#[from] preflight::Error),
    /// The programs cannot be put in place.
    #[error("put the kernel programs in place")]
    Bpf(#[from] bpf::Error),
    /// The maps cannot be read.
    #[error("read what the maps hold")]
    Observe(#[from] dataplane::Error),
    /// The devices cannot be followed.
    #[error("follow the network devices")]
    Interfaces(#[from] interfaces::Error),
    /// The cluster cannot be reached at all.
    #[error("connect to the cluster")]
    Kubernetes(#[from] kubernetes::Error),
    /// The manifests cannot be used at all.
    #[error("read the manifests")]
    Manifests(#[from] manifest::Error),
    /// Probes or scrapes cannot be answered, which is asked for.
    #[error("answer probes and scrapes")]
    Listen(#[from] ListenError),
    /// Somebody has removed the pins: programs are detached, and the next agent would begin with
    /// nothing.
    #[error("the pins are gone; ending, so that the next start makes all of it anew")]
    PinsGone,
    /// The task that removes records of connections has ended, which it must not.
    #[error("records of connections are not removed any more")]
    SweepsEnded,
    /// The task of the source has ended, which it must not.
    #[error("the source of Services has ended: {0}")]
    SourceEnded(String),
}

/// Runs until `stop` resolves. What has been put in place stays: traffic goes on without us.
///
/// # Errors
///
/// [`Error`], at the start or when the source ends; what was in place stays then, too.
pub async fn run(
    options: Options,
    prepared: Prepared,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let Prepared {
        dataplane,
        kube_proxy,
        _lock,
    } = prepared;
    let (events, events_out) = event::channel();
    let monitor = Monitor::start(options.monitor, identity(&options), events.clone())?;
    let (sender, snapshots) = source::channel();
    let source = start_source(&options, sender, events_out).await?;
    let sweeps = sweeps(&options, &monitor, &events)?;
    let devices = interfaces::watch(options.overrides.clone()).await?;
    let node_name = options.role.node_name;
    events.send(Event::normal(Reference::node(&node_name), "Starting", ""));
    tell_found(&dataplane, kube_proxy.as_ref(), &node_name, &events);
    let teller = drops::Teller::new(&options.pin_dir, &node_name, events.clone());
    let drops = drops::follow(teller, devices.clone());
    let rejections = Rejections::default();
    let mut agent = Agent {
        node: options.node,
        reconciler: Reconciler::new(dataplane, DatapathConfig::DEFAULT.seed)?,
        min_sync_period: options.min_sync_period,
        devices,
        snapshots,
        objects: Reporter::new(events.clone(), rejections.clone()),
        services: Reporter::new(events.clone(), rejections),
        guard: Guard::new(options.empty_guard, &node_name, events.clone()),
        chains: Chains::new(&node_name, events),
        monitor,
        faults: Faults::default(),
        predecessor: Predecessor::new(kube_proxy.is_some()),
        sockets: sockets::Pause::default(),
        pin_dir: options.pin_dir,
        first: true,
    };
    info!(node = agent.node.name, "the kernel programs are in place");
    tokio::select! {
        () = stop => {
            info!("stopping; the kernel programs go on serving");
            Ok(())
        }
        ended = source => Err(match ended {
            Ok(Err(error)) => error.into(),
            Ok(Ok(())) => Error::SourceEnded("no reason given".into()),
            Err(error) => Error::SourceEnded(error.to_string()),
        }),
        never = drops => match never {},
        () = sweeps => Err(Error::SweepsEnded),
        ended = agent.follow() => Err(ended),
    }
}

/// Removes the records of connections that have ended, until it is dropped.
fn sweeps(
    options: &Options,
    monitor: &Monitor,
    events: &Events,
) -> Result<impl Future<Output = ()> + use<>, Error> {
    let pin_dir = options.pin_dir.clone();
    let node_name = options.role.node_name.clone();
    let hz = kernel::ticks_per_second()?;
    let watch = Watch::open(pin_dir, hz, node_name, monitor.metrics(), events.clone())?;
    Ok(watch.run())
}

fn identity(options: &Options) -> Identity {
    Identity {
        node_name: options.role.node_name.clone(),
        needs_no_object: matches!(options.source, Source::Manifests(_)),
        pin_dir: options.pin_dir.clone(),
        maps: options.capacities.specs(),
    }
}

async fn start_source(
    options: &Options,
    sender: source::Sender,
    events: event::Receiver,
) -> Result<JoinHandle<Result<(), manifest::Error>>, Error> {
    let role = options.role.clone();
    Ok(match &options.source {
        Source::Kubernetes(connection) => {
            let times = kubernetes::Times::default();
            let source = kubernetes::Kubernetes::connect(connection, role, times).await?;
            tokio::spawn(source.publish_events(events));
            tokio::spawn(async move {
                source.run(sender).await;
                Ok(())
            })
        }
        Source::Manifests(path) => {
            let source = manifest::Manifests::new(path, role);
            tokio::spawn(event::log(events));
            tokio::spawn(source.run(sender))
        }
    })
}

struct Agent {
    node: NodeOptions,
    reconciler: Reconciler<BpfDataplane>,
    min_sync_period: Duration,
    devices: watch::Receiver<Arc<interfaces::State>>,
    snapshots: source::Receiver,
    /// Says what is wrong with objects.
    objects: Reporter,
    /// Says what of the Services cannot be served.
    services: Reporter,
    /// Holds back what would take every Service away.
    guard: Guard,
    /// Says which programs of others run before ours.
    chains: Chains,
    monitor: Monitor,
    /// What went wrong last time.
    faults: Faults,
    /// Who else translates connections to Services.
    predecessor: Predecessor,
    /// When sockets are looked for whose backend is gone.
    sockets: sockets::Pause,
    /// Where the maps are pinned.
    pin_dir: PathBuf,
    /// Whether nothing has been reconciled yet.
    first: bool,
}

impl Agent {
    /// Reconciles with every change, and again after a failure, until the source or the pins are gone.
    async fn follow(&mut self) -> Error {
        let gone = || Error::SourceEnded("its channel is closed".into());
        let mut pace = Pace::new(self.min_sync_period, RETRY);
        let mut chains = time::interval(chains::PERIOD);
        chains.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut pins = time::interval(PINS_LOOK);
        pins.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut attached = self.attach();
        pace.change();
        loop {
            tokio::select! {
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return gone();
                    }
                    self.begin();
                }
                changed = self.devices.changed() => {
                    if changed.is_err() {
                        return gone();
                    }
                    // A new pod does not wait for its turn.
                    self.begin();
                    attached = self.attach();
                }
                Some(probe) = self.monitor.probes.recv() => {
                    if !self.answer(probe) {
                        continue;
                    }
                    attached = false;
                }
                () = until(self.sockets.next(Instant::now())) => {
                    self.end_stale_sockets().await;
                    continue;
                }
                () = until(self.predecessor.next()) => {
                    if !self.settle().await {
                        continue;
                    }
                }
                _ = chains.tick() => {
                    self.look_ahead();
                    continue;
                }
                _ = pins.tick() => {
                    if !self.reconciler.dataplane().has_pins() {
                        return Error::PinsGone;
                    }
                    continue;
                }
                () = until(pace.next(Instant::now())) => {
                    self.begin();
                    attached = attached || self.attach();
                    self.turn(&mut pace, attached).await;
                    continue;
                }
            }
            pace.change();
        }
    }

    /// There is something to do: whoever asks is told so if it does not end.
    fn begin(&mut self) {
        let snapshot = self.snapshots.borrow().clone();
        self.monitor.begin(snapshot.as_deref());
    }

    async fn turn(&mut self, pace: &mut Pace, attached: bool) {
        let snapshot = self.snapshots.borrow_and_update().clone();
        let done = match &snapshot {
            Some(snapshot) => self.reconcile(snapshot).await,
            None => true,
        };
        if snapshot.is_some() || !attached {
            pace.ran(Instant::now(), done && attached);
        } else {
            pace.skipped();
        }
    }

    /// Puts the programs on the devices. False if that has to be tried again.
    fn attach(&mut self) -> bool {
        let devices = self.devices.borrow_and_update().clone();
        let synced = self.reconciler.dataplane().sync_attachments(&devices);
        let name = |ifindex: u32| devices.devices.get(&ifindex).map(|d| d.name.as_str());
        for attachment in synced.attached.iter().chain(&synced.replaced) {
            debug!(%attachment, device = name(attachment.ifindex), "attached");
        }
        for failure in &synced.failed {
            error!(
                error = failure as &dyn std::error::Error,
                "cannot attach to a device; trying again"
            );
        }
        self.expect_no_xdp();
        self.look_ahead();
        self.monitor.attach_failed(synced.failed.len());
        self.faults.attach = synced.failed.iter().map(|failure| chain(failure)).collect();
        synced.failed.is_empty()
    }

    /// Lets tc know where XDP does not meet packets before it any more: the next turn, which writes that
    /// anyway, may be long in coming while there is no source.
    fn expect_no_xdp(&mut self) {
        let with_xdp = self.reconciler.dataplane().xdp_devices();
        let known = self.reconciler.programmed().interfaces().iter();
        let without = known.filter(|(ifindex, interface)| {
            interface.flags & interface::flags::XDP != 0 && !with_xdp.contains(ifindex)
        });
        let without = Vec::from_iter(without.map(|(ifindex, interface)| {
            let flags = interface.flags & !interface::flags::XDP;
            Element::Interface(
                *ifindex,
                Interface {
                    flags,
                    ..*interface
                },
            )
        }));
        for element in &without {
            if let Err(failure) = self.reconciler.dataplane().put(element) {
                let failure: &dyn std::error::Error = &failure;
                warn!(failure, "tc may take XDP for being there still");
            }
        }
    }

    /// Leaves netfilter nothing but what it translates. False if that has to be tried again.
    async fn settle(&mut self) -> bool {
        let frontends = self.reconciler.programmed().frontends();
        let is_served = |dialled: &FrontendKey| frontends.contains_key(dialled);
        self.predecessor.settle(&self.pin_dir, is_served).await;
        !self.predecessor.is_there()
    }

    /// Ends UDP sockets of the node's processes that are connected to a backend that is gone.
    async fn end_stale_sockets(&mut self) {
        let ended = sockets::end_stale(&self.pin_dir, self.reconciler.programmed()).await;
        self.sockets.ran(Instant::now());
        match ended {
            Ok(0) => {}
            Ok(count) => info!(count, "ended UDP sockets whose backend is gone"),
            Err(failure) => warn!(
                error = &failure as &dyn std::error::Error,
                "UDP sockets may stay with a backend that is gone"
            ),
        }
    }

    /// Looks for programs of others that run before ours.
    fn look_ahead(&mut self) {
        let ahead = self.reconciler.dataplane().foreign_programs_ahead();
        self.monitor.programs_ahead(ahead.len());
        self.chains.tell(ahead);
    }

    /// Brings the maps in step. False if that has to be tried again. Nothing is written before
    /// the source has seen everything once (item 11).
    async fn reconcile(&mut self, snapshot: &Snapshot) -> bool {
        let frontends = self.reconciler.programmed().frontends().len();
        if self.guard.holds(&snapshot.model, frontends, Instant::now()) {
            return false;
        }
        self.objects
            .report(snapshot.rejections.iter().cloned().collect());
        let programmed = self.reconciler.programmed();
        let was_shared = programmed.service_nets().has_predecessors();
        self.predecessor.begin(frontends > 0, was_shared).await;
        let has_predecessor = self.predecessor.is_there();
        let mut node = NodeView {
            has_predecessor,
            ..node_view(&self.node, snapshot, &self.devices.borrow())
        };
        for ifindex in self.reconciler.dataplane().xdp_devices() {
            if let Some(interface) = node.interfaces.get_mut(&ifindex) {
                interface.flags |= interface::flags::XDP;
            }
        }
        let started = Instant::now();
        match self.reconciler.reconcile(&snapshot.model, &node, started) {
            Ok(outcome) => {
                let took = started.elapsed();
                if self.first || outcome.operations > 0 {
                    let services = snapshot.model.services.len();
                    let operations = outcome.operations;
                    info!(services, operations, ?took, "in step with the source");
                }
                if self.first || outcome.operations > 0 {
                    self.sockets.change();
                }
                self.first = false;
                self.faults.sync = None;
                self.predecessor.served(Instant::now());
                let programmed = self.reconciler.programmed();
                let model = &snapshot.model;
                self.monitor.done(took, model, &outcome, programmed);
                let addresses = &self.node.node_port_addresses;
                let addresses = addresses.to_listen_at(&node.node_port_addresses);
                self.monitor.check_health_at(&addresses).await;
                self.services
                    .report(outcome.rejections.into_iter().collect());
                !outcome.no_room
            }
            Err(failure) => {
                error!(
                    error = &failure as &dyn std::error::Error,
                    "cannot write the maps; trying again"
                );
                self.faults.sync = Some(chain(&failure));
                self.monitor.failed(started.elapsed());
                false
            }
        }
    }
}

/// This node by its own object, or where there is none, by its devices.
fn node_view(options: &NodeOptions, snapshot: &Snapshot, devices: &interfaces::State) -> NodeView {
    let node = snapshot.model.node.as_ref();
    let internal_ips = node.map(|node| &node.internal_ips);
    let primary: BTreeSet<_> = match internal_ips {
        Some(ips) if !ips.is_empty() => ips.iter().copied().collect(),
        _ => devices.node_addresses.clone(),
    };
    NodeView {
        name: options.name.clone(),
        zone: node.and_then(|node| node.zone.clone()),
        own_addresses: &primary | &devices.node_addresses,
        local_addresses: devices.local_addresses.clone(),
        node_port_addresses: options
            .node_port_addresses
            .choose(&primary, &devices.local_addresses),
        pod_networks: devices.pod_networks.clone(),
        localhost_node_ports: options.localhost_node_ports,
        answers_echo: options.answers_echo,
        source_ranges_everywhere: options.source_ranges_everywhere,
        external_ips: options.external_ips.clone(),
        has_predecessor: false,
        interfaces: options.snat_addresses.on(devices.interfaces()),
    }
}
