//! Which slices a Service ought to have.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::apiserver::store::object::{
    is_terminating, items, label, labels, number, strings, text,
};
use crate::apiserver::store::selector::LabelSelector;
use crate::apiserver::store::{Kind, Name, Object, Store, mix, suffix};

/// The Service that a slice is of.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Who writes a slice.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// We do.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Says that nobody balances loads to a slice.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints in a slice.
const MAX_ENDPOINTS: usize = 100;

/// All slices that `service` ought to have.
pub(super) fn desired(store: &Store, service: &Object, selector: &LabelSelector) -> Vec<Value> {
    let name = Name::of(service);
    let pods: Vec<&Object> = store
        .objects(Kind::Pod)
        .filter(|(pod, object)| pod.namespace == name.namespace && selector.matches(object))
        .map(|(_, pod)| pod)
        .filter(|pod| !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed"))
        .collect();
    let families = strings(service, "/spec/ipFamilies");
    families
        .iter()
        .flat_map(|family| of_family(store, service, &pods, family))
        .collect()
}

fn of_family(store: &Store, service: &Value, pods: &[&Object], family: &str) -> Vec<Value> {
    // Pods whose ports have other numbers are in slices of their own.
    let mut by_ports: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for pod in pods {
        if let Some(address) = address(pod, family) {
            let ports = ports(service, pod);
            let entry = by_ports.entry(ports.to_string());
            let (_, endpoints) = entry.or_insert_with(|| (ports, Vec::new()));
            endpoints.push(endpoint(store, service, pod, address));
        }
    }
    if by_ports.is_empty() {
        // There is a slice without endpoints as long as there are none.
        by_ports.insert(String::new(), (json!([]), Vec::new()));
    }
    let mut slices = Vec::new();
    for (key, (ports, endpoints)) in by_ports {
        let chunks: Vec<_> = if endpoints.is_empty() {
            vec![[].as_slice()]
        } else {
            endpoints.chunks(MAX_ENDPOINTS).collect()
        };
        for (index, chunk) in chunks.into_iter().enumerate() {
            // A placeholder becomes the first slice.
            let group = if slices.is_empty() { "" } else { key.as_str() };
            slices.push(slice(service, family, group, index, &ports, chunk));
        }
    }
    slices
}

fn slice(
    service: &Value,
    family: &str,
    group: &str,
    index: usize,
    ports: &Value,
    endpoints: &[Value],
) -> Value {
    let name = text(service, "/metadata/name");
    let uid = text(service, "/metadata/uid");
    let mut own_labels = labels(service).cloned().unwrap_or_default();
    let mut set = |key: &str, value: &str| own_labels.insert(key.to_owned(), json!(value));
    set(SERVICE_NAME, name);
    set(MANAGED_BY, MANAGER);
    if text(service, "/spec/clusterIP") == "None" {
        set(HEADLESS, "");
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-{}", suffix(hash(&format!("{uid} {family} {group} {index}")))),
            "namespace": text(service, "/metadata/namespace"),
            "generateName": format!("{name}-"),
            "labels": own_labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name, "uid": uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}

fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0, |hash, byte| mix(hash ^ u64::from(byte)))
}

/// The first address of the pod in this family.
fn address(pod: &Value, family: &str) -> Option<String> {
    let ips = items(pod, "/status/podIPs").iter();
    let ips = ips
        .map(|ip| text(ip, "/ip"))
        .chain([text(pod, "/status/podIP")]);
    let mut of_family = ips.filter(|ip| {
        let ip = ip.parse::<IpAddr>();
        ip.is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4"))
    });
    of_family.next().map(str::to_owned)
}

fn endpoint(store: &Store, service: &Value, pod: &Value, address: String) -> Value {
    let is_published = service.pointer("/spec/publishNotReadyAddresses") == Some(&json!(true));
    let serving = is_ready(pod) || is_published;
    let terminating = is_terminating(pod);
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {
            "ready": is_published || (serving && !terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": {
            "kind": "Pod", "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
        },
    });
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        endpoint["nodeName"] = json!(node);
        let node = store.get(Kind::Node, &Name::new("", node));
        if let Some(zone) = node.and_then(|node| label(node, "topology.kubernetes.io/zone")) {
            endpoint["zone"] = json!(zone);
        }
    }
    if let (true, hostname) = has_hostname(service, pod) {
        endpoint["hostname"] = json!(hostname);
    }
    endpoint
}

fn has_hostname<'a>(service: &Value, pod: &'a Value) -> (bool, &'a str) {
    let hostname = text(pod, "/spec/hostname");
    let is_of_service = text(pod, "/spec/subdomain") == text(service, "/metadata/name");
    (!hostname.is_empty() && is_of_service, hostname)
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = items(pod, "/status/conditions").iter();
    conditions.any(|condition| {
        text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
    })
}

/// The ports of the Service as they are in this pod; those that it does not have are left out.
fn ports(service: &Value, pod: &Value) -> Value {
    let ports = items(service, "/spec/ports").iter().filter_map(|port| {
        let target = match &port["targetPort"] {
            Value::String(name) => named_port(pod, name, text(port, "/protocol"))?,
            target => target.as_u64()?,
        };
        let mut resolved = Map::new();
        resolved.insert("name".to_owned(), json!(text(port, "/name")));
        resolved.insert("protocol".to_owned(), port["protocol"].clone());
        resolved.insert("port".to_owned(), json!(target));
        if let Some(protocol) = port.get("appProtocol") {
            resolved.insert("appProtocol".to_owned(), protocol.clone());
        }
        Some(Value::Object(resolved))
    });
    Value::Array(ports.collect())
}

fn named_port(pod: &Value, name: &str, protocol: &str) -> Option<u64> {
    let containers = items(pod, "/spec/containers").iter();
    let mut ports = containers.flat_map(|container| items(container, "/ports"));
    let found =
        ports.find(|port| text(port, "/name") == name && text(port, "/protocol") == protocol);
    found.map(|port| number(port, "/containerPort"))
}
