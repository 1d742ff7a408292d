use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use lb_common::{Addr, FrontendKey, ServiceNets, Slot, SourceRange, Vip, frontend::flags, vip};
use proptest::prelude::*;

use super::*;
use crate::{
    dataplane::memory::Memory,
    desired::fixture,
    model::{
        Algorithm, Endpoint, ObjectName, Service, ServiceKind, ServicePort, Slice, SlicePort,
        TrafficPolicy,
    },
};

mod flows;
mod items;
mod room;

/// Seed of the flow hash.
const SEED: u32 = 7;

/// A Service by its number, with endpoints by their last octet; even octets are local.
#[derive(Clone, Debug)]
struct Sample {
    number: u8,
    endpoints: BTreeSet<u8>,
    node_port: bool,
    external_local: bool,
    /// Third octets of the clients' networks that its load balancer serves, if it has one.
    ranges: Option<BTreeSet<u8>>,
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let sample = (
        0..4_u8,
        prop::collection::btree_set(1..9_u8, 0..5),
        any::<bool>(),
        any::<bool>(),
        prop::option::of(prop::collection::btree_set(0..4_u8, 0..3)),
    )
        .prop_map(
            |(number, endpoints, node_port, external_local, ranges)| Sample {
                number,
                endpoints,
                node_port,
                external_local,
                ranges,
            },
        );
    prop::collection::vec(sample, 0..4)
}

fn name(number: u8) -> ObjectName {
    ObjectName::new("default", format!("service-{number}"))
}

fn cluster_ip(number: u8) -> IpAddr {
    [10, 96, 0, number].into()
}

fn service(sample: &Sample) -> Service {
    Service {
        kind: ServiceKind::NodePort,
        cluster_ips: vec![cluster_ip(sample.number)],
        external_ips: Vec::new(),
        load_balancer_ips: sample
            .ranges
            .iter()
            .map(|_| [203, 0, 113, sample.number].into())
            .collect(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: 6,
            port: 80,
            node_port: if sample.node_port {
                30_000 + u16::from(sample.number)
            } else {
                0
            },
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: if sample.external_local {
            TrafficPolicy::Local
        } else {
            TrafficPolicy::Cluster
        },
        affinity_timeout_s: None,
        source_ranges: sample
            .ranges
            .iter()
            .flatten()
            .map(|range| network(*range))
            .collect(),
        health_check_node_port: 0,
        algorithm: Algorithm::Maglev,
    }
}

/// A network of clients.
fn network(third: u8) -> IpNet {
    IpNet::new([198, 51, third, 0].into(), 24).expect("a prefix")
}

fn slice(sample: &Sample) -> Slice {
    let endpoint = |last: &u8| Endpoint {
        addr: [10, 244, sample.number, *last].into(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(
            if last.is_multiple_of(2) {
                "here"
            } else {
                "there"
            }
            .into(),
        ),
        for_zones: Default::default(),
        for_nodes: Default::default(),
    };
    Slice {
        ports: vec![SlicePort {
            name: String::new(),
            protocol: 6,
            port: 8000,
        }],
        endpoints: sample.endpoints.iter().map(endpoint).collect(),
        triggered: None,
    }
}

fn model(samples: &[Sample]) -> Model {
    let mut model = Model::default();
    for sample in samples {
        let name = name(sample.number);
        model
            .services
            .insert(name.clone(), Arc::new(service(sample)));
        model
            .slices
            .insert(name, [("a", Arc::new(slice(sample)))].into());
    }
    model
}

fn node() -> NodeView {
    NodeView {
        name: "here".into(),
        node_port_addresses: [[192, 168, 0, 1].into()].into(),
        pod_networks: ["10.244.3.0/24".parse().unwrap()].into(),
        localhost_node_ports: true,
        answers_echo: true,
        has_predecessor: false,
        ..NodeView::default()
    }
}

/// Who gets a connection, by frontend, side, and eight points of the hash; nobody where there is
/// no backend. Panics where a program would find a torn table.
fn answers(dataplane: &Memory) -> BTreeMap<(FrontendKey, bool, u32), Option<IpAddr>> {
    let maps = dataplane.maps();
    let mut answers = BTreeMap::new();
    for (key, frontend) in &maps.frontends {
        for (inside, extent) in [(true, frontend.inside), (false, frontend.outside)] {
            for point in 0..8_u32 {
                let answer = (!extent.is_empty()).then(|| {
                    let header = dataplane.slots()[extent.offset as usize];
                    let expected = Slot::header(frontend.service, frontend.generation);
                    assert_eq!(header, expected, "the table of another frontend");
                    let index = extent.slot_index(point << 29 | 12345);
                    let reference = dataplane.slots()[index as usize].current;
                    let backend = maps.backends[&reference.index()];
                    assert!(backend.is(reference), "an earlier incarnation");
                    assert!(backend.serves(), "a backend that is gone");
                    backend.addr.to_ip()
                });
                answers.insert((*key, inside, point), answer);
            }
        }
    }
    answers
}

/// Who is admitted, by frontend and network of clients.
fn admitted(dataplane: &Memory) -> BTreeSet<(FrontendKey, u8)> {
    let maps = dataplane.maps();
    let mut admitted = BTreeSet::new();
    for (key, frontend) in &maps.frontends {
        for third in 0..4_u8 {
            let range = SourceRange {
                prefix_len: SourceRange::SERVICE_BITS + 96 + 24,
                service: frontend.service,
                addr: Addr::from(network(third).addr()),
            };
            let filters = frontend.flags & flags::SOURCE_RANGES != 0;
            if !filters || maps.source_ranges.contains(&range) {
                admitted.insert((*key, third));
            }
        }
    }
    admitted
}

/// Addresses that are noted as Services' though nobody can dial them.
fn dead_vips(dataplane: &Memory) -> BTreeSet<Addr> {
    let maps = dataplane.maps();
    let dialled: BTreeSet<Addr> = maps.frontends.keys().map(|key| key.addr).collect();
    let of_services = maps
        .vips
        .iter()
        .filter(|(_, vip)| !vip.has(vip::flags::NODE));
    let noted: BTreeSet<Addr> = of_services.map(|(addr, _)| *addr).collect();
    &noted - &dialled
}

fn empty() -> Reconciler<Memory> {
    Reconciler::new(Memory::new(64, 64, 1 << 14), SEED).expect("memory does not fail")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_prefix_of_a_plan_gives_old_or_new_answers(before in samples(), after in samples()) {
        let now = Instant::now();
        let mut reconciler = empty();
        reconciler.reconcile(&model(&before), &node(), now).unwrap();
        let old = answers(&reconciler.dataplane);
        let old_clients = admitted(&reconciler.dataplane);
        let mut whole = Reconciler::new(reconciler.dataplane.clone(), SEED).unwrap();
        let operations = whole.reconcile(&model(&after), &node(), now).unwrap().operations;
        let new = answers(&whole.dataplane);
        let new_clients = admitted(&whole.dataplane);
        let (either, both) = (&old_clients | &new_clients, &old_clients & &new_clients);

        for stop in 0..operations {
            let mut dataplane = reconciler.dataplane.clone();
            dataplane.fails_after = dataplane.operations + stop;
            let mut partly = Reconciler::new(dataplane, SEED).unwrap();
            prop_assert!(partly.reconcile(&model(&after), &node(), now).is_err());
            for (point, answer) in answers(&partly.dataplane) {
                let allowed = [old.get(&point), new.get(&point)];
                prop_assert!(
                    allowed.contains(&Some(&answer)),
                    "{point:?} got {answer:?} after {stop} of {operations}, not one of {allowed:?}"
                );
            }
            let clients = admitted(&partly.dataplane);
            prop_assert!(clients.is_subset(&either), "let in after {stop}");
            prop_assert!(clients.is_superset(&both), "kept out after {stop}");
            prop_assert_eq!(dead_vips(&partly.dataplane), BTreeSet::new());
            // Whoever takes over from there arrives where the whole plan does.
            partly.dataplane.fails_after = usize::MAX;
            let mut next = Reconciler::new(partly.dataplane, SEED).unwrap();
            next.reconcile(&model(&after), &node(), now).unwrap();
            prop_assert_eq!(answers(&next.dataplane), new.clone());
        }
    }

    #[test]
    fn nothing_is_written_when_nothing_has_changed(samples in samples()) {
        let now = Instant::now();
        let mut reconciler = empty();
        reconciler.reconcile(&model(&samples), &node(), now).unwrap();
        let again = reconciler.reconcile(&model(&samples), &node(), now).unwrap();
        prop_assert_eq!(again.operations, 0);
        let mut restarted = Reconciler::new(reconciler.dataplane, SEED).unwrap();
        let first = restarted.reconcile(&model(&samples), &node(), now).unwrap();
        prop_assert_eq!(first.operations, 0);
    }

    #[test]
    fn a_history_of_changes_ends_like_a_fresh_start(history in prop::collection::vec(samples(), 1..6)) {
        let start = Instant::now();
        let mut reconciler = empty();
        for (turn, samples) in (0..).zip(&history) {
            let now = start + Duration::from_secs(2) * turn;
            reconciler.reconcile(&model(samples), &node(), now).unwrap();
        }
        let mut fresh = empty();
        fresh.reconcile(&model(history.last().unwrap()), &node(), start).unwrap();
        prop_assert_eq!(served(&reconciler.dataplane), served(&fresh.dataplane));
        prop_assert_eq!(admitted(&reconciler.dataplane), admitted(&fresh.dataplane));
        let (maps, fresh_maps) = (reconciler.dataplane.maps(), fresh.dataplane.maps());
        prop_assert_eq!(maps.source_ranges.len(), fresh_maps.source_ranges.len());
        prop_assert_eq!(&maps.vips, &fresh_maps.vips);
        prop_assert_eq!(&maps.service_nets, &fresh_maps.service_nets);
    }
}

/// The maps' content without the numbers that happen to be given out.
#[derive(Debug, PartialEq)]
struct Content {
    served: BTreeMap<(FrontendKey, bool), BTreeSet<IpAddr>>,
    /// Flags and timeout by frontend.
    frontends: BTreeMap<FrontendKey, (u32, u32)>,
    /// Address, port, state, sets, and the first frontend of each backend that may have flows.
    backends: BTreeSet<(Option<FrontendKey>, Addr, u16, u8, u8)>,
    /// By the first frontend that they are for.
    source_ranges: BTreeSet<(Option<FrontendKey>, u32, Addr)>,
    vips: BTreeMap<Addr, Vip>,
    service_nets: ServiceNets,
}

fn content(dataplane: &Memory) -> Content {
    let maps = dataplane.maps();
    let first = |service: u32| {
        let mut frontends = maps.frontends.iter();
        let first = frontends.find(|(_, frontend)| frontend.service == service);
        first.map(|(key, _)| *key)
    };
    let frontends = maps.frontends.iter();
    let backends = maps.backends.values().filter(|backend| backend.serves());
    let ranges = maps.source_ranges.iter();
    Content {
        served: served(dataplane),
        frontends: frontends
            .map(|(key, frontend)| (*key, (frontend.flags, frontend.affinity_timeout_s)))
            .collect(),
        backends: backends
            .map(|b| (first(b.service), b.addr, b.port, b.state, b.sets))
            .collect(),
        source_ranges: ranges
            .map(|range| (first(range.service), range.prefix_len, range.addr))
            .collect(),
        vips: maps.vips.clone(),
        service_nets: maps.service_nets,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn s63_maps_do_not_depend_on_their_history_nor_on_failures(
        history in fixture::histories(),
        stops in prop::collection::vec(prop::option::of(0..12_usize), 16),
    ) {
        let start = Instant::now();
        let mut reconciler = empty();
        for (turn, ((model, node), stop)) in (0..).zip(history.iter().zip(stops)) {
            let now = start + Duration::from_secs(2) * turn;
            let dataplane = &mut reconciler.dataplane;
            dataplane.fails_after = stop.map_or(usize::MAX, |stop| dataplane.operations + stop);
            if reconciler.reconcile(model, node, now).is_err() {
                continue;
            }
            let mut fresh = empty();
            fresh.reconcile(model, node, now).unwrap();
            prop_assert_eq!(content(&reconciler.dataplane), content(&fresh.dataplane));
            reconciler.dataplane.fails_after = usize::MAX;
            let again = reconciler.reconcile(model, node, now).unwrap();
            prop_assert_eq!(again.operations, 0);
        }
    }
}

/// Every backend that a frontend's tables lead to; the tables themselves may differ in size.
fn served(dataplane: &Memory) -> BTreeMap<(FrontendKey, bool), BTreeSet<IpAddr>> {
    let maps = dataplane.maps();
    let mut served = BTreeMap::new();
    for (key, frontend) in &maps.frontends {
        for (inside, extent) in [(true, frontend.inside), (false, frontend.outside)] {
            let start = extent.offset as usize + 1;
            let slots = &dataplane.slots()[start..start + extent.slots() as usize];
            let addrs = slots
                .iter()
                .map(|slot| maps.backends[&slot.current.index()].addr.to_ip());
            served.insert((*key, inside), addrs.collect());
        }
    }
    served
}

fn sample(number: u8, endpoints: impl IntoIterator<Item = u8>) -> Sample {
    Sample {
        number,
        endpoints: endpoints.into_iter().collect(),
        node_port: false,
        external_local: false,
        ranges: None,
    }
}

#[test]
fn one_changed_endpoint_writes_for_its_own_service_only() {
    let mut samples: Vec<Sample> = (0..20).map(|n| sample(n, [1, 2, 3])).collect();
    let mut reconciler = empty();
    let now = Instant::now();
    reconciler
        .reconcile(&model(&samples), &node(), now)
        .unwrap();
    samples[7].endpoints.insert(4);
    let outcome = reconciler
        .reconcile(&model(&samples), &node(), now)
        .unwrap();
    assert_eq!(outcome.operations, 3, "a backend, a table, a frontend");
}

#[test]
fn a_slot_remembers_who_had_it_before() {
    let now = Instant::now();
    let mut reconciler = empty();
    reconciler
        .reconcile(&model(&[sample(0, [1, 2])]), &node(), now)
        .unwrap();
    let before = answers(&reconciler.dataplane);
    reconciler
        .reconcile(&model(&[sample(0, [2])]), &node(), now)
        .unwrap();
    let maps = reconciler.dataplane.maps().clone();
    for ((key, inside, point), owner) in before {
        let frontend = maps.frontends[&key];
        let extent = if inside {
            frontend.inside
        } else {
            frontend.outside
        };
        let slot = reconciler.dataplane.slots()[extent.slot_index(point << 29 | 12345) as usize];
        let previous = maps
            .backends
            .get(&slot.previous.index())
            .filter(|_| !slot.previous.is_none());
        let current = maps.backends[&slot.current.index()].addr.to_ip();
        let remembered = previous.map_or(current, |backend| backend.addr.to_ip());
        assert_eq!(Some(remembered), owner);
    }
}

#[test]
fn a_pod_in_a_network_of_the_node_is_local_to_packets_and_not_to_policies() {
    let mut reconciler = empty();
    // Odd endpoints say that they are elsewhere; those of Service 3 are on this node's bridge.
    let services = [
        Sample {
            node_port: true,
            external_local: true,
            ..sample(3, [1])
        },
        sample(0, [1, 2]),
    ];
    let now = Instant::now();
    reconciler
        .reconcile(&model(&services), &node(), now)
        .unwrap();
    let maps = reconciler.dataplane.maps();
    let local: BTreeMap<IpAddr, u8> = maps
        .backends
        .values()
        .map(|backend| (backend.addr.to_ip(), backend.local))
        .collect();
    assert_eq!(local[&[10, 244, 3, 1].into()], 1);
    assert_eq!(local[&[10, 244, 0, 1].into()], 0);
    assert_eq!(local[&[10, 244, 0, 2].into()], 1);
    let node_port = FrontendKey::new(IpAddr::from([192, 168, 0, 1]).into(), 30_003, 6);
    assert!(maps.frontends[&node_port].outside.is_empty(), "item 9");
}
