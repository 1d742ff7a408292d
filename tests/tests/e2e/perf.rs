//! Measurements that work at all.

use std::fs;

use clap::Parser as _;
use lb_tests::perf::{self, Options};
use serde_json::Value;

/// Runs a command, and returns the rows of its summary, which are figures all.
#[track_caller]
fn measure(line: &str) -> Vec<Value> {
    let out = tempfile::tempdir().unwrap();
    let arguments = line.split(' ').chain(["--json", "--out"]);
    let arguments = arguments.chain(out.path().to_str());
    perf::run(&Options::parse_from(arguments)).unwrap();
    let summary = fs::read_to_string(out.path().join("summary.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&summary).unwrap();
    for row in &rows {
        assert!(row["value"].as_f64().unwrap() > 0.0, "{row}");
    }
    rows
}

/// The rows have one of each of these names.
#[track_caller]
fn check_names(rows: &[Value], names: &[&str]) {
    for name in names {
        let of_name = rows.iter().filter(|row| row["name"] == *name);
        assert_eq!(of_name.count(), 1, "{name} in {rows:?}");
    }
}

#[test]
fn agent_learns_a_small_cluster_and_is_measured() {
    let rows = measure("perf control --services 30 --endpoints 3 --deadline 20 --quick");
    assert_eq!(rows.len(), 11, "{rows:?}");
}

#[test]
fn forwarding_is_measured_beside_the_kernel_and_rules() {
    let rows = measure("perf forward --quick --services 1,20 --rounds 1 --window 5");
    check_names(
        &rows,
        &[
            "forward, IPv4, 64k flows: ours, XDP, 20 Services",
            "forward, IPv4, all new: iptables, 20 Services",
            "throughput against plain forwarding, one flow",
            "throughput against nftables, all new",
            "IPv6 against IPv4",
            "tcx against nftables, same walks",
        ],
    );
}
