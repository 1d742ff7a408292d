use super::*;
use crate::{
    desired::fixture::{
        CLUSTER_IP, compile, desired, endpoint, failing, frontend, ip, local_endpoint, model, node,
        port, service, terminating,
    },
    model::{Algorithm, Endpoint, TrafficPolicy},
};

const ACTIVE: u8 = BackendState::Active as u8;
const TERMINATING: u8 = BackendState::Terminating as u8;
const GONE: u8 = BackendState::Gone as u8;

/// States and sets of a port's backends, in the order of their addresses.
fn states(port: &Port) -> Vec<(u8, u8)> {
    let mut backends: Vec<_> = port.backends.values().collect();
    backends.sort_unstable_by_key(|backend| backend.addr);
    backends.iter().map(|b| (b.state, b.sets)).collect()
}

fn node_port_service(external_policy: TrafficPolicy) -> Service {
    let mut service = service();
    service.kind = ServiceKind::NodePort;
    service.external_policy = external_policy;
    service.ports[0].node_port = 30_080;
    service
}

#[test]
fn s15_the_last_local_endpoint_stays_active_for_local_clients_only() {
    let endpoints = || {
        let local = local_endpoint("10.244.1.1");
        [terminating(local), endpoint("10.244.2.1")]
    };
    let states = |policy| {
        let (tables, _) = desired(node_port_service(policy), endpoints(), &node());
        states(frontend(&tables, CLUSTER_IP, 80).0)
    };
    assert_eq!(
        states(TrafficPolicy::Local),
        [(ACTIVE, sets::LOCAL), (ACTIVE, sets::CLUSTER)]
    );
    assert_eq!(
        states(TrafficPolicy::Cluster),
        [(TERMINATING, 0), (ACTIVE, sets::CLUSTER)]
    );
}

#[test]
fn s15_a_backend_says_in_which_sets_it_is() {
    let endpoints = [local_endpoint("10.244.1.1"), endpoint("10.244.2.1")];
    let service = node_port_service(TrafficPolicy::Local);
    let (tables, _) = desired(service, endpoints, &node());
    let (port, _) = frontend(&tables, CLUSTER_IP, 80);
    assert_eq!(
        states(port),
        [
            (ACTIVE, sets::CLUSTER | sets::LOCAL),
            (ACTIVE, sets::CLUSTER)
        ]
    );
}

#[track_caller]
fn check_states(protocol: u8, endpoints: impl IntoIterator<Item = Endpoint>, expected: &[u8]) {
    let mut service = service();
    service.ports = vec![port(protocol)];
    let (tables, _) = desired(service, endpoints, &node());
    let (port, _) = frontend(&tables, CLUSTER_IP, 80);
    let states: Vec<u8> = states(port).into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, expected);
}

#[test]
fn s59_a_udp_flow_leaves_an_endpoint_that_does_not_serve_if_another_does() {
    let endpoints = || [failing(endpoint("10.244.2.1")), endpoint("10.244.2.2")];
    check_states(protocol::UDP, endpoints(), &[GONE, ACTIVE]);
    check_states(protocol::TCP, endpoints(), &[TERMINATING, ACTIVE]);
}

#[test]
fn s59_an_endpoint_that_serves_keeps_its_udp_flows_while_it_terminates() {
    let endpoints = [terminating(endpoint("10.244.2.1")), endpoint("10.244.2.2")];
    check_states(protocol::UDP, endpoints, &[TERMINATING, ACTIVE]);
}

#[test]
fn s59_udp_flows_stay_where_they_are_while_no_endpoint_serves() {
    let endpoints = [
        failing(endpoint("10.244.2.1")),
        failing(endpoint("10.244.2.2")),
    ];
    check_states(protocol::UDP, endpoints, &[TERMINATING, TERMINATING]);
}

/// Flags of the cluster address's frontend and of the node port's.
fn flags_of(service: Service, endpoints: impl IntoIterator<Item = Endpoint>) -> [u32; 2] {
    let (tables, rejections) = desired(service, endpoints, &node());
    assert_eq!(rejections, []);
    let flags = |(addr, number)| frontend(&tables, addr, number).1.flags;
    [(CLUSTER_IP, 80), ("192.168.0.1", 30_080)].map(flags)
}

#[test]
fn s32_clients_of_the_node_use_all_backends_whatever_the_external_policy() {
    let mut service = node_port_service(TrafficPolicy::Local);
    service.external_ips = vec![ip("203.0.113.2")];
    service.load_balancer_ips = vec![ip("203.0.113.1")];
    let (tables, _) = desired(service, [endpoint("10.244.2.1")], &node());
    for (addr, number) in [
        ("192.168.0.1", 30_080),
        ("203.0.113.1", 80),
        ("203.0.113.2", 80),
    ] {
        let (port, spec) = frontend(&tables, addr, number);
        assert_eq!((spec.outside, spec.inside), (Scope::Local, Scope::Cluster));
        assert_eq!(port.members(spec.outside).len(), 0, "nobody here");
        assert_eq!(port.members(spec.inside).len(), 1);
    }
}

#[test]
fn s31_policies_are_told_by_side() {
    let mut service = node_port_service(TrafficPolicy::Local);
    let endpoints = || [endpoint("10.244.2.1")];
    let has = flags::HAS_ENDPOINTS;
    assert_eq!(
        flags_of(service.clone(), endpoints()),
        [has, has | flags::NODE_PORT | flags::OUTSIDE_LOCAL],
        "inside the node the external policy does not bind"
    );
    service.external_policy = TrafficPolicy::Cluster;
    service.internal_policy = TrafficPolicy::Local;
    assert_eq!(
        flags_of(service, endpoints()),
        [
            has | flags::OUTSIDE_LOCAL | flags::INSIDE_LOCAL,
            has | flags::NODE_PORT
        ],
        "the internal policy binds at the cluster address only"
    );
}

#[test]
fn s41_a_port_without_a_usable_endpoint_anywhere_is_told_from_one_without_a_local_one() {
    let service = || node_port_service(TrafficPolicy::Local);
    let has = |endpoints: &[Endpoint]| {
        let [_, flags] = flags_of(service(), endpoints.to_vec());
        flags & flags::HAS_ENDPOINTS != 0
    };
    assert!(!has(&[]));
    assert!(!has(&[failing(endpoint("10.244.2.1"))]));
    assert!(has(&[endpoint("10.244.2.1")]));
    assert!(has(&[terminating(endpoint("10.244.2.1"))]));
}

#[test]
fn s19_an_algorithm_by_chance_is_told() {
    let mut service = node_port_service(TrafficPolicy::Cluster);
    service.algorithm = Algorithm::Random;
    let [inner, outer] = flags_of(service, [endpoint("10.244.2.1")]);
    assert_ne!(inner & flags::RANDOM, 0);
    assert_ne!(outer & flags::RANDOM, 0);
}

#[test]
fn s49_all_frontends_of_a_port_share_one_number_and_its_timeout() {
    let mut service = node_port_service(TrafficPolicy::Cluster);
    service.affinity_timeout_s = Some(600);
    let (tables, _) = desired(service, [endpoint("10.244.2.1")], &node());
    assert_eq!(tables.ports.len(), 1);
    let port = tables.ports.values().next().unwrap();
    assert_eq!(port.frontends.len(), 2);
    let timeouts = port.frontends.values().map(|spec| spec.affinity_timeout_s);
    assert!(timeouts.into_iter().all(|timeout| timeout == 600));
}

#[test]
fn s44_addresses_of_services_are_noted_and_those_of_the_node_as_its_own() {
    let mut service = node_port_service(TrafficPolicy::Cluster);
    service.external_ips = ["203.0.113.2", "10.244.1.1"].map(ip).into();
    service.load_balancer_ips = ["203.0.113.1", "192.168.0.1"].map(ip).into();
    let vips = |endpoints: &[Endpoint]| {
        let (tables, _) = desired(service.clone(), endpoints.to_vec(), &node());
        let vips = tables.vips.iter();
        vips.map(|(addr, vip)| (addr.to_string(), vip.flags))
            .collect::<Vec<_>>()
    };
    let expected = |cluster_ip, external| {
        let vips = [
            (CLUSTER_IP, cluster_ip),
            ("192.168.0.1", vip::flags::NODE),
            ("203.0.113.1", external),
            ("203.0.113.2", external),
            ("fd00:77::1", vip::flags::NODE),
        ];
        vips.map(|(addr, flags)| (addr.to_owned(), flags))
    };
    let (cluster_ip, served) = (vip::flags::CLUSTER_IP, vip::flags::SERVED);
    assert_eq!(vips(&[]), expected(cluster_ip, 0));
    assert_eq!(
        vips(&[endpoint("10.244.2.1")]),
        expected(cluster_ip | served, served)
    );
}

#[test]
fn s29_an_address_is_served_if_a_port_of_any_service_there_is() {
    let external = |cluster_ip: &str, number| {
        let mut service = service();
        service.cluster_ips = vec![ip(cluster_ip)];
        service.external_ips = vec![ip("203.0.113.2")];
        service.ports[0].port = number;
        service
    };
    let services = [
        ("a", external("10.96.0.1", 80), vec![endpoint("10.244.2.1")]),
        ("b", external("10.96.0.2", 81), vec![]),
    ];
    let (tables, rejections) = compile(&model(services), &node());
    assert_eq!(rejections, []);
    let served = |addr: &str| tables.vips[&ip(addr).into()].has(vip::flags::SERVED);
    assert!(served("203.0.113.2") && served("10.96.0.1"));
    assert!(!served("10.96.0.2"));
}
