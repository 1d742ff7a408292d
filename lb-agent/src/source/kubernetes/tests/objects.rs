use std::net::IpAddr;

use serde_json::json;
use tokio::time::timeout;

use super::{
    QUIET,
    api::{Api, CIDRS, Fault, NODES, SERVICES, SLICES, What},
    cidr, named, node, service, slice,
};
use crate::{
    model::ServiceKind,
    source::{Role, Snapshot},
};

#[tokio::test]
async fn s11_nothing_is_published_before_all_lists_are_in() {
    let mut api = Api::start().await;
    api.server.list(SERVICES, vec![service("a")]);
    api.server.list(SLICES, vec![slice("a")]);
    api.server.list(CIDRS, vec![cidr("10.96.0.0/16")]);
    api.server.expect(|state| state.requests.len() >= 4).await;
    assert!(
        timeout(QUIET, api.receiver.changed()).await.is_err(),
        "the node is missing"
    );
    api.server.list(NODES, vec![node("a")]);
    let snapshot = api.expect_services(&["a"]).await;
    assert_eq!(snapshot.model.slices.len(), 1);
    assert_eq!(snapshot.model.node.as_ref().unwrap().internal_ips.len(), 1);
}

#[tokio::test]
async fn s1_what_a_proxy_watches_is_watched_and_nothing_else() {
    let api = Api::synced(&["a"]).await;
    let state = api.server.state.borrow();
    let mut paths: Vec<_> = state
        .requests
        .iter()
        .map(|(_, url)| url.split('?').next().unwrap())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(
        paths,
        [
            "/api/v1/nodes",
            "/api/v1/services",
            "/apis/discovery.k8s.io/v1/endpointslices",
            "/apis/networking.k8s.io/v1/servicecidrs",
        ]
    );
}

/// Lists by stream and in pages, and watches anew, so that all three kinds of requests are made.
async fn with_all_requests(role: Role) -> Api {
    let mut api = Api::start_as(role).await;
    for kind in [SERVICES, SLICES, NODES] {
        api.server.plan(kind, |what, count| match what {
            What::Stream => Some(Fault::Status(422)),
            What::Watch => (count == 0).then_some(Fault::Empty),
            What::Page => None,
        });
    }
    api.server.list_all(&["a"]);
    api.expect_services(&["a"]).await;
    let all = [What::Stream, What::Page, What::Watch];
    for kind in [SERVICES, SLICES, NODES] {
        let server = api.server.clone();
        api.server
            .expect(|_| all.iter().all(|what| server.whats(kind).contains(what)))
            .await;
    }
    api
}

#[track_caller]
fn check_selectors(api: &Api, kind: usize, labels: Option<&str>, fields: Option<&str>) {
    for (_, url) in api.server.requests(kind) {
        let value = |name: &str| {
            let query = url.split('?').nth(1).unwrap();
            query.split('&').find_map(|pair| pair.strip_prefix(name))
        };
        assert_eq!(value("labelSelector="), labels, "{url}");
        assert_eq!(value("fieldSelector="), fields, "{url}");
    }
}

#[tokio::test]
async fn s2_services_of_no_other_proxy_with_an_address_are_watched() {
    let api = with_all_requests("node1".into()).await;
    let labels = "%21service.kubernetes.io%2Fservice-proxy-name";
    let fields = "spec.clusterIP%21%3DNone";
    check_selectors(&api, SERVICES, Some(labels), Some(fields));
    check_selectors(&api, NODES, None, Some("metadata.name%3Dnode1"));
}

#[tokio::test]
async fn s2_a_proxy_with_a_name_watches_what_is_handed_over_to_it() {
    let api = with_all_requests(named("ours")).await;
    let labels = "service.kubernetes.io%2Fservice-proxy-name%3Dours";
    let fields = "spec.clusterIP%21%3DNone";
    check_selectors(&api, SERVICES, Some(labels), Some(fields));
    let headless = "%21service.kubernetes.io%2Fheadless";
    check_selectors(&api, SLICES, Some(headless), None);
}

#[tokio::test]
async fn s2_a_service_that_is_handed_over_goes_and_comes_back() {
    let mut api = Api::synced(&["a", "b"]).await;
    // What no longer fits the selector is as good as deleted.
    api.server.send(SERVICES, "DELETED", service("a"));
    api.expect_services(&["b"]).await;
    api.server.send(SERVICES, "ADDED", service("a"));
    api.expect_services(&["a", "b"]).await;
}

#[tokio::test]
async fn s3_slices_that_are_not_headless_are_watched() {
    let api = with_all_requests("node1".into()).await;
    let headless = "%21service.kubernetes.io%2Fheadless";
    check_selectors(&api, SLICES, Some(headless), None);
}

#[tokio::test]
async fn s3_the_endpoints_of_a_slice_that_becomes_headless_vanish() {
    let mut api = Api::synced(&["a"]).await;
    api.server.send(SLICES, "DELETED", slice("a"));
    api.expect(|snapshot| snapshot.model.slices.is_empty())
        .await;
    api.server.send(SLICES, "ADDED", slice("a"));
    api.expect(|snapshot| snapshot.model.slices.len() == 1)
        .await;
}

#[tokio::test]
async fn s4_a_change_of_type_takes_effect() {
    let mut api = Api::synced(&["a"]).await;
    let kinds = |snapshot: &Snapshot| {
        let services = snapshot.model.services.values();
        services.map(|service| service.kind).collect::<Vec<_>>()
    };
    for (kind, expected) in [
        ("ExternalName", ServiceKind::ExternalName),
        ("NodePort", ServiceKind::NodePort),
        ("ClusterIP", ServiceKind::ClusterIp),
    ] {
        let mut object = service("a");
        object["spec"]["type"] = kind.into();
        api.server.send(SERVICES, "MODIFIED", object);
        api.expect(|snapshot| kinds(snapshot) == [expected]).await;
    }
}

#[tokio::test]
async fn s5_s6_slices_of_no_service_and_of_names_do_not_count() {
    let mut nobodys = slice("a");
    nobodys["metadata"]["labels"] = json!({});
    let mut names = slice("b");
    names["addressType"] = "FQDN".into();
    names["endpoints"] = json!([{"addresses": ["db.example.com"]}]);
    let mut by_hand = slice("c");
    by_hand["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = "somebody".into();
    let mut api = Api::start().await;
    api.server.list_all(&["a"]);
    for (i, slice) in [&mut nobodys, &mut names, &mut by_hand]
        .into_iter()
        .enumerate()
    {
        slice["metadata"]["name"] = format!("slice-{i}").into();
    }
    api.server.list(SLICES, vec![nobodys, names, by_hand]);
    let snapshot = api.expect_services(&["a"]).await;
    let of: Vec<_> = snapshot
        .model
        .slices
        .keys()
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(of, ["c"]);
    assert_eq!(snapshot.rejections, []);
}

#[tokio::test]
async fn s7_a_service_has_the_ports_and_endpoints_of_all_its_slices() {
    let mut other = slice("a");
    other["metadata"]["name"] = "other".into();
    other["ports"] = json!([{"name": "", "protocol": "TCP", "port": 9090}]);
    let mut api = Api::start().await;
    api.server.list_all(&["a"]);
    api.server.list(SLICES, vec![slice("a"), other]);
    let snapshot = api.expect_services(&["a"]).await;
    let (_, slices) = snapshot.model.slices.get_min().unwrap();
    let ports = slices
        .iter()
        .map(|(name, slice)| (name, slice.ports[0].port));
    assert_eq!(
        ports.collect::<Vec<_>>(),
        [("other", 9090), ("slice", 8080)]
    );
}

#[tokio::test]
async fn s67_s68_both_families_come_through_however_they_are_written() {
    let mut dual = service("a");
    dual["spec"] = json!({"clusterIP": "010.096.000.007",
        "clusterIPs": ["010.096.000.007", "FD00:10:96:0::7"],
        "externalIPs": ["192.000.002.001", "2001:db8::1"], "ports": [{"port": 80}]});
    let mut api = Api::start().await;
    api.server.list_all(&["a"]);
    api.server.list(SERVICES, vec![dual]);
    let snapshot = api.expect_services(&["a"]).await;
    let (_, service) = snapshot.model.services.get_min().unwrap();
    let text = |addrs: &[IpAddr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&service.cluster_ips), ["10.96.0.7", "fd00:10:96::7"]);
    assert_eq!(text(&service.external_ips), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(snapshot.rejections, []);
}

#[tokio::test]
async fn events_become_models() {
    let mut api = Api::synced(&["a"]).await;
    api.server.send(SERVICES, "ADDED", service("b"));
    api.expect_services(&["a", "b"]).await;
    api.server.send(SERVICES, "DELETED", service("a"));
    api.expect_services(&["b"]).await;
}

#[tokio::test]
async fn s12_what_is_equal_is_not_published_again() {
    let mut api = Api::synced(&["a"]).await;
    api.receiver.mark_unchanged();
    let mut same = service("a");
    same["metadata"]["annotations"] = json!({"example.com/note": "x"});
    api.server.send(SERVICES, "MODIFIED", same);
    let mut same = slice("a");
    same["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"});
    api.server.send(SLICES, "MODIFIED", same);
    assert!(timeout(QUIET, api.receiver.changed()).await.is_err());
    api.server.send(SERVICES, "ADDED", service("b"));
    api.expect_services(&["a", "b"]).await;
}

#[tokio::test]
async fn s12_a_new_list_of_the_same_is_not_published_again() {
    let mut api = Api::synced(&["a"]).await;
    api.receiver.mark_unchanged();
    let lists = |whats: Vec<What>| whats.iter().filter(|what| **what == What::Stream).count();
    let before = lists(api.server.whats(SERVICES));
    api.server.set(SERVICES, |state| {
        state.events.push(json!(null));
        state.oldest = state.events.len();
    });
    let server = api.server.clone();
    api.server
        .expect(|_| lists(server.whats(SERVICES)) > before)
        .await;
    assert!(timeout(QUIET, api.receiver.changed()).await.is_err());
}

#[tokio::test]
async fn s18_a_node_that_moves_to_another_zone_is_published() {
    let mut api = Api::synced(&["a"]).await;
    let zone = |snapshot: &Snapshot| snapshot.model.node.as_ref().unwrap().zone.clone();
    api.expect(|snapshot| zone(snapshot).as_deref() == Some("a"))
        .await;
    api.server.send(NODES, "MODIFIED", node("b"));
    api.expect(|snapshot| zone(snapshot).as_deref() == Some("b"))
        .await;
}

fn cidrs(snapshot: &Snapshot) -> Vec<String> {
    let cidrs = snapshot.model.service_cidrs.iter();
    cidrs.map(ToString::to_string).collect()
}

#[tokio::test]
async fn s44_service_networks_are_those_of_the_objects() {
    let mut api = Api::synced(&["a"]).await;
    api.expect(|snapshot| cidrs(snapshot) == ["10.96.0.0/16"])
        .await;
    let mut more = cidr("10.112.0.0/16");
    more["metadata"]["name"] = "more".into();
    api.server.send(CIDRS, "ADDED", more.clone());
    api.expect(|snapshot| cidrs(snapshot) == ["10.96.0.0/16", "10.112.0.0/16"])
        .await;
    api.server.send(CIDRS, "DELETED", more);
    api.expect(|snapshot| cidrs(snapshot) == ["10.96.0.0/16"])
        .await;
}

#[tokio::test]
async fn s44_a_cluster_without_service_networks_is_served_nonetheless() {
    for fault in [Fault::Status(404), Fault::Status(403)] {
        let mut api = Api::start().await;
        match fault {
            Fault::Status(404) => api.server.plan(CIDRS, |_, _| Some(Fault::Status(404))),
            _ => api.server.plan(CIDRS, |_, _| Some(Fault::Status(403))),
        }
        api.server.list_all(&["a"]);
        let snapshot = api.expect_services(&["a"]).await;
        assert_eq!(cidrs(&snapshot), [""; 0]);
        // The API may come.
        api.server.set(CIDRS, |state| state.plan = None);
        api.expect(|snapshot| cidrs(snapshot) == ["10.96.0.0/16"])
            .await;
    }
}

#[tokio::test]
async fn s44_given_networks_are_not_asked_for() {
    let role = Role {
        service_cidrs: ["10.97.0.0/16".parse().unwrap()].into(),
        ..Role::from("node1")
    };
    let mut api = Api::start_as(role).await;
    api.server.list_all(&["a"]);
    let snapshot = api.expect_services(&["a"]).await;
    assert_eq!(cidrs(&snapshot), ["10.97.0.0/16"]);
    assert_eq!(api.server.requests(CIDRS), []);
}

#[tokio::test]
async fn a_hostile_object_costs_neither_list_nor_watch() {
    let mut api = Api::start().await;
    api.server.list(NODES, vec![node("a")]);
    let hostile = json!({"metadata": {"name": 1}, "endpoints": "x"});
    api.server.list(SLICES, vec![hostile, slice("a")]);
    let hostile = json!({"metadata": {"name": "x"}, "spec": {"cidrs": [1, {}, "10.0.0.0/99"]}});
    api.server.list(
        CIDRS,
        vec![json!(null), hostile, json!(3), cidr("10.96.0.0/16")],
    );
    let hostile = json!({"metadata": {"name": "x", "resourceVersion": "1"}, "spec": {"ports": 7}});
    api.server.list(
        SERVICES,
        vec![json!(null), json!([1]), service("a"), hostile.clone()],
    );
    let snapshot = api.expect(|s| s.model.services.len() >= 2).await;
    let is_rejected = |object: &str, field: &str| {
        let mut rejections = snapshot.rejections.iter();
        rejections.any(|r| r.object == object && r.field == field)
    };
    assert!(is_rejected("Service x", "spec.ports"));
    assert!(is_rejected("ServiceCIDR x", "spec.cidrs[2]"));
    assert_eq!(cidrs(&snapshot), ["10.96.0.0/16"]);
    for hostile in [
        json!({"metadata": {"name": "x", "resourceVersion": "1"}, "spec": []}),
        json!({"metadata": {"name": "y"}}),
        json!(null),
        json!("x"),
    ] {
        api.server.send(SERVICES, "MODIFIED", hostile.clone());
        api.server.send(CIDRS, "MODIFIED", hostile);
    }
    api.server.send(SERVICES, "ADDED", service("b"));
    let mut more = cidr("10.97.0.0/16");
    more["metadata"]["name"] = "more".into();
    api.server.send(CIDRS, "ADDED", more);
    let has_b = |s: &Snapshot| s.model.services.keys().any(|name| name.name == "b");
    api.expect(|s| has_b(s) && s.model.service_cidrs.len() == 2)
        .await;
}
