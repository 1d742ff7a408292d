//! What a real API server said, said again.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_tests::apiserver::store::object::{metadata_mut, text};
use lb_tests::apiserver::store::{Kind, Name};
use lb_tests::apiserver::{ApiServer, Behaviour};
use serde_json::{Value, json};

use super::raw::get;

macro_rules! recorded {
    ($file:literal) => {
        include_str!(concat!("../../data/api/", $file))
    };
}

fn server() -> ApiServer {
    ApiServer::builder()
        .bare()
        .without_slices()
        .behaviour(Behaviour {
            watch_timeout: Duration::from_millis(200),
            ..Behaviour::default()
        })
        .start()
        .unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(json).collect()
}

/// Without what depends on when and in which version it was.
fn timeless(mut object: Value) -> Value {
    let metadata = metadata_mut(&mut object);
    for key in [
        "managedFields",
        "resourceVersion",
        "uid",
        "creationTimestamp",
        "generation",
    ] {
        metadata.remove(key);
    }
    object
}

/// Stores what a recorded watch tells.
fn replay(server: &ApiServer, kind: Kind, events: &[Value]) {
    for event in events {
        let object = event["object"].clone();
        match event["type"].as_str().unwrap() {
            "ADDED" | "MODIFIED" => drop(server.inject(kind, object)),
            "DELETED" => {
                let name = Name::of(&object);
                server.delete(kind, &name.namespace, &name.name).unwrap();
            }
            _ => {}
        }
    }
}

/// A watch of ours that tells a recorded one from its beginning.
#[track_caller]
fn check_watch(recorded: &str, kind: Kind, url: &str) {
    let server = server();
    let recorded = lines(recorded);
    let revision = server.read(lb_tests::apiserver::store::Store::revision);
    replay(&server, kind, &recorded);
    let watch = get(
        &server,
        &format!("{url}?watch=true&resourceVersion={revision}"),
    )
    .events();
    let told = recorded.iter().filter(|event| event["type"] != "BOOKMARK");
    let told: Vec<_> = told
        .map(|event| (event["type"].clone(), timeless(event["object"].clone())))
        .collect();
    let ours: Vec<_> = watch
        .into_iter()
        .map(|mut event| (event["type"].take(), timeless(event["object"].take())))
        .collect();
    assert_eq!(ours.len(), told.len());
    for (ours, told) in ours.into_iter().zip(told) {
        assert_eq!(ours, told);
    }
}

#[test]
fn recorded_watches_are_told_again() {
    check_watch(
        recorded!("watch-services.jsonl"),
        Kind::Service,
        "/api/v1/services",
    );
    check_watch(
        recorded!("watch-services-from-rv1.jsonl"),
        Kind::Service,
        "/api/v1/services",
    );
    check_watch(recorded!("watch-node.jsonl"), Kind::Node, "/api/v1/nodes");
    let slices = "/apis/discovery.k8s.io/v1/endpointslices";
    check_watch(
        recorded!("watch-endpointslices.jsonl"),
        Kind::EndpointSlice,
        slices,
    );
}

/// A list of ours with the objects of a recorded one.
#[track_caller]
fn check_list(recorded: &str, kind: Kind, url: &str) {
    let server = server();
    let mut recorded = json(recorded);
    for item in recorded["items"].as_array().unwrap() {
        let mut object = item.clone();
        object["kind"] = json!(kind.resource().kind);
        object["apiVersion"] = json!(kind.resource().api_version());
        server.inject(kind, object);
    }
    let mut list = get(&server, url).json();
    for list in [&mut list, &mut recorded] {
        list["metadata"] = json!({});
        for item in list["items"].as_array_mut().unwrap() {
            *item = timeless(item.take());
        }
    }
    assert_eq!(list, recorded);
}

#[test]
fn recorded_lists_are_listed_again() {
    check_list(
        recorded!("list-services.json"),
        Kind::Service,
        "/api/v1/services",
    );
    check_list(recorded!("list-nodes.json"), Kind::Node, "/api/v1/nodes");
    let cidrs = "/apis/networking.k8s.io/v1/servicecidrs";
    check_list(
        recorded!("list-servicecidrs.json"),
        Kind::ServiceCidr,
        cidrs,
    );
    let slices = "/apis/discovery.k8s.io/v1/endpointslices";
    check_list(
        recorded!("list-endpointslices.json"),
        Kind::EndpointSlice,
        slices,
    );
}

#[test]
fn pages_say_what_recorded_pages_say() {
    let server = server();
    for item in json(recorded!("list-services.json"))["items"]
        .as_array()
        .unwrap()
    {
        server.inject(Kind::Service, item.clone());
    }
    let keys = |list: &Value| -> BTreeSet<String> {
        list["metadata"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    };
    let (first, second) = (
        json(recorded!("list-services-page1.json")),
        json(recorded!("list-services-page2.json")),
    );
    let ours = get(&server, "/api/v1/services?limit=3").json();
    assert_eq!(keys(&ours), keys(&first));
    assert_eq!(ours["items"].as_array().unwrap().len(), 3);
    let token = text(&ours, "/metadata/continue");
    let ours = get(
        &server,
        &format!("/api/v1/services?limit=3&continue={token}"),
    )
    .json();
    assert_eq!(keys(&ours), keys(&second));
    assert_eq!(
        get(&server, "/api/v1/services?limit=3&continue=x").json()["reason"],
        "BadRequest"
    );
}

/// The objects that were applied then, applied to us through HTTP, are as they were then.
#[test]
fn applied_objects_get_what_they_got_from_the_real_server() {
    let server = server();
    let objects = recorded!("objects.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(objects).unwrap();
    for document in documents {
        let (kind, name) = (text(&document, "/kind").to_owned(), Name::of(&document));
        let applied = server.apply(document.clone());
        // The real server refused it, too: of two ports each must have a name.
        if name.name == "no-endpoints" {
            applied.unwrap_err();
            continue;
        }
        let ours = timeless(applied.unwrap().as_ref().clone());
        let file = match kind.as_str() {
            "Service" => recorded!("watch-services-from-rv1.jsonl"),
            _ => recorded!("watch-endpointslices.jsonl"),
        };
        let added = lines(file).into_iter().find(|event| {
            event["type"] == "ADDED" && event["object"]["metadata"]["name"] == name.name.as_str()
        });
        let mut real = timeless(added.unwrap()["object"].take());
        metadata_mut(&mut real).remove("annotations");
        let mut ours = ours;
        metadata_mut(&mut ours).remove("annotations");
        for object in [&mut real, &mut ours] {
            forget_allocated(object);
        }
        assert_eq!(ours, real);
    }
}

/// Addresses and ports that were drawn, not asked for; whether there are any still counts.
fn forget_allocated(service: &mut Value) {
    let Some(spec) = service.get_mut("spec") else {
        return;
    };
    for ip in spec["clusterIPs"].as_array_mut().into_iter().flatten() {
        if *ip != "None" {
            *ip = json!(ip.as_str().unwrap().contains(':'));
        }
    }
    if spec.get("clusterIP").is_some_and(|ip| *ip != "None") {
        spec["clusterIP"] = json!(true);
    }
    if spec.get("healthCheckNodePort").is_some() {
        spec["healthCheckNodePort"] = json!(true);
    }
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port.get("nodePort").is_some() {
            port["nodePort"] = json!(true);
        }
    }
    if spec["clusterIPs"].is_null() {
        spec.as_object_mut().unwrap().remove("clusterIPs");
    }
}
