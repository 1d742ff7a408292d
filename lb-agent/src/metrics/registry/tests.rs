use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::{BackendRef, DropKey, maps::SPECS};

use super::*;
use crate::{
    drops::{Names, tests as known},
    metrics::maps::{MapReader, Maps},
};

/// Maps of which everything is 7.
#[derive(Debug)]
struct Sevens;

impl MapReader for Sevens {
    fn counters(&self) -> Option<Vec<u64>> {
        Some(vec![7; 96])
    }

    fn entries(&self, _map: &'static str) -> Option<u64> {
        Some(7)
    }

    fn drops(&self) -> Option<BTreeMap<DropKey, u64>> {
        Some(known::drops())
    }
}

impl Names for Sevens {
    fn device(&self, ifindex: u32) -> Option<String> {
        known::Known.device(ifindex)
    }

    fn backend(&self, reference: BackendRef) -> Option<SocketAddr> {
        known::Known.backend(reference)
    }
}

fn metrics(kube_proxy: bool) -> Metrics {
    let maps = Maps::new(Sevens, SPECS.to_vec(), Default::default());
    Metrics::new(kube_proxy, maps)
}

/// The lines of a metric's text that are neither comments nor empty, as name, labels and value.
#[track_caller]
fn parse(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let plain = name.split('{').next().unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        assert!(plain.chars().all(is_name), "{line}");
        assert!(!name.contains('{') || name.ends_with('}'), "{line}");
        (name.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

fn names(text: &str) -> BTreeSet<String> {
    let names = parse(text).into_keys();
    names
        .map(|name| name.split('{').next().unwrap().to_owned())
        .collect()
}

#[test]
fn s69_s70_every_name_of_kube_proxy_is_there_before_anything_has_happened() {
    let names = names(&metrics(true).encode());
    for name in [
        "sync_proxy_rules_duration_seconds_bucket",
        "sync_proxy_rules_last_timestamp_seconds",
        "sync_proxy_rules_last_queued_timestamp_seconds",
        "sync_proxy_rules_endpoint_changes_pending",
        "sync_proxy_rules_endpoint_changes_total",
        "sync_proxy_rules_service_changes_pending",
        "sync_proxy_rules_service_changes_total",
        "network_programming_duration_seconds_bucket",
        "sync_proxy_rules_no_local_endpoints_total",
        "proxy_healthz_total",
        "proxy_livez_total",
        "sync_full_proxy_rules_duration_seconds_count",
        "sync_partial_proxy_rules_duration_seconds_sum",
        "conntrack_reconciler_sync_duration_seconds_count",
        "conntrack_reconciler_deleted_entries_total",
    ] {
        let name = format!("kubeproxy_{name}");
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn s71_the_process_and_its_build_are_told() {
    let names = names(&metrics(true).encode());
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "lb_build_info",
    ] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
}

#[test]
fn kube_proxys_names_can_be_left_out() {
    let text = metrics(false).encode();
    assert!(!text.contains("kubeproxy_"));
    assert!(names(&text).contains("lb_syncs_total"));
}

#[test]
fn every_metric_has_help_and_a_type_once() {
    let text = metrics(true).encode();
    assert!(text.ends_with("# EOF\n"));
    let of = |kind: &str| -> Vec<String> {
        let prefix = format!("# {kind} ");
        let lines = text.lines().filter_map(|l| l.strip_prefix(&prefix));
        let names = lines.map(|line| line.split(' ').next().unwrap().to_owned());
        names.collect()
    };
    let (help, types) = (of("HELP"), of("TYPE"));
    assert_eq!(help, types);
    let unique: BTreeSet<_> = types.iter().cloned().collect();
    assert_eq!(unique.len(), types.len());
    let suffixes = ["", "_total", "_bucket", "_count", "_sum"];
    for name in names(&text) {
        let mut stems = suffixes.iter().filter_map(|s| name.strip_suffix(s));
        assert!(stems.any(|stem| unique.contains(stem)), "{name}");
    }
}

#[test]
fn drops_are_told_by_reason_interface_and_hook_and_exhaustion_by_backend() {
    let samples = parse(&metrics(false).encode());
    let drops = |reason: &str, interface: &str, hook: &str| {
        let labels = format!("reason=\"{reason}\",interface=\"{interface}\",hook=\"{hook}\"");
        samples.get(&format!("lb_drop_count_total{{{labels}}}"))
    };
    assert_eq!(drops("no_snat_port", "veth7", "pod_ingress"), Some(&11.0));
    assert_eq!(drops("martian", "#9", "wire_ingress"), Some(&7.0));
    assert_eq!(drops("rejected", "", "socket"), Some(&8.0));
    let exhausted =
        |backend: &str| samples.get(&format!("lb_snat_exhausted_total{{backend=\"{backend}\"}}"));
    assert_eq!(exhausted("10.244.2.3:80"), Some(&5.0));
    assert_eq!(exhausted("3#1"), Some(&6.0));
}

/// A change that is there, programmed, and then a turn that fails.
fn take_turns(metrics: &Metrics) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let pending = Changes {
        services: 2,
        endpoints: 3,
    };
    metrics.changed(now, pending);
    metrics.queued(now, pending);
    let text = parse(&metrics.encode());
    assert_eq!(
        text["kubeproxy_sync_proxy_rules_endpoint_changes_pending"],
        3.0
    );
    let sync = Sync {
        took: Duration::from_millis(3),
        full: true,
        done: Some(Done {
            operations: 10,
            rejections: 1,
            services: 2,
        }),
    };
    metrics.synced(now, &sync);
    metrics.synced(
        now,
        &Sync {
            full: false,
            done: None,
            ..sync
        },
    );
}

#[test]
fn s69_a_turn_of_the_loop_shows() {
    let metrics = metrics(true);
    take_turns(&metrics);
    let text = parse(&metrics.encode());
    for (name, value) in [
        ("sync_proxy_rules_endpoint_changes_pending", 0.0),
        ("sync_proxy_rules_endpoint_changes_total", 3.0),
        ("sync_proxy_rules_service_changes_total", 2.0),
        (
            "sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}",
            1000.0,
        ),
        (
            "sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"}",
            1000.0,
        ),
        (
            "sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
            2.0,
        ),
        (
            "sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
            1.0,
        ),
        (
            "sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
            1.0,
        ),
    ] {
        assert_eq!(text[&format!("kubeproxy_{name}")], value, "{name}");
    }
    assert_eq!(text["lb_syncs_total{result=\"error\"}"], 1.0);
    assert_eq!(text["lb_sync_operations_total"], 10.0);
    assert_eq!(text["lb_rejections"], 1.0);
}

#[test]
fn s69_time_to_program_is_from_the_change_to_now_and_never_negative() {
    let metrics = metrics(true);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let at = |at| Trigger {
        family: Family::V6,
        at,
    };
    let later = now + Duration::from_secs(1);
    metrics.programmed(now, &[at(now - Duration::from_secs(59)), at(later)]);
    let text = parse(&metrics.encode());
    let bucket = |le| {
        let name = "kubeproxy_network_programming_duration_seconds_bucket";
        text[&format!("{name}{{le=\"{le}\",ip_family=\"IPv6\"}}")]
    };
    assert_eq!(
        [
            bucket("0.25"),
            bucket("58.0"),
            bucket("59.0"),
            bucket("300.0")
        ],
        [1.0, 1.0, 2.0, 2.0]
    );
}

#[test]
fn what_the_kernel_has_is_read_when_it_is_asked_for() {
    let metrics = metrics(true);
    metrics.healthz_answered(503);
    let counts = NoLocalEndpoints {
        internal: 4,
        external: 5,
    };
    metrics.set_no_local_endpoints(Family::V4, counts);
    let text = parse(&metrics.encode());
    assert_eq!(
        text["lb_packets_total{hook=\"wire_ingress\",outcome=\"no_backend\"}"],
        7.0
    );
    assert_eq!(text["lb_map_entries{map=\"FLOWS\"}"], 7.0);
    assert_eq!(text["lb_map_capacity{map=\"FLOWS\"}"], 524_288.0);
    assert_eq!(text["kubeproxy_proxy_healthz_total{code=\"503\"}"], 1.0);
    assert!(text["process_resident_memory_bytes"] > 0.0);
    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    assert_eq!(
        text[&format!("{name}{{traffic_policy=\"external\",ip_family=\"IPv4\"}}")],
        5.0
    );
}
