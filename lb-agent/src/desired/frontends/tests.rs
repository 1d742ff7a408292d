use std::collections::BTreeSet;

use lb_common::protocol;

use super::*;
use crate::{
    desired::{
        ExternalIps, Rejection, Tables,
        fixture::{CLUSTER_IP, compile, desired, endpoint, ip, model, node, port, service},
    },
    model::ServiceKind,
};

/// All that can be dialled, as `address:port/protocol`.
fn dialled(tables: &Tables) -> BTreeSet<String> {
    let keys = tables.ports.values().flat_map(|port| port.frontends.keys());
    keys.map(|key| {
        let proto = protocol::name(key.protocol);
        format!("{}:{}/{proto}", key.addr, key.port)
    })
    .collect()
}

#[track_caller]
fn check(service: Service, node: &NodeView, expected: &[&str]) {
    let endpoints = ["10.244.2.1", "fd00:10:244::1"].map(endpoint);
    let (tables, rejections) = desired(service, endpoints, node);
    assert_eq!(rejections, []);
    let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
    assert_eq!(dialled(&tables), expected);
}

/// Checks that a Service is not served at an address, and that it is said why.
#[track_caller]
fn check_refused(service: Service, node: &NodeView, field: &str, reason: &str) {
    let (tables, rejections) = desired(service, [endpoint("10.244.2.1")], node);
    assert_eq!(dialled(&tables), [format!("{CLUSTER_IP}:80/TCP")].into());
    let [rejection] = &rejections[..] else {
        panic!("one rejection, not {rejections:?}");
    };
    let Rejection {
        object,
        field: found,
        reason: told,
        ..
    } = rejection;
    assert_eq!(
        (object.as_str(), found.as_str(), told.as_str()),
        ("Service default/web", field, reason)
    );
}

#[test]
fn s20_one_number_of_two_protocols_is_two_frontends() {
    let mut service = service();
    service.ports = vec![port(protocol::TCP), port(protocol::UDP)];
    let expected = ["10.96.0.1:80/TCP", "10.96.0.1:80/UDP"];
    check(service, &node(), &expected);
}

#[test]
fn s21_a_node_port_is_on_the_nodes_addresses_for_it_only() {
    let mut service = service();
    service.ports[0].node_port = 30_080;
    let expected = ["10.96.0.1:80/TCP", "192.168.0.1:30080/TCP"];
    check(service, &node(), &expected);
}

#[test]
fn s22_a_node_port_is_on_loopback_if_told_so() {
    let node = NodeView {
        localhost_node_ports: true,
        answers_echo: true,
        has_predecessor: false,
        ..node()
    };
    let mut service = service();
    service.cluster_ips.push(ip("fd00:10:96::1"));
    service.ports[0].node_port = 30_080;
    let expected = [
        "10.96.0.1:80/TCP",
        "127.0.0.1:30080/TCP",
        "192.168.0.1:30080/TCP",
        "::1:30080/TCP",
        "fd00:10:96::1:80/TCP",
        "fd00:77::1:30080/TCP",
    ];
    check(service, &node, &expected);
}

#[test]
fn s67_node_ports_and_addresses_are_served_in_the_families_that_the_service_has() {
    let mut service = service();
    service.cluster_ips = vec![ip("fd00:10:96::1")];
    service.external_ips = vec![ip("203.0.113.2"), ip("2001:db8::2")];
    service.load_balancer_ips = vec![ip("203.0.113.1"), ip("2001:db8::1")];
    service.ports[0].node_port = 30_080;
    let expected = [
        "2001:db8::1:80/TCP",
        "2001:db8::2:80/TCP",
        "fd00:10:96::1:80/TCP",
        "fd00:77::1:30080/TCP",
    ];
    check(service, &node(), &expected);
}

#[test]
fn s67_each_family_is_served_by_its_own_endpoints() {
    let mut service = service();
    service.cluster_ips.push(ip("fd00:10:96::1"));
    let endpoints = ["10.244.2.1", "fd00:10:244::1"].map(endpoint);
    let (tables, _) = desired(service, endpoints, &node());
    for port in tables.ports.values() {
        let backends: Vec<bool> = port.backends.values().map(|b| b.addr.is_v4()).collect();
        assert_eq!(backends, [port.name.is_v4]);
        assert!(
            port.frontends
                .keys()
                .all(|key| key.addr.is_v4() == port.name.is_v4)
        );
    }
}

#[test]
fn s23_a_load_balancers_addresses_are_served_at_the_ports_of_the_service() {
    let mut service = service();
    service.kind = ServiceKind::LoadBalancer;
    service.load_balancer_ips = vec![ip("203.0.113.1")];
    service.ports[0].node_port = 30_080;
    let with_node_port = [
        "10.96.0.1:80/TCP",
        "192.168.0.1:30080/TCP",
        "203.0.113.1:80/TCP",
    ];
    check(service.clone(), &node(), &with_node_port);
    // allocateLoadBalancerNodePorts (item 24)
    service.ports[0].node_port = 0;
    check(
        service,
        &node(),
        &["10.96.0.1:80/TCP", "203.0.113.1:80/TCP"],
    );
}

#[test]
fn s25_external_addresses_are_served_for_any_type_on_or_off_the_node() {
    let mut service = service();
    service.external_ips = vec![ip("203.0.113.2"), ip("192.168.0.1")];
    let expected = [
        "10.96.0.1:80/TCP",
        "192.168.0.1:80/TCP",
        "203.0.113.2:80/TCP",
    ];
    check(service, &node(), &expected);
}

#[test]
fn s25_external_addresses_that_are_not_allowed_are_refused() {
    let mut service = service();
    service.external_ips = vec![ip("203.0.113.2")];
    let allowing = |nets: &[&str]| NodeView {
        external_ips: ExternalIps::Within(nets.iter().map(|net| net.parse().unwrap()).collect()),
        ..node()
    };
    let reason = "203.0.113.2 is not allowed by --external-ips";
    for nets in [&[][..], &["198.51.100.0/24"]] {
        let node = allowing(nets);
        check_refused(service.clone(), &node, "spec.externalIPs", reason);
    }
    let served = ["10.96.0.1:80/TCP", "203.0.113.2:80/TCP"];
    check(service.clone(), &allowing(&["203.0.113.0/24"]), &served);
    service.load_balancer_ips = std::mem::take(&mut service.external_ips);
    check(service, &allowing(&[]), &served);
}

#[test]
fn s25_addresses_that_nobody_may_have_are_refused() {
    let node = NodeView {
        pod_networks: ["10.244.1.0/24".parse().unwrap()].into(),
        ..node()
    };
    for (addr, reason) in [
        (
            "127.0.0.1",
            "127.0.0.1: an address that no Service may have",
        ),
        (
            "169.254.1.1",
            "169.254.1.1: an address that no Service may have",
        ),
        (
            "224.0.0.1",
            "224.0.0.1: an address that no Service may have",
        ),
        ("0.0.0.0", "0.0.0.0: an address that no Service may have"),
        ("10.244.1.9", "10.244.1.9 is an address of this node's pods"),
    ] {
        let mut external = service();
        external.external_ips = vec![ip(addr)];
        check_refused(external, &node, "spec.externalIPs", reason);
        let mut balanced = service();
        balanced.load_balancer_ips = vec![ip(addr)];
        check_refused(balanced, &node, "status.loadBalancer", reason);
    }
}

#[test]
fn s25_a_cluster_address_of_another_service_is_refused_whoever_comes_first() {
    let thief = || {
        let mut thief = service();
        thief.cluster_ips = vec![ip("10.96.0.2")];
        thief.external_ips = vec![ip(CLUSTER_IP)];
        thief
    };
    for (of_thief, of_owner) in [("a", "b"), ("b", "a")] {
        let services = [
            (of_thief, thief(), vec![endpoint("10.244.2.1")]),
            (of_owner, service(), vec![endpoint("10.244.2.2")]),
        ];
        let (tables, rejections) = compile(&model(services), &node());
        let owned = ["10.96.0.1:80/TCP", "10.96.0.2:80/TCP"].map(str::to_owned);
        assert_eq!(dialled(&tables), owned.into());
        let key = FrontendKey::new(ip(CLUSTER_IP).into(), 80, protocol::TCP);
        let owner = tables
            .ports
            .values()
            .find(|port| port.frontends.contains_key(&key));
        assert_eq!(owner.unwrap().name.service.name, of_owner);
        let expected = format!("10.96.0.1 is the cluster address of default/{of_owner}");
        let reasons: Vec<_> = rejections.iter().map(|r| r.reason.as_str()).collect();
        assert_eq!(reasons, [expected]);
    }
}

#[test]
fn s26_a_service_without_an_address_or_with_a_name_for_another_is_not_served() {
    let mut headless = service();
    headless.cluster_ips.clear();
    headless.external_ips = vec![ip("203.0.113.2")];
    check(headless, &node(), &[]);
    let mut named = service();
    named.kind = ServiceKind::ExternalName;
    check(named, &node(), &[]);
}

#[test]
fn s20_sctp_is_served_where_no_port_has_to_be_translated() {
    let mut service = service();
    service.ports = vec![port(protocol::SCTP)];
    service.ports[0].port = 8000;
    check(service, &node(), &["10.96.0.1:8000/SCTP"]);
}

#[test]
fn s20_sctp_with_a_port_that_is_not_the_endpoints_is_refused() {
    let mut service = service();
    service.ports = vec![port(protocol::TCP), port(protocol::SCTP)];
    let reason = "80/SCTP: endpoints serve port 8000, and SCTP needs the same everywhere";
    check_refused(service, &node(), "spec.ports", reason);
}

#[test]
fn s21_a_node_port_of_sctp_is_refused_and_its_cluster_address_served() {
    let mut service = service();
    service.ports = vec![port(protocol::SCTP)];
    service.ports[0].port = 8000;
    service.ports[0].node_port = 30_080;
    let (tables, rejections) = desired(service, [endpoint("10.244.2.1")], &node());
    assert_eq!(dialled(&tables), ["10.96.0.1:8000/SCTP".to_owned()].into());
    let reasons: Vec<_> = rejections.iter().map(|r| r.reason.as_str()).collect();
    let reason = "30080/SCTP: endpoints serve port 8000, and SCTP needs the same everywhere";
    assert_eq!(reasons, [reason]);
}

#[test]
fn s28_two_services_that_want_one_external_address_and_port_do_not_share_it() {
    let external = |cluster_ip: &str| {
        let mut service = service();
        service.cluster_ips = vec![ip(cluster_ip)];
        service.external_ips = vec![ip("203.0.113.2")];
        service
    };
    let services = [
        ("a", external("10.96.0.1"), vec![endpoint("10.244.2.1")]),
        ("b", external("10.96.0.2"), vec![endpoint("10.244.2.2")]),
    ];
    let (_, rejections) = compile(&model(services), &node());
    let told: Vec<_> = rejections.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["Service default/b: 203.0.113.2:80/TCP is taken by default/a"]
    );
}

#[test]
fn s7_of_two_ports_with_one_name_the_first_is_served() {
    let mut service = service();
    service.ports.push(service.ports[0].clone());
    service.ports[1].port = 81;
    let reason = "tcp: another port has this name";
    check_refused(service, &node(), "spec.ports", reason);
}
