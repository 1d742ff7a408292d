//! What is an object, and which objects count.

use std::{fs, sync::Arc};

use super::{SERVICE, endpoints, good, name, run_once};
use crate::{
    model::{Model, ServiceKind},
    source::{self, Role},
};

#[test]
fn s2_s3_labels_take_objects_away() {
    let service = SERVICE.replace(
        "{name: alpaca}",
        "{name: alpaca, labels: {service.kubernetes.io/service-proxy-name: x}}",
    );
    assert!(good(&service).services.is_empty());
    let slice = "
kind: EndpointSlice
metadata: {name: s, labels: {kubernetes.io/service-name: alpaca, service.kubernetes.io/headless: ''}}
addressType: IPv4
";
    assert!(good(slice).slices.is_empty());
}

/// What a text says to `role`.
fn model(text: &str, role: Role) -> Arc<Model> {
    let (sender, receiver) = source::channel();
    run_once(text.to_owned(), role, &sender).unwrap();
    let snapshot = receiver.borrow().clone();
    snapshot.unwrap().model.clone()
}

#[test]
fn s2_a_proxy_with_a_name_serves_what_is_handed_over_to_it() {
    let handed = |name: &str, proxy: &str| {
        let labels = format!("labels: {{service.kubernetes.io/service-proxy-name: {proxy}}}");
        SERVICE.replace("{name: alpaca}", &format!("{{name: {name}, {labels}}}"))
    };
    let text = [SERVICE, &handed("a", "ours"), &handed("b", "theirs")].join("---");
    let role = Role {
        proxy_name: Some("ours".to_owned()),
        ..Role::from("node1")
    };
    let model = model(&text, role);
    assert_eq!(model.services.keys().collect::<Vec<_>>(), [&name("a")]);
}

#[test]
fn s44_service_networks_are_understood() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, 'fd00:10:96::/112']}
";
    let given = Role {
        service_cidrs: ["10.97.0.0/16".parse().unwrap()].into(),
        ..Role::from("node1")
    };
    for (role, expected) in [
        (
            Role::from("node1"),
            &["10.96.0.0/16", "fd00:10:96::/112"][..],
        ),
        (given, &["10.97.0.0/16"]),
    ] {
        let nets = model(text, role).service_cidrs.clone();
        let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
        assert_eq!(nets, expected);
    }
}

#[test]
fn lists_json_and_other_kinds_are_understood() {
    let list = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.1}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}
- {apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: c}}
";
    assert_eq!(good(list).services.keys().collect::<Vec<_>>(), [&name("a")]);
    let json = r#"{"kind": "ServiceList", "apiVersion": "v1", "items":
        [{"metadata": {"name": "a"}, "spec": {"clusterIP": "10.0.0.1"}}]}"#;
    assert_eq!(good(json).services.len(), 1);
}

#[test]
fn recorded_lists_are_manifests() {
    for (file, services) in [("list-services.json", 8), ("list-endpointslices.json", 0)] {
        let path = format!("{}/../tests/data/api/{file}", env!("CARGO_MANIFEST_DIR"));
        let model = good(&fs::read_to_string(path).unwrap());
        assert!(model.services.len() >= services, "{:?}", model.services);
        assert_eq!(model.slices.is_empty(), services != 0);
    }
}

#[test]
fn the_example_has_three_backends_of_both_families() {
    let path = format!(
        "{}/../docs/examples/alpaca-prod.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let model = good(&fs::read_to_string(path).unwrap());
    let service = &model.services[&name("alpaca-prod")];
    assert_eq!(service.kind, ServiceKind::NodePort);
    assert_eq!(
        (service.ports[0].port, service.ports[0].node_port),
        (8000, 30366)
    );
    let endpoints = endpoints(&model, "alpaca-prod");
    assert_eq!(endpoints.len(), 6, "{endpoints:?}");
    assert!(
        endpoints.iter().all(|line| line.contains(" 8000,8000 ")),
        "{endpoints:?}"
    );
}

#[test]
fn only_this_node_is_taken() {
    let nodes = "
{kind: Node, metadata: {name: node2}, status: {addresses: [{type: InternalIP, address: 10.0.0.2}]}}
---
{kind: Node, metadata: {name: Node1}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}
";
    let node = good(nodes).node.clone().unwrap();
    assert_eq!(node.internal_ips[0].to_string(), "10.0.0.1");
}

#[test]
fn headless_and_external_services_need_no_address() {
    let model = good(
        "
{kind: Service, metadata: {name: a}, spec: {clusterIP: None}}
---
{kind: Service, metadata: {name: b}, spec: {type: ExternalName, externalName: x.example}}
",
    );
    assert!(
        model
            .services
            .values()
            .all(|service| service.cluster_ips.is_empty())
    );
    assert_eq!(model.services.len(), 2);
}
