//! What an update of a Service keeps and what it drops.

use serde_json::{Map, Value, json};

use super::{
    is_external, is_unset, needs_address, needs_health_port, needs_node_ports, object_mut,
    ports_mut,
};
use crate::apiserver::store::object::{items, number};

/// What was allocated and is left out stays.
pub(super) fn keep_allocated(new: &mut Value, old: &Value) {
    let both = |needs: fn(&Value) -> bool, new: &Value| needs(old) && needs(new);
    if both(needs_address, new) {
        let spec = object_mut(new, "spec");
        if spec.get("clusterIP") != old.pointer("/spec/clusterIP")
            && !is_unset(spec.get("clusterIP"))
            && spec.get("clusterIPs") == old.pointer("/spec/clusterIPs")
        {
            let address = spec["clusterIP"].clone();
            spec.insert("clusterIPs".to_owned(), json!([address]));
        }
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            keep(spec, old, key);
        }
    }
    if both(needs_node_ports, new) {
        keep_node_ports(new, old);
    }
    if both(needs_health_port, new) {
        keep(object_mut(new, "spec"), old, "healthCheckNodePort");
    }
}

fn keep(spec: &mut Map<String, Value>, old: &Value, key: &str) {
    if let (true, Some(value)) = (is_unset(spec.get(key)), old["spec"].get(key)) {
        spec.insert(key.to_owned(), value.clone());
    }
}

fn keep_node_ports(new: &mut Value, old: &Value) {
    let used: Vec<_> = items(new, "/spec/ports")
        .iter()
        .map(|port| (number(port, "/nodePort"), port["protocol"].clone()))
        .collect();
    for port in ports_mut(object_mut(new, "spec")) {
        if !is_unset(port.get("nodePort")) {
            continue;
        }
        let before = items(old, "/spec/ports").iter().find(|before| {
            Some(&before["port"]) == port.get("port")
                && Some(&before["protocol"]) == port.get("protocol")
        });
        let before = before.map_or(0, |before| number(before, "/nodePort"));
        let protocol = port.get("protocol").cloned().unwrap_or_default();
        if before != 0 && !used.contains(&(before, protocol)) {
            port.insert("nodePort".to_owned(), json!(before));
        }
    }
}

/// What the new type has no use for goes, unless somebody has just set it.
pub(super) fn drop_unneeded(new: &mut Value, old: &Value) {
    let ends = |needs: fn(&Value) -> bool, new: &Value| needs(old) && !needs(new);
    if ends(needs_address, new) {
        for key in ["clusterIP", "clusterIPs"] {
            drop_same(new, old, key);
        }
        for key in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            object_mut(new, "spec").remove(key);
        }
    }
    if ends(needs_node_ports, new) && node_ports(new) == node_ports(old) {
        for port in ports_mut(object_mut(new, "spec")) {
            port.remove("nodePort");
        }
    }
    if ends(needs_health_port, new) {
        drop_same(new, old, "healthCheckNodePort");
    }
    if ends(|service| service["spec"]["type"] == "LoadBalancer", new) {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            drop_same(new, old, key);
        }
    }
    if ends(is_external, new) {
        drop_same(new, old, "externalTrafficPolicy");
    }
}

fn drop_same(new: &mut Value, old: &Value, key: &str) {
    if new["spec"].get(key) == old["spec"].get(key) {
        object_mut(new, "spec").remove(key);
    }
}

fn node_ports(service: &Value) -> Vec<u64> {
    let ports = items(service, "/spec/ports").iter();
    ports.map(|port| number(port, "/nodePort")).collect()
}
