//! What the agent tells users by Events.

use std::net::TcpListener;
use std::time::Duration;

use lb_tests::lab::Place as _;
use serde_json::{Value, json};

use super::stage::Stage;

const CHECK_PORT: u16 = 32_123;
/// How long an Event may take.
const DEADLINE: Duration = Duration::from_secs(10);

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
