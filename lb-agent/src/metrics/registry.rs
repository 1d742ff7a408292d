//! Every metric: its name, its help, and how it gets its value.

use std::{
    fmt,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family as Rows,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets, linear_buckets},
    },
    registry::Registry,
};

use super::{
    changes::{Changes, Trigger},
    process::Process,
    sweeps::Sweeps,
};
use crate::{desired::NoLocalEndpoints, health::Family};

/// The name and the help of a metric that a collector encodes.
pub(super) struct Described {
    name: &'static str,
    /// Without its full stop, as the registry takes it.
    help: &'static str,
}

pub(super) const fn described(name: &'static str, help: &'static str) -> Described {
    Described { name, help }
}

pub(super) const MAP_CAPACITY: Described =
    described("lb_map_capacity", "Elements that a map has room for");
pub(super) const MAP_ENTRIES: Described =
    described("lb_map_entries", "Elements that a map has, about");
pub(super) const MAP_PRESSURE: Described = described(
    "lb_map_pressure",
    "Part of a map that is in use; 1 is full, and PINS, AFFINITY and SOCKETS then forget the oldest; OPENING forgets the oldest of eight, sooner where chance fills them",
);
pub(super) const PACKETS: Described = described(
    "lb_packets",
    "Packets (and at the hook socket, system calls) by what became of them",
);
pub(super) const PROCESS_CPU: Described = described(
    "process_cpu_seconds",
    "Processor time of the agent, in seconds",
);
pub(super) const PROCESS_START: Described = described(
    "process_start_time_seconds",
    "When the agent was started, in seconds of the epoch",
);
pub(super) const PROCESS_VIRTUAL: Described = described(
    "process_virtual_memory_bytes",
    "Address space of the agent; it includes the arena of look-up tables",
);
pub(super) const PROCESS_MEMORY: Described = described(
    "process_resident_memory_bytes",
    "Memory of the agent, without that of the kernel's maps",
);
pub(super) const PROCESS_FDS: Described =
    described("process_open_fds", "Files that the agent has open");

impl Described {
    /// Encodes a metric without labels.
    pub(super) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        metric: &impl EncodeMetric,
    ) -> fmt::Result {
        let help = format!("{}.", self.help);
        let encoder = encoder.encode_descriptor(self.name, &help, None, metric.metric_type())?;
        metric.encode(encoder)
    }

    /// Encodes a metric of type `kind`: its rows by their labels.
    pub(super) fn encode_rows<const N: usize, M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        kind: MetricType,
        rows: impl IntoIterator<Item = ([(&'static str, String); N], M)>,
    ) -> fmt::Result {
        let help = format!("{}.", self.help);
        let mut encoder = encoder.encode_descriptor(self.name, &help, None, kind)?;
        for (labels, metric) in rows {
            metric.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Seconds = Gauge<f64, AtomicU64>;
type Durations = Rows<Labels<1>, Histogram, fn() -> Histogram>;

/// What is counted. Everybody writes through a shared reference.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    own: Own,
    pub(super) sweeps: Sweeps,
    kube_proxy: KubeProxy,
}

/// Metrics of our own.
#[derive(Debug)]
struct Own {
    syncs: Rows<Labels<1>, Counter>,
    sync_duration: Histogram,
    operations: Counter,
    rejections: Gauge,
    services: Gauge,
    attach_failures: Counter,
    last_change: Seconds,
}

/// kube-proxy's names (items 69 and 70), for the dashboards and alerts that there are.
#[derive(Debug)]
struct KubeProxy {
    sync: Durations,
    full_sync: Durations,
    partial_sync: Durations,
    programming: Durations,
    last_sync: Rows<Labels<1>, Seconds>,
    last_queued: Rows<Labels<1>, Seconds>,
    endpoints_pending: Gauge,
    endpoints: Counter,
    services_pending: Gauge,
    services: Counter,
    no_local: Rows<Labels<2>, Gauge>,
    healthz: Rows<Labels<1>, Counter>,
    livez: Rows<Labels<1>, Counter>,
    flow_sync: Durations,
    flows_deleted: Rows<Labels<1>, Counter>,
}

/// A turn of the agent's loop.
#[derive(Clone, Copy, Debug)]
pub struct Sync {
    /// How long it took.
    pub took: Duration,
    /// Whether the maps had to be read first.
    pub full: bool,
    /// What it did; none if it failed.
    pub done: Option<Done>,
}

/// What a turn of the agent's loop did.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Operations on maps.
    pub operations: usize,
    /// What could not be served.
    pub rejections: usize,
    /// Services that there are.
    pub services: usize,
}

impl Metrics {
    /// All at zero. `kube_proxy` if kube-proxy's names are to be there, too; `maps` reads the
    /// kernel's maps.
    #[must_use]
    pub fn new(kube_proxy: bool, maps: impl Collector) -> Self {
        let mut registry = Registry::default();
        let lb = registry.sub_registry_with_prefix("lb");
        let (own, sweeps) = (Own::new(lb), Sweeps::new(lb));
        registry.register_collector(Box::new(maps));
        registry.register_collector(Box::new(Process));
        let mut unseen = Registry::default();
        let shown = if kube_proxy {
            registry.sub_registry_with_prefix("kubeproxy")
        } else {
            &mut unseen
        };
        let kube_proxy = KubeProxy::new(shown);
        Self {
            registry,
            own,
            sweeps,
            kube_proxy,
        }
    }

    /// All of it, in the text format of OpenMetrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to memory cannot fail.
        let _infallible = text::encode(&mut text, &self.registry);
        text
    }

    /// A change has arrived.
    pub fn changed(&self, now: SystemTime, new: Changes) {
        self.own.last_change.set(epoch_seconds(now));
        self.kube_proxy.services.inc_by(new.services);
        self.kube_proxy.endpoints.inc_by(new.endpoints);
    }

    /// There is something to program.
    pub fn queued(&self, now: SystemTime, pending: Changes) {
        let kube_proxy = &self.kube_proxy;
        for family in FAMILIES {
            let last = kube_proxy.last_queued.get_or_create(&family);
            last.set(epoch_seconds(now));
        }
        let pending = [
            (&kube_proxy.services_pending, pending.services),
            (&kube_proxy.endpoints_pending, pending.endpoints),
        ];
        for (gauge, count) in pending {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A turn of the loop has ended.
    pub fn synced(&self, now: SystemTime, sync: &Sync) {
        let (own, kube_proxy) = (&self.own, &self.kube_proxy);
        let took = sync.took.as_secs_f64();
        let result = if sync.done.is_some() { "ok" } else { "error" };
        own.syncs.get_or_create(&[("result", result)]).inc();
        own.sync_duration.observe(took);
        let kind = if sync.full {
            &kube_proxy.full_sync
        } else {
            &kube_proxy.partial_sync
        };
        for family in FAMILIES {
            kube_proxy.sync.get_or_create(&family).observe(took);
            kind.get_or_create(&family).observe(took);
        }
        let Some(done) = sync.done else { return };
        own.operations.inc_by(done.operations as u64);
        own.rejections.set(done.rejections as i64);
        own.services.set(done.services as i64);
        kube_proxy.services_pending.set(0);
        kube_proxy.endpoints_pending.set(0);
        for family in FAMILIES {
            let last = kube_proxy.last_sync.get_or_create(&family);
            last.set(epoch_seconds(now));
        }
    }

    /// These changes of endpoints have been programmed.
    pub fn programmed(&self, now: SystemTime, triggers: &[Trigger]) {
        for trigger in triggers {
            // The clock that wrote the time may be ahead of ours.
            let took = now.duration_since(trigger.at).unwrap_or_default();
            let rows = &self.kube_proxy.programming;
            rows.get_or_create(&[("ip_family", trigger.family.name())])
                .observe(took.as_secs_f64());
        }
    }

    /// So many Service ports of a family drop traffic for want of endpoints on this node.
    pub fn set_no_local_endpoints(&self, family: Family, counts: NoLocalEndpoints) {
        let counts = [("internal", counts.internal), ("external", counts.external)];
        for (policy, count) in counts {
            let labels = [("traffic_policy", policy), ("ip_family", family.name())];
            let row = self.kube_proxy.no_local.get_or_create(&labels);
            row.set(count as i64);
        }
    }

    /// Programs could not be put on devices.
    pub fn attach_failed(&self, failures: usize) {
        self.own.attach_failures.inc_by(failures as u64);
    }

    /// `/healthz` has answered.
    pub fn healthz_answered(&self, status: u16) {
        answered(&self.kube_proxy.healthz, status);
    }

    /// `/livez` has answered.
    pub fn livez_answered(&self, status: u16) {
        answered(&self.kube_proxy.livez, status);
    }
}

impl Own {
    fn new(lb: &mut Registry) -> Self {
        let version = Rows::<Labels<1>, Gauge>::default();
        version
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        lb.register("build_info", "The agent's version", version);
        let own = Self {
            syncs: Rows::default(),
            sync_duration: sync_histogram(),
            operations: Counter::default(),
            rejections: Gauge::default(),
            services: Gauge::default(),
            attach_failures: Counter::default(),
            last_change: Seconds::default(),
        };
        let Self {
            syncs,
            sync_duration,
            operations,
            rejections,
            services,
            attach_failures,
            last_change,
        } = &own;
        for result in ["ok", "error"] {
            let _zero = syncs.get_or_create(&[("result", result)]);
        }
        let help = "Turns of the loop that brings the maps in step";
        lb.register("syncs", help, syncs.clone());
        let help = "How long a turn took, in seconds";
        lb.register("sync_duration_seconds", help, sync_duration.clone());
        let help = "Operations on maps that brought them in step";
        lb.register("sync_operations", help, operations.clone());
        let help = "Things in objects that cannot be served now";
        lb.register("rejections", help, rejections.clone());
        let help = "Services that there are";
        lb.register("services", help, services.clone());
        let help = "Programs that could not be put on a device, each time that it was tried";
        lb.register("attach_failures", help, attach_failures.clone());
        let help = "When the source last had something new, in seconds of the epoch";
        lb.register(
            "source_last_change_timestamp_seconds",
            help,
            last_change.clone(),
        );
        own
    }
}

impl KubeProxy {
    fn new(registry: &mut Registry) -> Self {
        let new = Self::zero();
        let name = |name: &str| format!("sync_{name}");
        let mut durations = |name: String, help: &str, rows: &Durations| {
            for family in FAMILIES {
                let _zero = rows.get_or_create(&family);
            }
            registry.register(name, help, rows.clone());
        };
        let help = "How long bringing the maps in step took, in seconds";
        durations(name("proxy_rules_duration_seconds"), help, &new.sync);
        let help = "The same, where the maps had to be read first";
        durations(
            name("full_proxy_rules_duration_seconds"),
            help,
            &new.full_sync,
        );
        let help = "The same, where the maps were known";
        durations(
            name("partial_proxy_rules_duration_seconds"),
            help,
            &new.partial_sync,
        );
        let help = "From a change of endpoints until it was programmed, in seconds";
        durations(
            "network_programming_duration_seconds".into(),
            help,
            &new.programming,
        );
        let help = "Nothing: records of connections expire without the agent";
        durations(
            "conntrack_reconciler_sync_duration_seconds".into(),
            help,
            &new.flow_sync,
        );
        new.register_times(registry);
        new.register_changes(registry);
        new.register_answers(registry);
        new
    }

    fn zero() -> Self {
        let durations = || Durations::new_with_constructor(sync_histogram);
        Self {
            sync: durations(),
            full_sync: durations(),
            partial_sync: durations(),
            programming: Durations::new_with_constructor(programming_histogram),
            last_sync: Rows::default(),
            last_queued: Rows::default(),
            endpoints_pending: Gauge::default(),
            endpoints: Counter::default(),
            services_pending: Gauge::default(),
            services: Counter::default(),
            no_local: Rows::default(),
            healthz: Rows::default(),
            livez: Rows::default(),
            flow_sync: durations(),
            flows_deleted: Rows::default(),
        }
    }

    fn register_times(&self, registry: &mut Registry) {
        let times = [
            (
                "sync_proxy_rules_last_timestamp_seconds",
                "When the maps were last brought in step, in seconds of the epoch",
                &self.last_sync,
            ),
            (
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When there was last something to program, in seconds of the epoch",
                &self.last_queued,
            ),
        ];
        for (name, help, rows) in times {
            for family in FAMILIES {
                let _zero = rows.get_or_create(&family);
            }
            registry.register(name, help, rows.clone());
        }
    }

    fn register_changes(&self, registry: &mut Registry) {
        let prefix = "sync_proxy_rules";
        let help = "Services whose endpoints have changed and that are not programmed yet";
        let name = format!("{prefix}_endpoint_changes_pending");
        registry.register(name, help, self.endpoints_pending.clone());
        let help = "Changes of Services' endpoints";
        let name = format!("{prefix}_endpoint_changes");
        registry.register(name, help, self.endpoints.clone());
        let help = "Services that have changed and are not programmed yet";
        let name = format!("{prefix}_service_changes_pending");
        registry.register(name, help, self.services_pending.clone());
        let help = "Changes of Services";
        let name = format!("{prefix}_service_changes");
        registry.register(name, help, self.services.clone());
    }

    fn register_answers(&self, registry: &mut Registry) {
        for (_, family) in FAMILIES.as_flattened() {
            for policy in ["internal", "external"] {
                let labels = [("traffic_policy", policy), ("ip_family", *family)];
                let _zero = self.no_local.get_or_create(&labels);
            }
            let _zero = self.flows_deleted.get_or_create(&[("ip_family", *family)]);
        }
        for code in ["200", "503"] {
            let _zero = self.healthz.get_or_create(&[("code", code)]);
            let _zero = self.livez.get_or_create(&[("code", code)]);
        }
        // A gauge, whatever its name says: it is kube-proxy's.
        let name = "sync_proxy_rules_no_local_endpoints_total";
        let help = "Service ports with a policy Local that have endpoints, but none on this node";
        registry.register(name, help, self.no_local.clone());
        let help = "Nothing: records of connections expire without the agent";
        let name = "conntrack_reconciler_deleted_entries";
        registry.register(name, help, self.flows_deleted.clone());
        let help = "Answers of /healthz";
        registry.register("proxy_healthz", help, self.healthz.clone());
        let help = "Answers of /livez";
        registry.register("proxy_livez", help, self.livez.clone());
    }
}

const FAMILIES: [Labels<1>; 2] = [[("ip_family", "IPv4")], [("ip_family", "IPv6")]];

fn answered(rows: &Rows<Labels<1>, Counter>, status: u16) {
    let code = if status == 200 { "200" } else { "503" };
    rows.get_or_create(&[("code", code)]).inc();
}

fn epoch_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn programming_histogram() -> Histogram {
    let buckets = linear_buckets(0.25, 0.25, 2)
        .chain(linear_buckets(1.0, 1.0, 59))
        .chain(linear_buckets(60.0, 5.0, 12))
        .chain(linear_buckets(120.0, 30.0, 7));
    Histogram::new(buckets)
}

/// A gauge with this value.
pub(super) fn gauge(value: f64) -> ConstGauge<f64> {
    ConstGauge::new(value)
}

#[cfg(test)]
mod tests;
