//! The cases of kube-proxy's test of the same choice, by their meaning, and some of our own.

use super::*;
use crate::{
    desired::{
        Scope::{Cluster, Local},
        fixture::{desired, frontend, service},
    },
    model::{SlicePort, TrafficPolicy},
};

const NODE: &str = "node-1";

/// Who uses which sets: the policies inside and outside; none outside for a Service that cannot
/// be reached from there.
#[derive(Clone, Copy)]
struct Policies {
    internal: TrafficPolicy,
    external: Option<TrafficPolicy>,
}

const INTERNAL_CLUSTER: Policies = Policies {
    internal: TrafficPolicy::Cluster,
    external: None,
};
const INTERNAL_LOCAL: Policies = Policies {
    internal: TrafficPolicy::Local,
    external: None,
};

fn policies(internal: Scope, external: Scope) -> Policies {
    let policy = |scope| match scope {
        Cluster => TrafficPolicy::Cluster,
        Local => TrafficPolicy::Local,
    };
    Policies {
        internal: policy(internal),
        external: Some(policy(external)),
    }
}

/// An endpoint in a few words: its last octet; `ready`, `unready`, or `leaving` (it serves while
/// it terminates), or `down` (it does not even serve); `here` if it is; `zone=` and `node=` for
/// its hints.
fn endpoint(words: &str) -> Endpoint {
    let mut words = words.split(' ');
    let last: u8 = words.next().unwrap().parse().expect("an octet");
    let mut endpoint = Endpoint {
        addr: [10, 0, 0, last].into(),
        ready: false,
        serving: true,
        terminating: false,
        node: None,
        for_zones: Default::default(),
        for_nodes: Default::default(),
    };
    for word in words {
        match word.split_once('=') {
            Some(("zone", zones)) => endpoint.for_zones = hints(zones),
            Some(("node", nodes)) => endpoint.for_nodes = hints(nodes),
            _ => match word {
                "ready" => endpoint.ready = true,
                "unready" => {}
                "leaving" => endpoint.terminating = true,
                "down" => endpoint.serving = false,
                "here" => endpoint.node = Some(NODE.into()),
                _ => panic!("{word}?"),
            },
        }
    }
    endpoint
}

fn hints(names: &str) -> Names {
    names.split(',').collect()
}

/// A case: the node's zone, who uses what, the endpoints; then the last octets of those in the
/// two sets, nothing for a set that nobody uses, and whether anybody could serve anywhere.
type Case<'a> = (
    &'a str,
    Policies,
    &'a [&'a str],
    Option<&'a [u8]>,
    Option<&'a [u8]>,
    bool,
);

#[track_caller]
fn check((zone, policies, endpoints, cluster, local, any): Case<'_>) {
    let mut service = service();
    service.internal_policy = policies.internal;
    match policies.external {
        Some(policy) => {
            service.external_policy = policy;
            service.ports[0].node_port = 30_080;
        }
        // Whatever it says, it is of no consequence.
        None => service.external_policy = TrafficPolicy::Local,
    }
    let node = NodeView {
        name: NODE.into(),
        zone: (zone != "-").then(|| zone.to_owned()),
        node_port_addresses: [[192, 168, 0, 1].into()].into(),
        ..NodeView::default()
    };
    let endpoints: Vec<Endpoint> = endpoints.iter().map(|words| endpoint(words)).collect();
    let (tables, rejections) = desired(service, endpoints, &node);
    assert_eq!(rejections, []);
    let (port, spec) = frontend(&tables, "10.96.0.1", 80);
    let octets = |scope| {
        let members = port.members(scope).iter();
        let addrs = members.map(|member| port.backends[&member.index()].addr.octets[15]);
        addrs.collect::<BTreeSet<u8>>()
    };
    let expected = |octets: Option<&[u8]>| octets.unwrap_or_default().iter().copied().collect();
    assert_eq!(octets(Cluster), expected(cluster), "cluster set");
    assert_eq!(octets(Local), expected(local), "local set");
    let specs = || port.frontends.values();
    let uses = |scope| specs().any(|spec| spec.outside == scope || spec.inside == scope);
    assert_eq!(uses(Cluster), cluster.is_some(), "use of the cluster set");
    assert_eq!(uses(Local), local.is_some(), "use of the local set");
    let has = spec.flags & lb_common::frontend::flags::HAS_ENDPOINTS != 0;
    assert_eq!(has, any, "any endpoint");
}

const ZONES: [&str; 4] = [
    "3 ready zone=a",
    "4 ready zone=b",
    "5 ready zone=c",
    "6 ready zone=a",
];
const ZONES_OF_TWO_HERE: [&str; 4] = [
    "3 ready here zone=a",
    "4 ready here zone=b",
    "5 ready zone=c",
    "6 ready zone=a",
];

#[test]
fn s17_endpoints_for_the_zone_of_the_node_are_preferred() {
    check(("a", INTERNAL_CLUSTER, &ZONES, Some(&[3, 6]), None, true));
    let several = [
        "3 ready zone=a,b,c",
        "4 ready zone=b,c",
        "5 ready zone=b,d",
        "6 ready zone=c",
    ];
    check((
        "c",
        INTERNAL_CLUSTER,
        &several,
        Some(&[3, 4, 6]),
        None,
        true,
    ));
}

#[test]
fn s14_hints_are_ignored_for_the_local_set() {
    for policies in [policies(Cluster, Local), policies(Local, Cluster)] {
        let (cluster, local) = (Some(&[3, 6][..]), Some(&[3, 4][..]));
        check(("a", policies, &ZONES_OF_TWO_HERE, cluster, local, true));
    }
    let conflict = [
        "0 ready here zone=a",
        "1 ready here zone=b",
        "2 ready zone=a",
        "3 ready zone=b",
    ];
    let (cluster, local) = (Some(&[0, 2][..]), Some(&[0, 1][..]));
    check((
        "a",
        policies(Cluster, Local),
        &conflict,
        cluster,
        local,
        true,
    ));
}

#[test]
fn s17_a_node_without_a_zone_prefers_nobody() {
    for zone in ["-", ""] {
        let (endpoints, cluster) = (["3 ready zone=a"], Some(&[3][..]));
        check((zone, INTERNAL_CLUSTER, &endpoints, cluster, None, true));
    }
}

#[test]
fn s17_a_zone_without_endpoints_prefers_nobody() {
    let endpoints = ["3 ready zone=a", "5 ready zone=c"];
    check(("b", INTERNAL_CLUSTER, &endpoints, Some(&[3, 5]), None, true));
}

#[test]
fn s17_hints_of_endpoints_that_are_not_ready_do_not_count() {
    let one_of_two = [
        "3 ready zone=a",
        "4 ready zone=b",
        "5 ready zone=c",
        "6 unready zone=a",
    ];
    check(("a", INTERNAL_CLUSTER, &one_of_two, Some(&[3]), None, true));
    let none_in_the_zone = [
        "3 unready zone=a",
        "4 ready zone=b",
        "5 ready zone=c",
        "6 unready zone=a",
    ];
    let cluster = Some(&[4, 5][..]);
    check((
        "a",
        INTERNAL_CLUSTER,
        &none_in_the_zone,
        cluster,
        None,
        true,
    ));
    let unhinted = ["3 ready zone=a", "4 ready zone=b", "5 unready"];
    check(("a", INTERNAL_CLUSTER, &unhinted, Some(&[3]), None, true));
}

#[test]
fn s17_hints_are_ignored_unless_all_ready_endpoints_have_them() {
    let endpoints = [
        "3 ready zone=a",
        "4 ready zone=b",
        "5 ready",
        "6 ready zone=a",
    ];
    let cluster = Some(&[3, 4, 5, 6][..]);
    check(("a", INTERNAL_CLUSTER, &endpoints, cluster, None, true));
    let endpoints = [
        "3 ready zone=a node=node-1",
        "4 ready",
        "5 ready zone=c node=node-3",
        "6 ready zone=a node=node-4",
    ];
    check(("a", INTERNAL_CLUSTER, &endpoints, cluster, None, true));
}

#[test]
fn s17_endpoints_for_the_node_are_preferred_to_those_for_its_zone() {
    let endpoints = [
        "3 ready zone=a node=node-1",
        "4 ready zone=b node=node-2",
        "5 ready zone=c node=node-3",
        "6 ready zone=a node=node-4",
    ];
    check(("a", INTERNAL_CLUSTER, &endpoints, Some(&[3]), None, true));
}

#[test]
fn s17_a_node_without_endpoints_of_its_own_prefers_its_zone() {
    let endpoints = [
        "3 ready zone=a node=node-7",
        "4 ready zone=b node=node-2",
        "5 ready zone=c node=node-3",
        "6 ready zone=a node=node-4",
    ];
    check(("a", INTERNAL_CLUSTER, &endpoints, Some(&[3, 6]), None, true));
}

#[test]
fn s17_zones_decide_where_some_have_no_node_hints() {
    let endpoints = [
        "3 ready zone=a node=node-1",
        "4 ready zone=a",
        "5 ready zone=b",
    ];
    check(("a", INTERNAL_CLUSTER, &endpoints, Some(&[3, 4]), None, true));
}

#[test]
fn s30_internal_policy_local_uses_local_endpoints_only() {
    check(("-", INTERNAL_LOCAL, &[], None, Some(&[]), false));
    let remote = ["0 ready", "1 ready"];
    check(("-", INTERNAL_LOCAL, &remote, None, Some(&[]), true));
    let local = ["0 ready here", "1 ready here"];
    check(("-", INTERNAL_LOCAL, &local, None, Some(&[0, 1]), true));
    let some = ["0 ready here", "1 ready"];
    check(("-", INTERNAL_LOCAL, &some, None, Some(&[0]), true));
    let other = ["0 ready", "1 ready here"];
    check(("-", INTERNAL_LOCAL, &other, None, Some(&[1]), true));
}

#[test]
fn s13_endpoints_that_are_not_ready_are_not_used() {
    let none = ["0 down", "1 unready"];
    check(("-", INTERNAL_CLUSTER, &none, Some(&[]), None, false));
    let one = ["0 down", "1 ready"];
    check(("-", INTERNAL_CLUSTER, &one, Some(&[1]), None, true));
}

#[test]
fn s13_where_nobody_is_ready_those_that_serve_while_they_terminate_do() {
    let endpoints = ["0 leaving here", "1 leaving"];
    check(("-", INTERNAL_CLUSTER, &endpoints, Some(&[0, 1]), None, true));
    let endpoints = [
        "0 leaving zone=a",
        "1 leaving zone=b",
        "2 unready",
        "3 leaving down",
    ];
    check(("a", INTERNAL_CLUSTER, &endpoints, Some(&[0, 1]), None, true));
}

#[test]
fn s33_each_policy_has_its_own_set() {
    let some_local = ["0 ready here", "1 ready"];
    for policies in [
        policies(Local, Cluster),
        policies(Cluster, Local),
        // Inside the node the external policy does not bind, so that there is use for all.
        policies(Local, Local),
    ] {
        let (cluster, local) = (Some(&[0, 1][..]), Some(&[0][..]));
        check(("-", policies, &some_local, cluster, local, true));
    }
    let remote = ["0 ready", "1 ready"];
    let cluster = Some(&[0, 1][..]);
    check((
        "-",
        policies(Local, Local),
        &remote,
        cluster,
        Some(&[]),
        true,
    ));
}

#[test]
fn s34_each_set_falls_back_to_terminating_endpoints_by_itself() {
    let remote = ["0 leaving", "1 leaving"];
    let cluster = Some(&[0, 1][..]);
    check((
        "-",
        policies(Local, Local),
        &remote,
        cluster,
        Some(&[]),
        true,
    ));
    let mixed = ["0 ready", "1 down here", "2 leaving here", "3 leaving"];
    let policies = policies(Cluster, Local);
    check(("-", policies, &mixed, Some(&[0]), Some(&[2]), true));
}

#[test]
fn s15_an_external_policy_without_external_frontends_is_of_no_consequence() {
    let endpoints = ["0 ready", "1 ready here"];
    check(("-", INTERNAL_CLUSTER, &endpoints, Some(&[0, 1]), None, true));
}

#[test]
fn s10_a_ready_endpoint_counts_though_it_terminates() {
    // publishNotReadyAddresses: the controller says ready of terminating pods.
    let endpoints = ["1 ready leaving here"];
    let policies = policies(Cluster, Local);
    check(("-", policies, &endpoints, Some(&[1]), Some(&[1]), true));
}

fn slice(port: (&str, u16), endpoints: impl IntoIterator<Item = Endpoint>) -> Slice {
    Slice {
        ports: vec![SlicePort {
            name: port.0.into(),
            protocol: 6,
            port: port.1,
        }],
        endpoints: endpoints.into_iter().collect(),
        triggered: None,
    }
}

#[test]
fn s8_of_two_mentions_the_one_that_is_not_terminating_wins() {
    for order in [["1 leaving", "1 ready"], ["1 ready", "1 leaving"]] {
        let slices = order.map(|words| slice(("web", 8000), [endpoint(words)]));
        let found = candidates(&slices, "web", 6, true, NODE);
        assert_eq!(found.len(), 1);
        assert!(found.values().all(|c| !c.endpoint.terminating));
    }
}

#[test]
fn s7_slices_are_joined_by_the_name_of_the_port_and_give_its_number() {
    let slices = [
        slice(("web", 8000), [endpoint("1 ready")]),
        slice(("web", 9000), [endpoint("2 ready")]),
        slice(("metrics", 8000), [endpoint("3 ready")]),
        slice(("web", 0), [endpoint("4 ready")]),
    ];
    let keys = |protocol| -> Vec<(IpAddr, u16)> {
        let found = candidates(&slices, "web", protocol, true, NODE);
        found.into_keys().collect()
    };
    let expected = [([10, 0, 0, 1].into(), 8000), ([10, 0, 0, 2].into(), 9000)];
    assert_eq!(keys(6), expected);
    assert_eq!(keys(17), []);
}

#[test]
fn s9_an_endpoint_without_a_node_is_remote() {
    let named = |node: Option<&str>| Endpoint {
        node: node.map(Into::into),
        ..endpoint("1 ready")
    };
    for (node, local) in [(Some(NODE), true), (Some("node-2"), false), (None, false)] {
        let slices = [slice(("web", 80), [named(node)])];
        let found = candidates(&slices, "web", 6, true, NODE);
        assert!(found.values().all(|c| c.local == local), "{node:?}");
    }
}
