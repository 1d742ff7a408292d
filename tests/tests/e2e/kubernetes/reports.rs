//! What the agent tells users by Events.

use std::net::TcpListener;
use std::time::Duration;

use lb_tests::lab::{ForeignProgram, Place as _};
use serde_json::{Value, json};

use super::stage::Stage;
use crate::http;

const CHECK_PORT: u16 = 32_123;
/// How long an Event may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take until programs of others are looked for again, and told.
const LOOKED: Duration = Duration::from_secs(45);

/// A Service that wants an address which only one can have.
fn external(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"externalIPs": ["198.51.100.7"], "ports": [{"port": 80}]},
    })
}

#[test]
fn s54_s57_users_are_told_by_events_of_a_start_and_of_what_cannot_be_served() {
    let stage = Stage::new(1, &[]);
    let user = stage.user();
    let node = stage.cluster.node(0);
    let taken = node
        .netns()
        .run(|| TcpListener::bind(("0.0.0.0", CHECK_PORT)));
    let _taken = taken.expect("a namespace").expect("a free port");
    user.apply(&[
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "checked", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "healthCheckNodePort": CHECK_PORT, "ports": [{"port": 80}]},
        }),
        external("first"),
        external("second"),
    ]);
    let expected = [
        (("Node", "node1"), "Normal", "Starting"),
        (
            ("Service", "checked"),
            "Warning",
            "FailedToStartServiceHealthcheck",
        ),
        (("Service", "second"), "Warning", "ConflictingFrontend"),
    ];
    for (object, kind, reason) in expected {
        let is_there = || user.has_event(object, kind, reason);
        assert!(
            stage.server.wait_until(DEADLINE, is_there),
            "{kind} {reason} of {object:?}: {}",
            stage.agents[0].log_end()
        );
    }
    if let Some(table) = user.kubectl(&["get", "events"]) {
        for (_, kind, reason) in expected {
            let mut lines = table.lines();
            assert!(
                lines.any(|line| line.contains(kind) && line.contains(reason)),
                "{table}"
            );
        }
    }
}

/// A program that runs before ours may keep packets from it.
#[test]
fn foreign_tcx_program_ahead_is_reported() {
    let stage = Stage::new(1, &[]);
    let (node, agent) = (stage.cluster.node(0), &stage.agents[0]);
    let user = stage.user();
    let told = |kind, reason| {
        let is_there = || user.has_event(("Node", "node1"), kind, reason);
        let is_told = stage.server.wait_until(LOOKED, is_there);
        assert!(is_told, "{kind} {reason}: {}", agent.log_end());
    };
    let count = || {
        let metrics = http::get(node, ([127, 0, 0, 1], 10_249).into(), "/metrics");
        let metrics = metrics.expect("metrics").body;
        let mut lines = metrics.lines();
        let name = "lb_foreign_programs_ahead ";
        let value = lines.find_map(|line| line.strip_prefix(name));
        value.expect("a value").to_owned()
    };
    let is_silent = !user.has_event(("Node", "node1"), "Warning", "ForeignProgramAhead");
    assert!(is_silent, "{}", agent.log_end());
    let foreign = ForeignProgram::attach(node.netns(), node.uplink()).expect("a program");
    told("Warning", "ForeignProgramAhead");
    assert_eq!(count(), "1.0");
    let log = agent.log_end();
    // The name of the other takes a capability that the agent has given up.
    let names = ["lb_wire_ingress", node.uplink()];
    assert!(names.iter().all(|name| log.contains(name)), "{log}");
    drop(foreign);
    told("Normal", "ForeignProgramGone");
    assert_eq!(count(), "0.0");
}
