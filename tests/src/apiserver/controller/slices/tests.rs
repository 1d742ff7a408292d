use serde_json::{Value, json};

use super::*;
use crate::apiserver::ApiServer;
use crate::apiserver::Behaviour;
use crate::apiserver::store::object::{items, number, strings};

fn server() -> ApiServer {
    let behaviour = Behaviour {
        pod_removal: None,
        ..Behaviour::default()
    };
    let server = ApiServer::builder()
        .bare()
        .behaviour(behaviour)
        .start()
        .unwrap();
    server
        .apply(json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "node1", "labels": {"topology.kubernetes.io/zone": "z1"}}}))
        .unwrap();
    server
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "a", "labels": {"team": "x"}}, "spec": spec})
}

fn pod(number: u8, ready: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{number}"), "labels": {"app": "a"}},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "ports": [
            {"name": "web", "containerPort": 8000 + u64::from(number)}]}]},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": format!("10.244.1.{number}")}, {"ip": format!("fd00::{number}")}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

/// Address, and whether it is ready, serving, terminating, of all endpoints.
fn endpoints(server: &ApiServer) -> Vec<(String, bool, bool, bool)> {
    let slices = server.list(Kind::EndpointSlice);
    let endpoints = slices.iter().flat_map(|slice| items(slice, "/endpoints"));
    let mut all: Vec<_> = endpoints
        .map(|endpoint| {
            let condition = |name: &str| endpoint["conditions"][name] == true;
            (
                strings(endpoint, "/addresses").concat(),
                condition("ready"),
                condition("serving"),
                condition("terminating"),
            )
        })
        .collect();
    all.sort();
    all
}

#[test]
fn the_example_has_slices_of_both_families() {
    let server = server();
    server
        .apply_yaml(include_str!(
            "../../../../../docs/examples/alpaca-prod.yaml"
        ))
        .unwrap();
    let slices = server.list(Kind::EndpointSlice);
    let mut families: Vec<_> = slices
        .iter()
        .map(|slice| text(slice, "/addressType"))
        .collect();
    families.sort_unstable();
    assert_eq!(families, ["IPv4", "IPv6"]);
    for slice in &slices {
        assert_eq!(items(slice, "/endpoints").len(), 3);
        assert_eq!(label(slice, SERVICE_NAME), Some("alpaca-prod"));
        assert_eq!(label(slice, "env"), Some("prod"));
        let ports = json!([
            {"name": "tcp", "protocol": "TCP", "port": 8000},
            {"name": "udp", "protocol": "UDP", "port": 8000},
        ]);
        assert_eq!(slice["ports"], ports);
        let trigger = &slice["metadata"]["annotations"][TRIGGER];
        trigger.as_str().unwrap().parse::<Timestamp>().unwrap();
        assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Service");
    }
}

#[test]
fn a_slice_looks_like_those_of_the_real_controller() {
    let server = server();
    server
        .apply(service(
            json!({"selector": {"app": "a"}, "ports": [{"port": 80}]}),
        ))
        .unwrap();
    server.apply(pod(1, "True")).unwrap();
    let list = include_str!("../../../../data/api/list-endpointslices.json");
    let list: Value = serde_json::from_str(list).unwrap();
    let mut recorded = items(&list, "/items").iter();
    let recorded = recorded
        .find(|slice| label(slice, MANAGED_BY) == Some(MANAGER))
        .unwrap();
    let keys = |value: &Value| {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.retain(|key| {
            !["managedFields", "annotations", "kind", "apiVersion"].contains(&key.as_str())
        });
        keys
    };
    let slice = &server.list(Kind::EndpointSlice)[0];
    for pointer in [
        "",
        "/metadata",
        "/endpoints/0",
        "/endpoints/0/conditions",
        "/endpoints/0/targetRef",
        "/ports/0",
        "/metadata/ownerReferences/0",
    ] {
        let (ours, real) = (slice.pointer(pointer), recorded.pointer(pointer));
        assert_eq!(keys(ours.unwrap()), keys(real.unwrap()), "{pointer}");
    }
}

#[test]
fn endpoints_follow_readiness_and_deletion_of_their_pods() {
    let server = server();
    server
        .apply(service(
            json!({"selector": {"app": "a"}, "ports": [{"port": 80}]}),
        ))
        .unwrap();
    assert_eq!(server.list(Kind::EndpointSlice).len(), 1);
    assert_eq!(endpoints(&server), []);
    server.apply(pod(1, "True")).unwrap();
    server.apply(pod(2, "False")).unwrap();
    let one = |ready, serving, terminating| ("10.244.1.1".to_owned(), ready, serving, terminating);
    let two = |ready, serving, terminating| ("10.244.1.2".to_owned(), ready, serving, terminating);
    assert_eq!(
        endpoints(&server),
        [one(true, true, false), two(false, false, false)]
    );
    server.delete(Kind::Pod, "default", "p1").unwrap();
    assert_eq!(
        endpoints(&server),
        [one(false, true, true), two(false, false, false)]
    );
    server
        .patch(
            Kind::Service,
            "default",
            "a",
            &json!({"spec": {"publishNotReadyAddresses": true}}),
        )
        .unwrap();
    assert_eq!(
        endpoints(&server),
        [one(true, true, true), two(true, true, false)]
    );
    server
        .patch(
            Kind::Pod,
            "default",
            "p2",
            &json!({"metadata": {"labels": {"app": "b"}}}),
        )
        .unwrap();
    assert_eq!(endpoints(&server), [one(true, true, true)]);
    server.delete(Kind::Service, "default", "a").unwrap();
    assert_eq!(server.list(Kind::EndpointSlice).len(), 0);
}

#[test]
fn named_ports_have_the_numbers_of_each_pod() {
    let server = server();
    server.apply(pod(1, "True")).unwrap();
    server.apply(pod(2, "True")).unwrap();
    let port = json!({"port": 80, "targetPort": "web"});
    server
        .apply(service(json!({"selector": {"app": "a"}, "ports": [port]})))
        .unwrap();
    let slices = server.list(Kind::EndpointSlice);
    let mut ports: Vec<_> = slices
        .iter()
        .map(|slice| number(slice, "/ports/0/port"))
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [8001, 8002]);
}

#[test]
fn a_slice_holds_a_hundred_endpoints() {
    let server = server();
    for number in 1..=150 {
        server.apply(pod(number, "True")).unwrap();
    }
    server
        .apply(service(
            json!({"selector": {"app": "a"}, "ports": [{"port": 80}]}),
        ))
        .unwrap();
    let slices = server.list(Kind::EndpointSlice);
    let mut sizes: Vec<_> = slices
        .iter()
        .map(|slice| items(slice, "/endpoints").len())
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100]);
}

#[test]
fn what_somebody_does_to_a_slice_is_undone() {
    let server = server();
    server
        .apply(service(
            json!({"selector": {"app": "a"}, "ports": [{"port": 80}]}),
        ))
        .unwrap();
    server.apply(pod(1, "True")).unwrap();
    let name = text(&server.list(Kind::EndpointSlice)[0], "/metadata/name").to_owned();
    server
        .patch(
            Kind::EndpointSlice,
            "default",
            &name,
            &json!({"endpoints": []}),
        )
        .unwrap();
    assert_eq!(endpoints(&server).len(), 1);
    server
        .delete(Kind::EndpointSlice, "default", &name)
        .unwrap();
    assert_eq!(endpoints(&server).len(), 1);
}

#[test]
fn a_zone_that_changes_reaches_the_endpoints_and_headless_slices_say_so() {
    let server = server();
    server.apply(pod(1, "True")).unwrap();
    server
        .apply(service(
            json!({"clusterIP": "None", "selector": {"app": "a"}}),
        ))
        .unwrap();
    let zone = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z2"}}});
    server.patch(Kind::Node, "", "node1", &zone).unwrap();
    let slice = &server.list(Kind::EndpointSlice)[0];
    assert_eq!(slice["endpoints"][0]["zone"], "z2");
    assert!(label(slice, "service.kubernetes.io/headless").is_some());
}

#[test]
fn services_without_a_selector_are_left_alone() {
    let server = server();
    server
        .apply(service(json!({"ports": [{"port": 80}]})))
        .unwrap();
    server
        .apply(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "mine", "labels": {SERVICE_NAME: "a"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
        }))
        .unwrap();
    assert_eq!(server.list(Kind::EndpointSlice).len(), 1);
}
