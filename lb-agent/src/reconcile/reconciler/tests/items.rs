//! Behaviour that Kubernetes asks for, as far as the maps decide it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use lb_common::{Extent, FrontendKey, frontend::flags};

use super::{
    Reconciler, SEED, Sample, admitted, cluster_ip, empty, model, node, sample, service, slice,
};
use crate::{
    dataplane::{Dataplane as _, Key, memory::Memory},
    model::{Model, ObjectName, Slice},
};

/// How many slots of the first Service's cluster address each backend has.
fn shares(dataplane: &Memory) -> BTreeMap<IpAddr, usize> {
    let maps = dataplane.maps();
    let Extent { offset, bits } = maps.frontends[&cluster_key()].inside;
    let start = offset as usize + 1;
    let mut shares = BTreeMap::new();
    for slot in &dataplane.slots()[start..start + (1 << bits)] {
        let addr = maps.backends[&slot.current.index()].addr.to_ip();
        *shares.entry(addr).or_default() += 1;
    }
    shares
}

fn cluster_key() -> FrontendKey {
    FrontendKey::new(cluster_ip(0).into(), 80, 6)
}

fn node_port_key() -> FrontendKey {
    FrontendKey::new(IpAddr::from([192, 168, 0, 1]).into(), 30_000, 6)
}

#[test]
fn s19_every_backend_has_an_equal_share_of_a_table() {
    for backends in 1..9_u8 {
        let mut reconciler = empty();
        let model = model(&[sample(0, 1..=backends)]);
        reconciler
            .reconcile(&model, &node(), Instant::now())
            .unwrap();
        let shares: Vec<usize> = shares(&reconciler.dataplane).into_values().collect();
        assert_eq!(shares.len(), usize::from(backends));
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 1, "{shares:?}");
    }
}

#[test]
fn s42_where_no_endpoint_is_here_nobody_outside_is_served_and_it_is_told_why() {
    let external_local = |endpoints: &[u8]| Sample {
        node_port: true,
        external_local: true,
        ..sample(0, endpoints.iter().copied())
    };
    let mut reconciler = empty();
    let mut at_node_port = |endpoints: &[u8]| {
        let model = model(&[external_local(endpoints)]);
        reconciler
            .reconcile(&model, &node(), Instant::now())
            .unwrap();
        reconciler.dataplane.maps().frontends[&node_port_key()]
    };
    let local = flags::NODE_PORT | flags::OUTSIDE_LOCAL;
    // Odd endpoints are elsewhere.
    let elsewhere = at_node_port(&[1, 3]);
    assert!(elsewhere.outside.is_empty() && !elsewhere.inside.is_empty());
    assert_eq!(elsewhere.flags, local | flags::HAS_ENDPOINTS, "drop");
    let nowhere = at_node_port(&[]);
    assert!(nowhere.outside.is_empty() && nowhere.inside.is_empty());
    assert_eq!(nowhere.flags, local, "reject (item 41)");
    let here = at_node_port(&[1, 2]);
    assert!(!here.outside.is_empty() && here.outside != here.inside);
}

#[test]
fn s49_affinity_is_switched_without_another_table_or_number() {
    let mut reconciler = empty();
    let with = |timeout: Option<u32>| {
        let sample = Sample {
            node_port: true,
            ..sample(0, [1, 2])
        };
        let mut service = service(&sample);
        service.affinity_timeout_s = timeout;
        let mut model = model(&[sample]);
        for (name, _) in model.services.clone() {
            model.services.insert(name, Arc::new(service.clone()));
        }
        model
    };
    let now = Instant::now();
    reconciler.reconcile(&with(None), &node(), now).unwrap();
    let before = reconciler.dataplane.maps().clone();
    for timeout in [Some(600), Some(700), None] {
        let outcome = reconciler.reconcile(&with(timeout), &node(), now).unwrap();
        assert_eq!(outcome.operations, before.frontends.len());
        let mut expected = before.clone();
        for frontend in expected.frontends.values_mut() {
            frontend.affinity_timeout_s = timeout.unwrap_or(0);
        }
        assert_eq!(reconciler.dataplane.maps(), &expected);
    }
}

#[test]
fn s63_one_changed_endpoint_among_a_thousand_services_writes_for_its_own_only() {
    let number = |n: usize| (n / 250, n % 250);
    let name = |n: usize| {
        ObjectName::new(
            format!("namespace-{}", number(n).0),
            format!("service-{}", number(n).1),
        )
    };
    let mut model = Model::default();
    for n in 0..1000 {
        let (high, low) = (number(n).0 as u8, number(n).1 as u8);
        let of_low = sample(low, [1, 2, 3]);
        let mut service = service(&of_low);
        service.cluster_ips = vec![[10, 96, high, low].into()];
        let mut slice = slice(&of_low);
        for endpoint in &mut slice.endpoints {
            let IpAddr::V4(addr) = endpoint.addr else {
                panic!("an IPv4 address");
            };
            endpoint.addr = [10, 240 + high, low, addr.octets()[3]].into();
        }
        model.services.insert(name(n), Arc::new(service));
        let slices = [("a", Arc::new(slice))].into();
        model.slices.insert(name(n), slices);
    }
    let dataplane = Memory::new(2000, 8000, 1 << 20);
    let mut reconciler = Reconciler::new(dataplane, SEED).unwrap();
    let now = Instant::now();
    reconciler.reconcile(&model, &node(), now).unwrap();
    let before = reconciler.dataplane.maps().clone();
    assert_eq!(
        (before.frontends.len(), before.backends.len()),
        (1000, 3000)
    );

    let changed = name(777);
    let slices = model.slices.get_mut(&changed).unwrap();
    let mut slice = Slice::clone(&slices["a"]);
    slice.endpoints[1].addr = [10, 250, 0, 1].into();
    slices.insert("a", Arc::new(slice));
    let outcome = reconciler.reconcile(&model, &node(), now).unwrap();
    assert_eq!(
        outcome.operations, 4,
        "a backend, a table, a frontend, and the backend that is gone"
    );
    let after = reconciler.dataplane.maps();
    let (key, _) = before
        .frontends
        .iter()
        .find(|(key, frontend)| after.frontends.get(key) != Some(frontend))
        .unwrap();
    assert_eq!(key.addr, IpAddr::from([10, 96, 3, 27]).into());
    let expected = before.frontends.iter().filter(|(other, _)| *other != key);
    let expected: BTreeMap<_, _> = expected.map(|(key, frontend)| (*key, *frontend)).collect();
    let mut rest = after.frontends.clone();
    rest.remove(key);
    assert_eq!(rest, expected);
}

#[test]
fn s46_source_ranges_without_room_are_rejected_by_name_and_the_service_goes_on_as_it_was() {
    let mut reconciler = empty();
    reconciler.dataplane.limit(2, 1);
    let limited = |ranges: &[u8]| Sample {
        ranges: Some(ranges.iter().copied().collect()),
        ..sample(0, [1])
    };
    let now = Instant::now();
    let mut reconciler = Reconciler::new(reconciler.dataplane, SEED).unwrap();
    let outcome = reconciler
        .reconcile(&model(&[limited(&[1])]), &node(), now)
        .unwrap();
    let told: Vec<_> = outcome
        .rejections
        .iter()
        .map(|r| r.object.as_str())
        .collect();
    assert_eq!(told, ["address 203.0.113.0"]);
    let before = admitted(&reconciler.dataplane);
    let outcome = reconciler
        .reconcile(&model(&[limited(&[1, 2])]), &node(), now)
        .unwrap();
    assert!(outcome.no_room);
    let told: Vec<_> = outcome
        .rejections
        .iter()
        .map(|r| r.object.as_str())
        .collect();
    assert_eq!(
        told,
        ["default/service-0/TCP (IPv4)", "address 203.0.113.0"]
    );
    assert_eq!(admitted(&reconciler.dataplane), before);
}

#[test]
fn s63_what_others_changed_in_the_maps_is_made_good_once_they_are_read() {
    let mut reconciler = empty();
    let model = model(&[sample(0, [1, 2]), sample(1, [3])]);
    let now = Instant::now();
    reconciler.reconcile(&model, &node(), now).unwrap();
    let before = reconciler.dataplane.maps().clone();
    let removed = Key::Frontend(cluster_key());
    reconciler.dataplane.remove(&removed).unwrap();
    reconciler.observe().unwrap();
    reconciler.reconcile(&model, &node(), now).unwrap();
    assert_eq!(
        reconciler.dataplane.maps().frontends.len(),
        before.frontends.len()
    );
    let again = reconciler.reconcile(&model, &node(), now).unwrap();
    assert_eq!(again.operations, 0);
}
