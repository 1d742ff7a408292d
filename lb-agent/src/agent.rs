//! The agent: a loop that follows the sources and the devices, and keeps the maps in step.

mod monitor;
mod probe;

use std::{
    collections::BTreeSet,
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{
    DatapathConfig,
    maps::{self, MapSpec},
};
use tokio::{sync::watch, task::JoinHandle, time};
use tracing::{debug, error, info};

pub use self::monitor::Options as MonitorOptions;
use self::{
    monitor::{Identity, Monitor},
    probe::{Faults, chain},
};
use crate::{
    dataplane::{
        self,
        bpf::{self, BpfDataplane, XdpMode, kernel},
    },
    desired::{ExternalIps, NodePortAddresses, NodeView},
    event::{self, Event},
    http::ListenError,
    interfaces::{self, Overrides},
    model::Reference,
    object,
    pace::Pace,
    reconcile::Reconciler,
    report::{Rejections, Reporter},
    source::{self, Role, Snapshot, kubernetes, manifest},
};

/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the agent is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: NodeOptions,
    /// For whom we work: this node; endpoints with its name are local.
    pub role: Role,
    /// Where Services come from.
    pub source: Source,
    /// Directory of the pins, on a BPF file system.
    pub pin_dir: PathBuf,
    /// The cgroup whose processes' sockets are translated; none turns that off.
    pub cgroup: Option<PathBuf>,
    /// Whether only processes in the agent's own network namespace are concerned by that.
    pub own_namespace_only: bool,
    /// Where XDP runs.
    pub xdp: XdpMode,
    /// Devices that are not what they look like.
    pub overrides: Overrides,
    /// Between the end of a run and the start of the next one, at least.
    pub min_sync_period: Duration,
    /// Capacities of the maps.
    pub capacities: Capacities,
    /// What is answered to others, and where.
    pub monitor: MonitorOptions,
}

/// What holds for this node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name; endpoints with this name are local.
    pub name: String,
    /// On which of its addresses NodePorts are served.
    pub node_port_addresses: NodePortAddresses,
    /// Whether its processes reach NodePorts on loopback addresses.
    pub localhost_node_ports: bool,
    /// Whether addresses of Services answer ICMP echo requests.
    pub answers_echo: bool,
    /// Which external addresses Services may have.
    pub external_ips: ExternalIps,
    /// Whether source ranges hold for external addresses and NodePorts, too.
    pub source_ranges_everywhere: bool,
}

/// Where Services come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A cluster.
    Kubernetes(kubernetes::Connection),
    /// Manifests: a file, a directory, or `-` for standard input.
    Manifests(PathBuf),
}

/// Capacities of the maps, in elements.
#[derive(Clone, Copy, Debug)]
pub struct Capacities {
    /// Frontends: addresses and ports that clients dial.
    pub frontends: u32,
    /// Backends, those that are gone but may have flows included.
    pub backends: u32,
    /// The arena of look-up tables: at least 129 for each Service port and family, and room for
    /// their successors.
    pub slots: u32,
    /// Connections.
    pub flows: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            frontends: maps::FRONTENDS_MAX as u32,
            backends: maps::BACKENDS_MAX as u32,
            slots: maps::SLOTS_MAX as u32,
            flows: maps::FLOWS_MAX as u32,
        }
    }
}

impl Capacities {
    /// The maps with these capacities.
    #[must_use]
    pub fn specs(&self) -> Vec<MapSpec> {
        let capacity = |spec: &MapSpec| match spec.name {
            maps::FRONTENDS => self.frontends,
            maps::BACKENDS => self.backends,
            maps::SLOTS => self.slots,
            maps::FLOWS => self.flows,
            _ => spec.max_entries,
        };
        maps::SPECS
            .iter()
            .map(|spec| MapSpec {
                max_entries: capacity(spec),
                ..*spec
            })
            .collect()
    }
}

/// Why the agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not say what the programs need to know.
    #[error("ask the kernel about itself")]
    Kernel(#[from] kernel::Error),
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
    /// The task of the source has ended, which it must not.
    #[error("the source of Services has ended: {0}")]
    SourceEnded(String),
}

/// Runs until `stop` resolves. What has been put in place stays: traffic goes on without us.
///
/// # Errors
///
/// [`Error`], at the start or when the source ends; what was in place stays then, too.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let (events, events_out) = event::channel();
    let monitor = Monitor::start(options.monitor, identity(&options), events.clone())?;
    let dataplane = bpf::open(object::LB, &bpf_options(&options)?)?;
    let devices = interfaces::watch(options.overrides.clone()).await?;
    let (sender, snapshots) = source::channel();
    let source = start_source(&options, sender, events_out).await?;
    let node_name = options.role.node_name;
    events.send(Event::normal(Reference::node(&node_name), "Starting", ""));
    let rejections = Rejections::default();
    let mut agent = Agent {
        node: options.node,
        reconciler: Reconciler::new(dataplane, DatapathConfig::DEFAULT.seed)?,
        min_sync_period: options.min_sync_period,
        devices,
        snapshots,
        objects: Reporter::new(events.clone(), rejections.clone()),
        services: Reporter::new(events, rejections),
        monitor,
        faults: Faults::default(),
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
        () = agent.follow() => Err(Error::SourceEnded("its channel is closed".into())),
    }
}

fn identity(options: &Options) -> Identity {
    Identity {
        node_name: options.role.node_name.clone(),
        needs_no_object: matches!(options.source, Source::Manifests(_)),
        pin_dir: options.pin_dir.clone(),
        maps: options.capacities.specs(),
    }
}

fn bpf_options(options: &Options) -> Result<bpf::Options, Error> {
    let netns_cookie = if options.own_namespace_only {
        kernel::netns_cookie()?
    } else {
        0
    };
    Ok(bpf::Options {
        pin_dir: options.pin_dir.clone(),
        cgroup: options.cgroup.clone(),
        xdp: options.xdp,
        maps: options.capacities.specs(),
        config: DatapathConfig {
            netns_cookie,
            ticks_per_second: kernel::ticks_per_second()?,
            ..DatapathConfig::DEFAULT
        },
    })
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
    monitor: Monitor,
    /// What went wrong last time.
    faults: Faults,
    /// Whether nothing has been reconciled yet.
    first: bool,
}

impl Agent {
    /// Reconciles with every change, and again after a failure, until the source is gone.
    async fn follow(&mut self) {
        let mut pace = Pace::new(self.min_sync_period, RETRY);
        let mut attached = self.attach();
        pace.change();
        loop {
            tokio::select! {
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.begin();
                }
                changed = self.devices.changed() => {
                    if changed.is_err() {
                        return;
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
        self.monitor.attach_failed(synced.failed.len());
        self.faults.attach = synced.failed.iter().map(|failure| chain(failure)).collect();
        synced.failed.is_empty()
    }

    /// Brings the maps in step. False if that has to be tried again. Nothing is written before
    /// the source has seen everything once (item 11).
    async fn reconcile(&mut self, snapshot: &Snapshot) -> bool {
        self.objects
            .report(snapshot.rejections.iter().cloned().collect());
        let node = node_view(&self.node, snapshot, &self.devices.borrow());
        let started = Instant::now();
        match self.reconciler.reconcile(&snapshot.model, &node, started) {
            Ok(outcome) => {
                let took = started.elapsed();
                if self.first || outcome.operations > 0 {
                    let services = snapshot.model.services.len();
                    let operations = outcome.operations;
                    info!(services, operations, ?took, "in step with the source");
                }
                self.first = false;
                self.faults.sync = None;
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

/// Waits until `when`; for ever if that is never.
async fn until(when: Option<Instant>) {
    match when {
        Some(when) => time::sleep_until(when.into()).await,
        None => std::future::pending().await,
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
        interfaces: devices.interfaces(),
    }
}
