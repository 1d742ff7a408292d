use serde_json::{Value, json};

use super::{
    api::{SERVICES, Server},
    service, times,
};
use crate::{
    event::{self, Event, Events},
    model::{Cause, ObjectName, Reference, Rejection},
    report::{Rejections, Reporter},
    source::kubernetes::{Connection, Kubernetes},
};

/// A server, and a way to tell it events.
async fn reporting() -> (Server, Events) {
    let server = Server::start().await;
    let connection = Connection {
        kubeconfig: None,
        servers: vec![server.address.clone()],
    };
    let source = Kubernetes::connect(&connection, "node1", times()).await;
    let (events, receiver) = event::channel();
    tokio::spawn(source.unwrap().publish_events(receiver));
    (server, events)
}

async fn written(server: &Server, count: usize) -> Vec<(String, String, Value)> {
    server.expect(|state| state.written.len() >= count).await;
    server.state.borrow().written.clone()
}

#[tokio::test]
async fn s57_the_node_has_an_event_that_we_start() {
    let (server, events) = reporting().await;
    events.send(Event::normal(Reference::node("node1"), "Starting", ""));
    let written = written(&server, 1).await;
    let (method, path, body) = &written[0];
    assert_eq!(method, "POST");
    assert!(path.starts_with("/apis/events.k8s.io/v1/namespaces/default/events"));
    assert_eq!(
        (&body["type"], &body["reason"]),
        (&json!("Normal"), &json!("Starting"))
    );
    assert_eq!(
        body["regarding"],
        json!({"apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "node1"})
    );
    // What the API server asks of an event.
    assert_eq!(body["reportingController"], "lb-agent");
    assert_eq!(body["reportingInstance"], "node1");
    for field in ["action", "eventTime"] {
        assert!(body[field].is_string(), "{body}");
    }
    assert!(
        body["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("node1.")
    );
}

fn rejection(cause: Cause) -> Rejection {
    let name = ObjectName::new("prod", "a");
    Rejection::of_service(&name, cause, "10.96.0.1:80/TCP is taken by prod/b")
}

#[tokio::test]
async fn a_rejection_becomes_a_warning_on_its_service() {
    let (server, events) = reporting().await;
    let mut object = service("a");
    object["metadata"]["uid"] = "5f0c".into();
    server.list(SERVICES, vec![service("b"), object]);
    let mut reporter = Reporter::new(events, Rejections::default());
    reporter.report([rejection(Cause::ConflictingFrontend)].into());
    let written = written(&server, 1).await;
    let (_, path, body) = &written[0];
    assert!(path.starts_with("/apis/events.k8s.io/v1/namespaces/prod/events"));
    assert_eq!(body["type"], "Warning");
    assert_eq!(body["reason"], "ConflictingFrontend");
    let regarding = &body["regarding"];
    assert_eq!(
        (&regarding["kind"], &regarding["name"]),
        (&json!("Service"), &json!("a"))
    );
    assert_eq!(regarding["uid"], "5f0c", "found by a list");
    let note = body["note"].as_str().unwrap();
    assert!(note.contains("taken by prod/b"), "{note}");
}

#[tokio::test]
async fn what_every_node_says_is_one_event() {
    let names = |written: &[(String, String, Value)]| {
        let bodies = written.iter().map(|(_, _, body)| &body["metadata"]["name"]);
        bodies.cloned().collect::<Vec<_>>()
    };
    let mut seen = Vec::new();
    for status in [201, 409] {
        let (server, events) = reporting().await;
        server.list(SERVICES, vec![]);
        server
            .state
            .send_modify(|state| state.write_status = status);
        let mut reporter = Reporter::new(events, Rejections::default());
        reporter.report([rejection(Cause::ConflictingFrontend)].into());
        reporter.report([].into());
        reporter.report([rejection(Cause::ConflictingFrontend)].into());
        reporter.report([rejection(Cause::UnsupportedFeature)].into());
        let is_last =
            |(_, _, body): &(String, String, Value)| body["reason"] == "UnsupportedFeature";
        server
            .expect(|state| state.written.iter().any(is_last))
            .await;
        let written = written(&server, 2).await;
        assert_eq!(written.len(), 2, "a repetition says nothing new");
        seen.push(names(&written));
    }
    assert_eq!(seen[0], seen[1], "by whatever node");
}

#[tokio::test]
async fn an_event_of_this_node_that_comes_again_is_a_series() {
    let (server, events) = reporting().await;
    let event = Event::warning(Reference::node("node1"), "XDPFallback", "eth0");
    (0..3).for_each(|_| events.send(event.clone()));
    let written = written(&server, 3).await;
    let name = written[0].2["metadata"]["name"].as_str().unwrap();
    for (count, (method, path, body)) in (2..).zip(&written[1..]) {
        assert_eq!(method, "PATCH");
        assert!(path.contains(name), "{path}");
        assert_eq!(body["series"]["count"], count);
    }
}

#[tokio::test]
async fn an_event_is_tried_again_and_a_refused_one_is_not() {
    let (server, events) = reporting().await;
    server.state.send_modify(|state| state.write_status = 503);
    events.send(Event::normal(Reference::node("node1"), "Starting", "1"));
    written(&server, 2).await;
    server.state.send_modify(|state| state.write_status = 403);
    events.send(Event::normal(Reference::node("node1"), "Starting", "2"));
    events.send(Event::normal(Reference::node("node1"), "Starting", "3"));
    let is_last = |(_, _, body): &(String, String, Value)| body["note"] == "3";
    server
        .expect(|state| state.written.iter().any(is_last))
        .await;
    let state = server.state.borrow();
    let second = state
        .written
        .iter()
        .filter(|(_, _, body)| body["note"] == "2");
    assert_eq!(second.count(), 1);
}
