use std::{sync::Arc, time::Instant};

use super::*;
use crate::{
    dataplane::memory::Memory,
    desired::NodeView,
    model::{Endpoint, ObjectName, ServicePort, Slice, SlicePort, TrafficPolicy},
    reconcile::Reconciler,
};

const BACKENDS: [&str; 2] = ["10.0.0.7:8080", "[fd01::7]:8080"];

fn service(number: u8, protocol: Protocol) -> Service {
    Service {
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![
            IpAddr::from([10, 96, 0, number]),
            format!("fd00::{number}").parse().unwrap(),
        ],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol,
            port: 80,
            node_port: 0,
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_timeout_s: None,
        source_ranges: Vec::new(),
        health_check_node_port: 0,
        algorithm: Default::default(),
    }
}

/// Programs these Services, with a backend each in both families, and chooses.
fn choose(services: Vec<Service>) -> Vec<Canary> {
    let mut model = Model::default();
    for (number, service) in services.into_iter().enumerate() {
        let name = ObjectName::new("default", number.to_string());
        let slice = Slice {
            ports: vec![SlicePort {
                name: String::new(),
                protocol: service.ports[0].protocol,
                port: 8080,
            }],
            endpoints: BACKENDS.map(endpoint).into(),
            triggered: None,
        };
        let slices = [("one", Arc::new(slice))].into();
        model.slices.insert(name.clone(), slices);
        model.services.insert(name, Arc::new(service));
    }
    let mut reconciler = Reconciler::new(Memory::new(64, 64, 4096), 1).unwrap();
    let node = NodeView::default();
    let _ = reconciler.reconcile(&model, &node, Instant::now()).unwrap();
    Canary::choose(&model, reconciler.programmed())
}

fn endpoint(backend: &str) -> Endpoint {
    let addr: SocketAddr = backend.parse().unwrap();
    Endpoint {
        addr: addr.ip(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        for_zones: Default::default(),
        for_nodes: Default::default(),
    }
}

/// The frame with its destination rewritten, and the checksums as they must be.
fn translated(canary: &Canary, to: &str) -> Vec<u8> {
    let to: SocketAddr = to.parse().unwrap();
    let other = Canary {
        dialled: to,
        ..canary.clone()
    };
    other.packet()
}

#[test]
fn a_packet_for_each_family_is_chosen_and_a_right_translation_passes() {
    for protocol in [protocol::TCP, protocol::UDP] {
        let canaries = choose(vec![service(1, protocol)]);
        assert_eq!(canaries.len(), 2);
        for (canary, backend) in canaries.iter().zip(BACKENDS) {
            assert_eq!(canary.judge(&translated(canary, backend)), Ok(()));
        }
    }
}

#[test]
fn nothing_to_serve_is_nothing_to_check() {
    assert_eq!(choose(Vec::new()), []);
    assert_eq!(choose(vec![service(1, protocol::SCTP)]), []);
}

#[test]
fn a_service_without_affinity_is_preferred() {
    let sticky = Service {
        affinity_timeout_s: Some(60),
        ..service(1, protocol::TCP)
    };
    let canaries = choose(vec![sticky.clone(), service(2, protocol::TCP)]);
    assert_eq!(canaries[0].dialled.ip(), IpAddr::from([10, 96, 0, 2]));
    assert_eq!(choose(vec![sticky]).len(), 2);
}

#[test]
fn wrong_translations_fail_with_the_reason() {
    for canary in choose(vec![service(1, protocol::TCP)]) {
        #[track_caller]
        fn check(canary: &Canary, packet: &[u8], reason: &str) {
            let error = canary.judge(packet).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        check(&canary, &canary.packet(), "not translated");
        let elsewhere = if canary.dialled.is_ipv4() {
            "10.0.0.8:8080"
        } else {
            "[fd01::8]:8080"
        };
        check(
            &canary,
            &translated(&canary, elsewhere),
            "none of its backends",
        );
        let backend = canary.backends.first().unwrap().to_string();
        let mut wrong = translated(&canary, &backend);
        let at = canary.transport_offset() + canary.checksum_offset();
        wrong[at] ^= 1;
        check(&canary, &wrong, "wrong checksum");
        wrong.truncate(at - 15);
        check(&canary, &wrong, "cut off");
        let mut masked = translated(&canary, &backend);
        masked[canary.transport_offset()] ^= 1;
        check(&canary, &masked, "another source");
    }
}

#[test]
fn the_record_to_remove_is_that_of_the_reply() {
    let canaries = choose(vec![service(1, protocol::UDP)]);
    let packet = translated(&canaries[0], BACKENDS[0]);
    let record = canaries[0].record(&packet, 1).unwrap();
    assert_eq!(
        (record.src.to_ip(), record.src_port),
        ([10, 0, 0, 7].into(), 8080)
    );
    assert_eq!(
        (record.dst.to_ip(), record.dst_port),
        (CLIENT_V4.into(), CLIENT_PORT)
    );
    assert_eq!(record.edge, 1);
}
