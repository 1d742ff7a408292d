use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::*;
use crate::source::objects::{EndpointSlice, Node, Service, ServiceCidr};

type Services = Watched<Service, core::Service>;

fn service(name: &str, port: i64) -> Services {
    let object = json!({
        "metadata": {"namespace": "default", "name": name, "resourceVersion": "7"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]},
    });
    serde_json::from_value(object).unwrap()
}

fn names(fold: &Fold<Service>) -> Vec<&str> {
    fold.models().map(|(name, _)| name.name.as_str()).collect()
}

#[test]
fn a_fold_is_synced_by_its_first_whole_list() {
    let mut fold = Fold::<Service>::default();
    fold.apply::<core::Service>(Event::Init);
    fold.apply(Event::InitApply(service("a", 80)));
    assert!(!fold.is_synced());
    fold.apply::<core::Service>(Event::InitDone);
    assert!(fold.is_synced());
    assert_eq!(names(&fold), ["a"]);
}

#[test]
fn what_a_new_list_does_not_name_is_gone() {
    let mut fold = Fold::<Service>::default();
    fold.apply::<core::Service>(Event::Init);
    fold.apply(Event::InitApply(service("a", 80)));
    fold.apply(Event::InitApply(service("b", 80)));
    fold.apply::<core::Service>(Event::InitDone);
    fold.apply(Event::Apply(service("c", 80)));
    fold.apply::<core::Service>(Event::Init);
    // The list breaks off and is begun again.
    fold.apply(Event::InitApply(service("a", 80)));
    fold.apply::<core::Service>(Event::Init);
    fold.apply(Event::InitApply(service("b", 80)));
    assert_eq!(
        names(&fold),
        ["a", "b", "c"],
        "nothing goes before the list is whole"
    );
    fold.apply::<core::Service>(Event::InitDone);
    assert_eq!(names(&fold), ["b"]);
}

#[test]
fn changes_and_deletions_take_effect() {
    let mut fold = Fold::<Service>::default();
    fold.apply(Event::Apply(service("a", 80)));
    fold.apply(Event::Apply(service("a", 81)));
    let ports: Vec<_> = fold
        .models()
        .map(|(_, service)| service.ports[0].port)
        .collect();
    assert_eq!(ports, [81]);
    fold.apply(Event::Delete(service("a", 81)));
    assert_eq!(names(&fold), [""; 0]);
}

#[test]
fn rejections_go_with_their_object() {
    let mut fold = Fold::<Service>::default();
    fold.apply(Event::Apply(service("a", 80_000)));
    assert_eq!(fold.rejections().count(), 1);
    fold.apply(Event::Apply(service("a", 80)));
    assert_eq!(fold.rejections().count(), 0);
}

#[test]
fn a_hostile_object_never_costs_the_others() {
    let hostile = [
        "null",
        "7",
        "[]",
        "{}",
        r#"{"metadata": 3, "spec": []}"#,
        r#"{"metadata": {"name": 1, "labels": [2]}, "spec": {"ports": {"a": [{}]}}}"#,
        r#"{"metadata": {"name": "x", "labels": {"a": 1}, "creationTimestamp": "x", "managedFields": 3}}"#,
        r#"{"metadata": {"name": "y"}, "spec": {"clusterIPs": [1, null, {"a": 1}, "x"], "type": 3}}"#,
    ];
    for hostile in hostile {
        let list = format!(r#"[{hostile}, {{"metadata": {{"name": "good"}}}}]"#);
        let list: Vec<Services> = serde_json::from_str(&list).unwrap();
        let mut fold = Fold::<Service>::default();
        list.into_iter()
            .for_each(|service| drop(fold.apply(Event::Apply(service))));
        assert!(names(&fold).contains(&"good"), "{hostile}");
    }
}

#[derive(Deserialize)]
struct List<K> {
    items: Vec<K>,
}

#[derive(Deserialize)]
struct Line<K> {
    #[serde(rename = "type")]
    kind: String,
    object: K,
}

fn recorded(file: &str) -> String {
    let path = format!("{}/../tests/data/api/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Replays a recorded list through a fold; nothing in it may be rejected.
fn replay_list<O: Object, F>(file: &str) -> Fold<O>
where
    Watched<O, F>: DeserializeOwned,
{
    let list: List<Watched<O, F>> = serde_json::from_str(&recorded(file)).unwrap();
    let mut fold = Fold::default();
    fold.apply::<F>(Event::Init);
    list.items
        .into_iter()
        .for_each(|object| drop(fold.apply(Event::InitApply(object))));
    fold.apply::<F>(Event::InitDone);
    let rejections: Vec<_> = fold.rejections().map(ToString::to_string).collect();
    assert_eq!(rejections, [""; 0]);
    fold
}

/// Replays a recorded watch through a fold; nothing in it may be rejected at any time.
fn replay_watch<O: Object, F>(file: &str) -> Fold<O>
where
    Watched<O, F>: DeserializeOwned,
{
    let mut fold = Fold::default();
    for line in recorded(file).lines() {
        let line: Line<Watched<O, F>> = serde_json::from_str(line).unwrap();
        match line.kind.as_str() {
            "ADDED" | "MODIFIED" => fold.apply(Event::Apply(line.object)),
            "DELETED" => fold.apply(Event::Delete(line.object)),
            "BOOKMARK" => Vec::new(),
            kind => panic!("{kind}"),
        };
        assert_eq!(fold.rejections().count(), 0);
    }
    fold
}

fn contents<O: Object>(fold: &Fold<O>) -> Vec<(&ObjectName, &O::Model)> {
    fold.models()
        .map(|(name, model)| (name, &**model))
        .collect()
}

#[test]
fn recorded_watches_end_at_the_recorded_lists() {
    let list = replay_list::<Service, core::Service>("list-services.json");
    let watch = replay_watch::<Service, core::Service>("watch-services.jsonl");
    let streamed = replay_watch::<Service, core::Service>("watch-services-streaming-list.jsonl");
    assert!(
        contents(&watch)
            .iter()
            .all(|object| contents(&list).contains(object))
    );
    assert_eq!(contents(&watch), contents(&streamed));
    replay_watch::<Service, core::Service>("watch-services-from-rv1.jsonl");

    let list = replay_list::<EndpointSlice, discovery::EndpointSlice>("list-endpointslices.json");
    let watch =
        replay_watch::<EndpointSlice, discovery::EndpointSlice>("watch-endpointslices.jsonl");
    assert!(
        contents(&watch)
            .iter()
            .all(|object| contents(&list).contains(object))
    );
    assert!(contents(&watch).len() >= 10);
}

#[test]
fn recorded_pages_make_one_list() {
    let mut fold = Fold::<Service>::default();
    for file in ["list-services-page1.json", "list-services-page2.json"] {
        let list: List<Services> = serde_json::from_str(&recorded(file)).unwrap();
        list.items
            .into_iter()
            .for_each(|object| drop(fold.apply(Event::InitApply(object))));
    }
    assert_eq!(fold.models().count(), 6);
    assert_eq!(fold.rejections().count(), 0);
}

#[test]
fn recorded_services_say_what_was_applied() {
    let fold = replay_list::<Service, core::Service>("list-services.json");
    let find = |name: &str| {
        let found = fold.models().find(|(key, _)| key.name == name);
        found
            .map(|(_, service)| service.clone())
            .unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(find("alpaca-tutorial").ports[0].node_port, 30366);
    assert_eq!(find("dual").cluster_ips.len(), 2);
    assert_eq!(find("lb-local").load_balancer_ips.len(), 1);
    assert_eq!(find("lb-local").source_ranges.len(), 2);
    assert_eq!(find("sticky").affinity_timeout_s, None);
}

#[test]
fn recorded_slices_say_who_terminates() {
    let fold =
        replay_watch::<EndpointSlice, discovery::EndpointSlice>("watch-endpointslices.jsonl");
    let slices = contents(&fold);
    let (_, alpaca) = slices
        .iter()
        .find(|(name, _)| name.name == "alpaca-prod-vwg8s")
        .unwrap();
    assert_eq!(alpaca.service.to_string(), "default/alpaca-prod");
    let endpoints: Vec<_> = alpaca
        .slice
        .endpoints
        .iter()
        .map(|e| (e.addr.to_string(), e.ready, e.serving, e.terminating))
        .collect();
    assert!(endpoints.contains(&("10.244.1.12".to_owned(), false, true, true)));
    assert!(endpoints.contains(&("10.244.2.13".to_owned(), true, true, false)));
    assert!(slices.iter().all(|(name, _)| name.name != "manual-fqdn"));
}

#[test]
fn s69_recorded_slices_say_when_they_were_changed() {
    type Slices = Watched<EndpointSlice, discovery::EndpointSlice>;
    let mut fold = Fold::<EndpointSlice>::default();
    let lines = recorded("watch-endpointslices.jsonl");
    // The controller takes the annotation away again with a change that nothing triggered.
    for line in lines.lines().filter(|line| line.contains("T08:08:33Z\"},")) {
        let line: Line<Slices> = serde_json::from_str(line).unwrap();
        fold.apply(Event::Apply(line.object));
    }
    let times = fold.models().filter_map(|(_, owned)| owned.slice.triggered);
    assert_eq!(times.count(), 2);
}

#[test]
fn s44_recorded_service_networks_are_those_of_the_cluster() {
    let fold = replay_list::<ServiceCidr, networking::ServiceCIDR>("list-servicecidrs.json");
    let cidrs: Vec<_> = fold.models().flat_map(|(_, nets)| nets.iter()).collect();
    let expected = ["10.96.0.0/16", "fd00:10:96::/112"].map(|net| net.parse().unwrap());
    assert_eq!(cidrs, expected.iter().collect::<Vec<_>>());
}

#[test]
fn the_recorded_node_is_about_to_go() {
    let fold = replay_watch::<Node, core::Node>("watch-node.jsonl");
    let nodes = contents(&fold);
    let (name, node) = nodes[0];
    assert_eq!(
        (name.name.as_str(), node.zone.as_deref(), node.eligible),
        ("node1", Some("a"), false)
    );
    assert_eq!(
        replay_list::<Node, core::Node>("list-nodes.json")
            .models()
            .count(),
        2
    );
}
