//! What is refused, and what is said about it.

use std::fs;

use super::{SERVICE, name, rejections, snapshot};
use crate::source::{
    self,
    manifest::{Error, Manifests, run_once},
};

#[test]
fn nothing_allocates_addresses_and_ports() {
    assert_eq!(
        rejections("{kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}"),
        [
            "-, document 1 (line 1): Service default/a: spec.clusterIP: is missing: \
          nothing allocates addresses for manifests; say one, or `None`"
        ]
    );
    let node_port = "
---
kind: Service
metadata: {name: a}
spec: {type: NodePort, clusterIP: 10.0.0.1, ports: [{port: 80}]}
";
    assert_eq!(
        rejections(node_port),
        [
            "-, document 1 (line 3): Service default/a: spec.ports[0].nodePort: is missing: \
          nothing allocates node ports for manifests; say one"
        ]
    );
    assert_eq!(
        snapshot(node_port).model.services.len(),
        1,
        "its address is served"
    );
}

#[test]
fn an_object_that_stands_twice_is_taken_once() {
    let again = SERVICE.replace("10.96.0.17", "10.96.0.18");
    let text = format!("{SERVICE}---{again}");
    assert_eq!(
        rejections(&text),
        [
            "-, document 2 (line 7): Service default/alpaca: stands in -, document 1 (line 2) \
          already, and is taken from there"
        ]
    );
    let service = snapshot(&text).model.services[&name("alpaca")].clone();
    assert_eq!(service.cluster_ips[0].to_string(), "10.96.0.17");
}

#[test]
fn what_is_no_object_is_an_error() {
    for (text, expected) in [
        (
            "a: 1",
            "-, document 1 (line 1): object : kind: is missing: this is no Kubernetes object; nothing of the file is used until that is corrected",
        ),
        (
            "{kind: Service}",
            "-, document 1 (line 1): Service default/: metadata.name: is missing; nothing of the file is used until that is corrected",
        ),
    ] {
        let (sender, receiver) = source::channel();
        let error = run_once(text.to_owned(), "node1".into(), &sender).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(receiver.borrow().is_none());
    }
}

#[tokio::test]
async fn a_start_without_anything_usable_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let (sender, _receiver) = source::channel();
        let manifests = Manifests::new(&directory.path().join(name), "node1");
        async move { manifests.run(sender).await.unwrap_err() }
    };
    assert!(matches!(run("missing.yaml").await, Error::Read { .. }));
    fs::write(directory.path().join("bad.yaml"), "kind: [").unwrap();
    let error = run("bad.yaml").await;
    assert!(matches!(error, Error::Parse(_)));
    assert!(
        error.to_string().contains("bad.yaml, document 1: line 1"),
        "{error}"
    );
}
