use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::object::{label, strings, text};
use super::selector::{FieldSelector, LabelSelector};
use super::*;

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_795_335_000).unwrap()
}

fn store() -> Store {
    let mut store = Store::empty(Settings {
        pods_linger: true,
        ..Settings::default()
    });
    let namespace = json!({"metadata": {"name": "default"}});
    store.create(Kind::Namespace, namespace, now()).unwrap();
    store
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
}

fn add(store: &mut Store, name: &str) -> Object {
    store.create(Kind::Service, service(name), now()).unwrap()
}

fn name(name: &str) -> Name {
    Name::new("default", name)
}

fn label_it(store: &mut Store, of: &str, key: &str, value: Value) -> Object {
    let patch = json!({"metadata": {"labels": {key: value}}});
    store
        .update(Kind::Service, &name(of), Part::Main, |object| {
            json_patch::merge(object, &patch);
            Ok(())
        })
        .unwrap()
}

#[track_caller]
fn names(page: &Page) -> Vec<&str> {
    let names = page.objects.iter();
    names.map(|object| text(object, "/metadata/name")).collect()
}

#[test]
fn objects_get_what_the_server_gives_them() {
    let mut store = store();
    let object = add(&mut store, "a");
    assert_eq!(object["apiVersion"], "v1");
    assert_eq!(object["kind"], "Service");
    let metadata = &object["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["resourceVersion"], "3");
    assert_eq!(metadata["creationTimestamp"], "2026-11-22T08:10:00Z");
    assert_eq!(text(&object, "/metadata/uid").len(), 36);
    let generated = json!({"metadata": {"generateName": "b-"}, "addressType": "IPv4"});
    let slice = store.create(Kind::EndpointSlice, generated, now()).unwrap();
    assert_eq!(text(&slice, "/metadata/name").len(), 7);
    assert_eq!(slice["metadata"]["generation"], 1);
}

#[test]
fn nothing_is_created_twice_nor_without_its_namespace() {
    let mut store = store();
    add(&mut store, "a");
    let error = store
        .create(Kind::Service, service("a"), now())
        .unwrap_err();
    assert_eq!((error.code, error.reason), (409, "AlreadyExists"));
    let mut lost = service("b");
    lost["metadata"]["namespace"] = json!("nowhere");
    let error = store.create(Kind::Service, lost, now()).unwrap_err();
    assert_eq!(error.message, "namespaces \"nowhere\" not found");
    let error = store
        .create(Kind::Service, service("A_b"), now())
        .unwrap_err();
    assert_eq!(error.code, 422);
}

#[test]
fn an_update_that_changes_nothing_is_no_change() {
    let mut store = store();
    let before = add(&mut store, "a");
    let after = store
        .replace(Kind::Service, &name("a"), service("a"), Part::Main)
        .unwrap();
    assert_eq!(before, after);
    assert_eq!(store.revision(), 3);
}

#[test]
fn an_update_of_an_old_version_is_a_conflict() {
    let mut store = store();
    let old = add(&mut store, "a");
    label_it(&mut store, "a", "x", json!("y"));
    let error = store
        .replace(Kind::Service, &name("a"), old.as_ref().clone(), Part::Main)
        .unwrap_err();
    assert_eq!(error.code, 409);
    assert!(
        error.message.contains("the object has been modified"),
        "{error}"
    );
}

#[test]
fn status_and_the_rest_are_written_apart() {
    let mut store = store();
    add(&mut store, "a");
    let mut object = service("a");
    object["spec"]["type"] = json!("LoadBalancer");
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.77.0.5"}]}});
    let main = store
        .replace(Kind::Service, &name("a"), object.clone(), Part::Main)
        .unwrap();
    assert_eq!(main["status"], json!({"loadBalancer": {}}));
    object["spec"]["type"] = json!("NodePort");
    let status = store
        .replace(Kind::Service, &name("a"), object, Part::Status)
        .unwrap();
    assert_eq!(
        status["status"]["loadBalancer"]["ingress"][0]["ip"],
        "10.77.0.5"
    );
    assert_eq!(status["spec"]["type"], "LoadBalancer");
}

#[test]
fn generation_counts_changes_of_content() {
    let mut store = store();
    let mut slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4"});
    store
        .create(Kind::EndpointSlice, slice.clone(), now())
        .unwrap();
    slice["metadata"]["labels"] = json!({"a": "b"});
    let labelled = store.replace(Kind::EndpointSlice, &name("s"), slice.clone(), Part::Main);
    assert_eq!(labelled.unwrap()["metadata"]["generation"], 1);
    slice["endpoints"] = json!([{"addresses": ["10.0.0.1"]}]);
    let filled = store.replace(Kind::EndpointSlice, &name("s"), slice.clone(), Part::Main);
    assert_eq!(filled.unwrap()["metadata"]["generation"], 2);
    slice["endpoints"] = json!([{"addresses": ["fd00::1"]}]);
    let error = store
        .replace(Kind::EndpointSlice, &name("s"), slice, Part::Main)
        .unwrap_err();
    assert_eq!(error.code, 422);
}

#[test]
fn pages_show_one_version_whatever_happens_between_them() {
    let mut store = store();
    for name in ["a", "b", "c", "d", "e"] {
        add(&mut store, name);
    }
    let mut options = ListOptions {
        limit: 2,
        ..ListOptions::default()
    };
    let first = store.list(Kind::Service, &options).unwrap();
    assert_eq!((names(&first), first.remaining), (vec!["a", "b"], Some(3)));
    store
        .delete(Kind::Service, &name("c"), &DeleteOptions::default(), now())
        .unwrap();
    add(&mut store, "d2");
    label_it(&mut store, "d", "x", json!("y"));
    options.continuation = first.continuation;
    let second = store.list(Kind::Service, &options).unwrap();
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(label(&second.objects[1], "x"), None);
    assert_eq!(second.revision, first.revision);
    options.continuation = second.continuation.clone();
    let third = store.list(Kind::Service, &options).unwrap();
    assert_eq!(names(&third), ["e"]);
    assert_eq!(third.continuation, None);
    store.compact();
    options.continuation = second.continuation;
    let expired = store.list(Kind::Service, &options).unwrap_err();
    assert_eq!((expired.code, expired.reason), (410, "Expired"));
    options.continuation = expired.continuation;
    assert_eq!(
        names(&store.list(Kind::Service, &options).unwrap()),
        ["d2", "e"]
    );
    options.continuation = Some("nonsense".to_owned());
    assert_eq!(store.list(Kind::Service, &options).unwrap_err().code, 400);
}

#[test]
fn versions_of_lists_are_the_latest_exact_or_not_older() {
    let mut store = store();
    let first = add(&mut store, "a");
    add(&mut store, "b");
    let version: u64 = text(&first, "/metadata/resourceVersion").parse().unwrap();
    let list = |store: &Store, version, version_match, limit| {
        let options = ListOptions {
            version,
            version_match,
            limit,
            ..ListOptions::default()
        };
        store
            .list(Kind::Service, &options)
            .map(|page| names(&page).len())
    };
    assert_eq!(list(&store, None, None, 0), Ok(2));
    assert_eq!(list(&store, Some(0), None, 1), Ok(2));
    assert_eq!(
        list(&store, Some(version), Some(VersionMatch::Exact), 0),
        Ok(1)
    );
    assert_eq!(
        list(&store, Some(version), Some(VersionMatch::NotOlderThan), 0),
        Ok(2)
    );
    assert_eq!(list(&store, Some(version), None, 5), Ok(1));
    assert_eq!(list(&store, Some(99), None, 0).unwrap_err().code, 504);
    assert_eq!(
        list(&store, None, Some(VersionMatch::Exact), 0)
            .unwrap_err()
            .code,
        422
    );
    store.compact();
    let error = list(&store, Some(version), Some(VersionMatch::Exact), 0).unwrap_err();
    assert_eq!(error.code, 410);
}

#[test]
fn objects_come_and_go_in_a_watch_as_they_match() {
    let mut store = store();
    let selector = Selector {
        labels: LabelSelector::parse("!proxy").unwrap(),
        fields: FieldSelector::parse("spec.clusterIP!=None", Kind::Service.resource()).unwrap(),
        ..Selector::default()
    };
    add(&mut store, "a");
    label_it(&mut store, "a", "other", json!("x"));
    label_it(&mut store, "a", "proxy", json!("x"));
    label_it(&mut store, "a", "proxy", json!("y"));
    label_it(&mut store, "a", "proxy", Value::Null);
    store
        .delete(Kind::Service, &name("a"), &DeleteOptions::default(), now())
        .unwrap();
    let seen: Vec<_> = store
        .changes(Kind::Service, 0)
        .unwrap()
        .filter_map(|change| change.seen_through(&selector))
        .map(|(event, object)| {
            let version = text(&object, "/metadata/resourceVersion").to_owned();
            (event, version, label(&object, "proxy").is_some())
        })
        .collect();
    // The object that ceases to match is shown as it matched last, in the version of the change.
    let expected = [
        (EventType::Added, "3"),
        (EventType::Modified, "4"),
        (EventType::Deleted, "5"),
        (EventType::Added, "7"),
        (EventType::Deleted, "8"),
    ];
    assert_eq!(
        seen,
        expected.map(|(event, version)| (event, version.to_owned(), false))
    );
}

#[test]
fn a_compacted_version_is_gone_and_the_current_one_is_not() {
    let mut store = store();
    add(&mut store, "a");
    let revision = store.revision();
    store.compact();
    assert_eq!(store.changes(Kind::Service, revision).unwrap().count(), 0);
    let error = store.changes(Kind::Service, revision - 1).err().unwrap();
    assert_eq!(error.message, "too old resource version: 2 (3)");
}

#[test]
fn the_history_is_as_long_as_it_may_be() {
    let mut store = Store::empty(Settings {
        history_limit: 2,
        ..Settings::default()
    });
    for name in ["a", "b", "c"] {
        let node = json!({"metadata": {"name": name}});
        store.create(Kind::Node, node, now()).unwrap();
    }
    assert_eq!(store.changes(Kind::Node, 1).err().unwrap().code, 410);
    assert_eq!(store.changes(Kind::Node, 2).unwrap().count(), 2);
}

#[test]
fn a_pod_on_a_node_terminates_until_its_kubelet_lets_it_go() {
    let mut store = store();
    let pod = |name, node| json!({"metadata": {"name": name}, "spec": {"nodeName": node}});
    store.create(Kind::Pod, pod("a", "node1"), now()).unwrap();
    store.create(Kind::Pod, pod("b", ""), now()).unwrap();
    let delete = |store: &mut Store, of, grace| {
        let options = DeleteOptions {
            grace,
            ..DeleteOptions::default()
        };
        store.delete(Kind::Pod, &name(of), &options, now()).unwrap()
    };
    assert!(matches!(delete(&mut store, "b", None), Deletion::Gone(_)));
    let Deletion::Terminating(pod) = delete(&mut store, "a", None) else {
        panic!("gone at once");
    };
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(matches!(
        delete(&mut store, "a", None),
        Deletion::Terminating(_)
    ));
    assert!(matches!(
        delete(&mut store, "a", Some(0)),
        Deletion::Gone(_)
    ));
}

#[test]
fn a_finalizer_holds_an_object_until_it_is_taken_away() {
    let mut store = store();
    let node = json!({"metadata": {"name": "n", "finalizers": ["x"]}});
    store.create(Kind::Node, node, now()).unwrap();
    let of = Name::new("", "n");
    let deletion = store.delete(Kind::Node, &of, &DeleteOptions::default(), now());
    assert!(matches!(deletion, Ok(Deletion::Terminating(_))));
    let node = json!({"metadata": {"name": "n"}});
    store.replace(Kind::Node, &of, node, Part::Main).unwrap();
    assert_eq!(store.get(Kind::Node, &of), None);
}

#[test]
fn a_precondition_protects_a_successor() {
    let mut store = store();
    let object = add(&mut store, "a");
    let options = |uid: &str| DeleteOptions::of(&json!({"preconditions": {"uid": uid}}));
    let error = store
        .delete(Kind::Service, &name("a"), &options("other"), now())
        .unwrap_err();
    assert_eq!(error.code, 409);
    let uid = text(&object, "/metadata/uid");
    store
        .delete(Kind::Service, &name("a"), &options(uid), now())
        .unwrap();
}

#[test]
fn addresses_and_ports_of_the_deleted_are_free_again() {
    let mut store = store();
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 30_000}]});
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": spec});
    store.create(Kind::Service, service("a"), now()).unwrap();
    store
        .create(Kind::Service, service("b"), now())
        .unwrap_err();
    store
        .delete(Kind::Service, &name("a"), &DeleteOptions::default(), now())
        .unwrap();
    store.create(Kind::Service, service("b"), now()).unwrap();
}

#[test]
fn no_two_services_share_an_address() {
    let mut store = Store::empty(Settings {
        service_networks: vec!["10.0.0.0/29".parse().unwrap()],
        ..Settings::default()
    });
    store
        .create(
            Kind::Namespace,
            json!({"metadata": {"name": "default"}}),
            now(),
        )
        .unwrap();
    let mut seen = BTreeSet::new();
    for number in 0..6 {
        let service = add(&mut store, &format!("a{number}"));
        seen.extend(strings(&service, "/spec/clusterIPs"));
    }
    assert_eq!(seen.len(), 6);
    let error = store
        .create(Kind::Service, service("full"), now())
        .unwrap_err();
    assert!(error.message.contains("range is full"), "{error}");
}
