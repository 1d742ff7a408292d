//! What users change is effective within a second after kubectl has returned.

use lb_tests::apiserver::store::Kind;
use serde_json::json;

use super::answers::{Heard, expect};
use super::objects::{ADDRESS, NODE_PORT, service, slice};
use super::stage::{Stage, Wanted};
use lb_tests::scene::{CLUSTER_IPS, NODE_PORT as EXAMPLE_NODE_PORT, PORT};

/// The example of the documents.
const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/examples/alpaca-prod.yaml"
);
/// Its pods, at the addresses that it names.
const ALPACAS: [Wanted; 3] = [
    ("alpaca-1", 0, Some(["10.244.1.11", "fd00:10:244:1::11"])),
    ("alpaca-2", 0, Some(["10.244.1.12", "fd00:10:244:1::12"])),
    ("alpaca-3", 1, Some(["10.244.2.13", "fd00:10:244:2::13"])),
];

#[test]
fn s64_the_example_that_is_applied_changed_scaled_and_deleted_is_served_so_at_once() {
    let stage = Stage::new(2, &ALPACAS);
    let user = stage.user();
    let inside = || stage.inside(&CLUSTER_IPS, PORT);
    let outside = || stage.outside(EXAMPLE_NODE_PORT);
    let all = Heard::by(&["alpaca-1", "alpaca-2", "alpaca-3"]);
    let everywhere = [(inside(), all.clone()), (outside(), all.clone())];

    let at = user.apply_file(EXAMPLE);
    expect("applied", at, &everywhere);

    let at = user.patch(
        Kind::Service,
        "alpaca-prod",
        &json!({"spec": {"type": "ClusterIP"}}),
    );
    let no_port = [(inside(), all.clone()), (outside(), Heard::Refused)];
    expect("of type ClusterIP", at, &no_port);
    let at = user.apply_file(EXAMPLE);
    expect("of type NodePort again", at, &everywhere);

    let at = user.delete(Kind::Pod, &["alpaca-3"]);
    let two = Heard::by(&["alpaca-1", "alpaca-2"]);
    let less = [(inside(), two.clone()), (outside(), two)];
    expect("with two pods", at, &less);
    let at = user.apply_file(EXAMPLE);
    expect("with three pods again", at, &everywhere);
    let at = user.delete(Kind::Pod, &["alpaca-1", "alpaca-2", "alpaca-3"]);
    let none = [(inside(), Heard::Refused), (outside(), Heard::Refused)];
    expect("without pods", at, &none);
    let at = user.apply_file(EXAMPLE);
    expect("with all pods again", at, &everywhere);

    let at = user.delete(Kind::Service, &["alpaca-prod"]);
    let gone = [(inside(), Heard::Silence), (outside(), Heard::Refused)];
    expect("deleted", at, &gone);
}

/// A cluster of one node with a Service, and a slice for each of two pods.
fn by_hand() -> Stage {
    let stage = Stage::new(1, &[("pod-1", 0, None), ("pod-2", 0, None)]);
    let [one, two] = [0, 1].map(|pod| &stage.pods[pod]);
    let slices = [
        slice("hand-1", &[(one, Some("a"))]),
        slice("hand-2", &[(two, Some("b"))]),
    ];
    let [first, second] = slices;
    let at = stage.user().apply(&[service(), first, second]);
    let both = Heard::by(&["pod-1", "pod-2"]);
    expect("applied", at, &[(stage.inside(&[ADDRESS], PORT), both)]);
    stage
}

#[test]
fn s2_a_service_of_another_proxy_is_torn_down_and_restored() {
    const LABEL: &str = "service.kubernetes.io/service-proxy-name";
    let stage = by_hand();
    let user = stage.user();
    let (inside, outside) = (stage.inside(&[ADDRESS], PORT), stage.outside(NODE_PORT));
    // Only the families that it has have a port.
    let outside: Vec<_> = outside.into_iter().filter(|way| way.to.is_ipv4()).collect();

    let at = user.label(Kind::Service, "hand", LABEL, Some("another"));
    let gone = [
        (inside.clone(), Heard::Silence),
        (outside.clone(), Heard::Refused),
    ];
    expect("another proxy's", at, &gone);
    let at = user.label(Kind::Service, "hand", LABEL, None);
    let both = Heard::by(&["pod-1", "pod-2"]);
    expect("ours", at, &[(inside, both.clone()), (outside, both)]);
}

#[test]
fn s3_endpoints_of_a_slice_that_becomes_headless_vanish_and_come_back() {
    const LABEL: &str = "service.kubernetes.io/headless";
    let stage = by_hand();
    let user = stage.user();
    let answers = |heard| [(stage.inside(&[ADDRESS], PORT), heard)];
    let label = |slice, value| user.label(Kind::EndpointSlice, slice, LABEL, value);

    let at = label("hand-2", Some(""));
    expect("one headless", at, &answers(Heard::by(&["pod-1"])));
    let at = label("hand-1", Some(""));
    expect("both headless", at, &answers(Heard::Refused));
    let at = label("hand-2", None);
    expect("one back", at, &answers(Heard::by(&["pod-2"])));
}

#[test]
fn s4_a_service_becomes_an_external_name_and_is_served_again() {
    let stage = by_hand();
    let user = stage.user();
    let answers = |heard| [(stage.inside(&[ADDRESS], PORT), heard)];

    let name = json!({"spec": {"type": "ExternalName", "externalName": "alpaca.example"}});
    let at = user.patch(Kind::Service, "hand", &name);
    expect("an ExternalName", at, &answers(Heard::Silence));
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null, "clusterIP": ADDRESS}});
    let at = user.patch(Kind::Service, "hand", &back);
    expect("a ClusterIP", at, &answers(Heard::by(&["pod-1", "pod-2"])));
}

#[test]
fn s18_a_node_that_comes_into_another_zone_takes_the_endpoints_of_that_zone() {
    const ZONE: &str = "topology.kubernetes.io/zone";
    let stage = by_hand();
    let user = stage.user();
    let answers = |heard| [(stage.inside(&[ADDRESS], PORT), heard)];

    for (zone, pods) in [
        (Some("a"), &["pod-1"][..]),
        (Some("b"), &["pod-2"]),
        (None, &["pod-1", "pod-2"]),
    ] {
        let at = user.label(Kind::Node, "node1", ZONE, zone);
        expect(&format!("zone {zone:?}"), at, &answers(Heard::by(pods)));
    }
}
