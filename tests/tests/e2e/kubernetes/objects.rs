//! Services whose slices are written by hand.

use lb_tests::lab::{Place as _, Pod};
use serde_json::{Value, json};

use lb_tests::scene::PORT;

/// The Service's cluster address.
pub(super) const ADDRESS: &str = "10.96.0.20";
/// Its port on every node.
pub(super) const NODE_PORT: u16 = 30_020;

/// A Service without a selector.
pub(super) fn service() -> Value {
    let port = |protocol: &str| {
        json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT,
            "nodePort": NODE_PORT})
    };
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "hand", "namespace": "default"},
        "spec": {"type": "NodePort", "clusterIP": ADDRESS, "ports": [port("TCP"), port("UDP")]},
    })
}

/// A slice of it: pods, each with the zone that it is for.
pub(super) fn slice(name: &str, pods: &[(&Pod, Option<&str>)]) -> Value {
    let endpoints = pods.iter().map(|(pod, zone)| {
        let hints = zone.map(|zone| json!({"forZones": [{"name": zone}]}));
        json!({"addresses": [pod.ipv4()], "conditions": {"ready": true},
            "nodeName": pod.node().name(), "hints": hints})
    });
    let endpoints: Vec<Value> = endpoints.collect();
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": "hand"}},
        "addressType": "IPv4", "ports": [port("TCP"), port("UDP")], "endpoints": endpoints,
    })
}
