//! Objects of a large cluster, with all that a real API server sends along.

use std::net::Ipv4Addr;

use lb_common::FrontendKey;
use lb_common::protocol::TCP;
use serde_json::{Value, json};

/// When all of them were made.
const TIME: &str = "2026-01-01T00:00:00Z";

/// The first cluster address, and the first of a pod.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
const PODS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// Where the two meet: as many Services, or endpoints, there may be.
pub(super) const MOST: u32 = 1 << 23;

const PORT: u16 = 80;

/// What clients of Service `number` dial.
pub(super) fn frontend(number: u32) -> FrontendKey {
    FrontendKey::new(cluster_address(number).into(), PORT, TCP)
}

/// Service `number`.
pub(super) fn service(number: u32) -> Value {
    let (name, address) = (name(number), cluster_address(number));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid("5e", number),
            "creationTimestamp": TIME,
            "labels": {"app": name},
            "managedFields": [managed("v1", "kubectl", &json!({
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:internalTrafficPolicy": {}, "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
                    "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {},
                    }},
                },
            }))],
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app": name},
            "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": 8080}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// The slice of Service `number`, with so many endpoints.
pub(super) fn slice(number: u32, endpoints: u32) -> Value {
    let (name, owner) = (name(number), uid("5e", number));
    let pods = number * endpoints..(number + 1) * endpoints;
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-x7k2p"),
            "generateName": format!("{name}-"),
            "namespace": "default",
            "uid": uid("51", number),
            "generation": 1,
            "creationTimestamp": TIME,
            "labels": {
                "app": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": name,
            },
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": TIME},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name, "uid": owner,
                "controller": true, "blockOwnerDeletion": true,
            }],
            "managedFields": [managed("discovery.k8s.io/v1", "kube-controller-manager", &json!({
                "f:addressType": {}, "f:endpoints": {}, "f:ports": {},
                "f:metadata": {
                    "f:generateName": {},
                    "f:annotations": {".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}},
                    "f:labels": {
                        ".": {}, "f:app": {}, "f:endpointslice.kubernetes.io/managed-by": {},
                        "f:kubernetes.io/service-name": {},
                    },
                    "f:ownerReferences": {".": {}, format!("k:{{\"uid\":\"{owner}\"}}"): {}},
                },
            }))],
        },
        "addressType": "IPv4",
        "endpoints": pods.map(|pod| endpoint(&name, pod)).collect::<Vec<_>>(),
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    })
}

/// Pod `number` of all, on one of a thousand nodes.
fn endpoint(service: &str, number: u32) -> Value {
    json!({
        "addresses": [Ipv4Addr::from_bits(PODS.to_bits() + number)],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": format!("node{}", number % 1000 + 1),
        "zone": format!("zone{}", number % 3 + 1),
        "targetRef": {
            "kind": "Pod", "namespace": "default", "uid": uid("90d", number),
            "name": format!("{service}-6d5f7c8b9-{number:05x}"),
        },
    })
}

fn name(service: u32) -> String {
    format!("service-{service}")
}

fn cluster_address(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(SERVICES.to_bits() + service)
}

/// As long as a real one.
fn uid(kind: &str, number: u32) -> String {
    format!("{number:08x}-{kind:0>4}-4000-8000-000000000000")
}

/// Who wrote which fields: the larger part of many objects.
fn managed(version: &str, manager: &str, fields: &Value) -> Value {
    json!({
        "manager": manager, "operation": "Update", "apiVersion": version, "time": TIME,
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_service_has_an_address_and_endpoints_of_its_own() {
        let addresses = (0..300).map(|number| service(number)["spec"]["clusterIP"].to_string());
        assert_eq!(addresses.collect::<BTreeSet<_>>().len(), 300);
        let slices = (0..300).map(|number| slice(number, 7));
        let pods = slices.flat_map(|slice| slice["endpoints"].as_array().unwrap().clone());
        let pods: BTreeSet<_> = pods.map(|pod| pod["addresses"].to_string()).collect();
        assert_eq!(pods.len(), 2100);
    }

    #[test]
    fn slice_belongs_to_its_service() {
        let (service, slice) = (service(3), slice(3, 1));
        let label = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
        assert_eq!(*label, service["metadata"]["name"]);
        assert_eq!(
            slice["ports"][0]["name"],
            service["spec"]["ports"][0]["name"]
        );
    }
}
