use std::time::Duration;

use serde_json::{Value, json};

use super::{Role, Times};

mod api;
mod connection;
mod objects;
mod rbac;
mod reports;
mod trouble;

/// Nothing takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Nothing may be published in this time.
const QUIET: Duration = Duration::from_millis(300);

fn times() -> Times {
    let ms = Duration::from_millis;
    Times {
        connect: ms(500),
        response: ms(2000),
        progress: ms(200),
        list: ms(2000),
        watch: ms(1000),
        silence: ms(200),
        stale: ms(800),
        short: ms(20),
        pause_min: ms(4),
        pause_max: ms(20),
        calm: ms(100),
        unserved: ms(50),
    }
}

fn service(name: &str) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": "1"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "protocol": "TCP"}]},
    })
}

fn slice(service: &str) -> Value {
    json!({
        "metadata": {"name": "slice", "namespace": "default", "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "node1"}],
    })
}

fn node(zone: &str) -> Value {
    json!({"metadata": {"name": "node1", "resourceVersion": "1",
            "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.88.0.2"}]}})
}

fn cidr(net: &str) -> Value {
    json!({"metadata": {"name": "kubernetes", "resourceVersion": "1"}, "spec": {"cidrs": [net]}})
}

/// The role of a proxy with a name.
fn named(proxy: &str) -> Role {
    Role {
        proxy_name: Some(proxy.to_owned()),
        ..Role::from("node1")
    }
}
