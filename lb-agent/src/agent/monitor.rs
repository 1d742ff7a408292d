//! What the loop tells others: probes, scrapes, and load balancers that check a Service's health.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lb_common::{DropKey, maps::MapSpec};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::probe::chain;
use crate::{
    dataplane::bpf,
    desired::LocalEndpoints,
    drops::Kernel,
    event::{Event, Events},
    health::{Family, HealthSite, ListenFailure, NodePorts, Probe, Status, prober},
    http::{ListenError, Server, Site, both_families},
    metrics::{
        Changes, Done, MapReader, Maps, Metrics, MetricsSite, Sync, Usage, changes, triggers,
    },
    model::{Model, Reference},
    reconcile::{Outcome, Programmed},
    source::Snapshot,
};

/// What is answered where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `/healthz`, `/livez` and `/readyz`; none for nowhere.
    pub healthz: Option<SocketAddr>,
    /// `/metrics` and `/proxyMode`; none for nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whether the agent ends if one of these addresses is taken.
    pub hard_fail: bool,
    /// Whether metrics have kube-proxy's names, too.
    pub kube_proxy_metrics: bool,
}

/// The loop's mouth.
#[derive(Debug)]
pub(super) struct Monitor {
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    usage: Arc<Usage>,
    node_ports: NodePorts,
    /// Services whose health is checked here, and those that are not served here.
    local: LocalEndpoints,
    events: Events,
    /// Questions that the loop has to answer.
    pub(super) probes: mpsc::Receiver<Probe>,
    /// What was to be programmed last.
    begun: Arc<Model>,
    /// What was programmed last; none if nothing was.
    programmed: Option<Arc<Model>>,
    /// Whether the next turn reads the maps first.
    full: bool,
    started: SystemTime,
    /// Hold on to their ports until they are dropped.
    _servers: Vec<Server>,
}

/// Who the agent is, as far as others are told.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) node_name: String,
    /// Whether the source need not have a Node object.
    pub(super) needs_no_object: bool,
    pub(super) pin_dir: PathBuf,
    pub(super) maps: Vec<MapSpec>,
}

impl Monitor {
    /// Opens the servers.
    pub(super) fn start(
        options: Options,
        identity: Identity,
        events: Events,
    ) -> Result<Self, ListenError> {
        let (prober, probes) = prober();
        let status = Arc::new(Status::new(identity.needs_no_object));
        let usage = Arc::<Usage>::default();
        let reader = Kernel {
            pin_dir: identity.pin_dir,
        };
        let maps = Maps::new(reader, identity.maps, Arc::clone(&usage));
        let metrics = Arc::new(Metrics::new(options.kube_proxy_metrics, maps));
        let health = HealthSite::new(Arc::clone(&status), prober, Arc::clone(&metrics));
        let scrapes = MetricsSite::new(Arc::clone(&metrics));
        let servers = [
            serve("probes", options.healthz, options.hard_fail, health)?,
            serve("metrics", options.metrics, options.hard_fail, scrapes)?,
        ];
        Ok(Self {
            node_ports: NodePorts::new(Arc::clone(&status)),
            local: LocalEndpoints::new(identity.node_name),
            events,
            status,
            metrics,
            usage,
            probes,
            begun: Arc::default(),
            programmed: None,
            full: true,
            started: SystemTime::now(),
            _servers: servers.into_iter().flatten().collect(),
        })
    }

    /// A turn of the loop begins: from now on it is late if it does not end.
    pub(super) fn begin(&mut self, snapshot: Option<&Snapshot>) {
        let Some(Snapshot { model, .. }) = snapshot else {
            return;
        };
        self.status.queued(Instant::now());
        self.status.set_node(model);
        let now = SystemTime::now();
        if !Arc::ptr_eq(&self.begun, model) {
            self.metrics.changed(now, changes(&self.begun, model));
            self.begun = Arc::clone(model);
        }
        let pending = match &self.programmed {
            Some(programmed) if Arc::ptr_eq(programmed, model) => Changes::default(),
            Some(programmed) => changes(programmed, model),
            None => changes(&Model::default(), model),
        };
        self.metrics.queued(now, pending);
    }

    /// A turn of the loop has failed.
    pub(super) fn failed(&mut self, took: Duration) {
        let sync = Sync {
            took,
            full: self.full,
            done: None,
        };
        self.full = true;
        self.metrics.synced(SystemTime::now(), &sync);
    }

    /// A turn of the loop has brought the maps in step with `model`.
    pub(super) fn done(
        &mut self,
        took: Duration,
        model: &Arc<Model>,
        outcome: &Outcome,
        programmed: &Programmed,
    ) {
        let now = SystemTime::now();
        let sync = Sync {
            took,
            full: self.full,
            done: Some(Done {
                operations: outcome.operations,
                rejections: outcome.rejections.len(),
                services: model.services.len(),
            }),
        };
        if self.full || outcome.operations > 0 {
            self.usage.set(programmed.usage());
        }
        self.full = false;
        self.status.updated(Instant::now());
        self.metrics.synced(now, &sync);
        let before = self.programmed.replace(Arc::clone(model));
        if before
            .as_ref()
            .is_none_or(|before| !Arc::ptr_eq(before, model))
        {
            self.publish(now, &before.unwrap_or_default(), model);
        }
    }

    /// Tells what follows from a new model that is programmed.
    fn publish(&mut self, now: SystemTime, before: &Model, model: &Model) {
        let mut new = triggers(before, model);
        // What happened before our time was not ours to program.
        new.retain(|trigger| trigger.at > self.started);
        self.metrics.programmed(now, &new);
        self.local.update(model);
        for family in Family::ALL {
            let counts = self.local.unserved(family == Family::V4);
            self.metrics.set_no_local_endpoints(family, counts);
        }
        self.status.set_local(self.local.checked().clone());
    }

    /// Answers health checks of Services at these addresses.
    pub(super) async fn check_health_at(&mut self, addresses: &[IpAddr]) {
        for failure in self.node_ports.sync(self.local.checked(), addresses).await {
            self.tell_listen_failure(&failure);
        }
    }

    /// Says that a Service's health cannot be checked here (item 54).
    fn tell_listen_failure(&self, failure: &ListenFailure) {
        let ListenFailure { service, error } = failure;
        let note = format!(
            "cannot answer health checks; trying again: {}",
            chain(error)
        );
        warn!("Service {service}: {note}");
        let service = Reference::service(service.clone());
        self.events.send(Event::warning(
            service,
            "FailedToStartServiceHealthcheck",
            note,
        ));
    }

    /// The model that is programmed.
    pub(super) fn programmed(&self) -> Option<Arc<Model>> {
        self.programmed.clone()
    }

    /// Where others beside the loop count.
    pub(super) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// So many programs of others run before ours.
    pub(super) fn programs_ahead(&self, programs: usize) {
        self.usage.set_programs_ahead(programs);
    }

    /// Programs could not be put on devices.
    pub(super) fn attach_failed(&self, failures: usize) {
        self.metrics.attach_failed(failures);
    }
}

fn serve(
    what: &str,
    addr: Option<SocketAddr>,
    hard_fail: bool,
    site: impl Site,
) -> Result<Option<Server>, ListenError> {
    let Some(addr) = addr else {
        return Ok(None);
    };
    let (server, failed) = Server::start(&both_families(addr), &Arc::new(site));
    if failed.is_empty() {
        info!(what, %addr, "answering");
    }
    for failure in failed {
        if hard_fail {
            return Err(failure);
        }
        let port = addr.port();
        error!(
            what,
            error = &failure as &dyn std::error::Error,
            "cannot answer: does kube-proxy, or another agent, still run on this node? \
             `ss -ltnp 'sport = :{port}'` says who has the port; trying again"
        );
    }
    Ok(Some(server))
}

impl MapReader for Kernel {
    fn counters(&self) -> Option<Vec<u64>> {
        bpf::pinned_counters(&self.pin_dir).ok()
    }

    fn entries(&self, map: &'static str) -> Option<u64> {
        bpf::pinned_entries(&self.pin_dir, map).ok()
    }

    fn drops(&self) -> Option<BTreeMap<DropKey, u64>> {
        bpf::pinned_drops(&self.pin_dir).ok()
    }
}
