//! Connections are found where they are, whatever becomes of the tables.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::{
    Addr, Extent, Flow, FlowKey, Frontend, Hop, Tuple,
    flow::{Now, edge},
};

use super::{NodeView, Reconciler, SEED, Sample, cluster_ip, empty, model, node, sample};
use crate::dataplane::{Dataplane as _, memory::Memory};

/// Goes through states of the first Service, whose flows (begun in the first) must be found in
/// every later one.
#[track_caller]
fn check_flows(side: Side, history: &[Sample]) {
    let mut reconciler = empty();
    let start = Instant::now();
    let mut flows = Vec::new();
    for (number, sample) in (0..).zip(history) {
        let now = start + Duration::from_secs(2) * number;
        let model = model(std::slice::from_ref(sample));
        reconciler.reconcile(&model, &node(), now).unwrap();
        if number == 0 {
            flows.extend((1000..1400).map(|port| flow(&reconciler, side, port)));
            reconciler.dataplane.flows.extend(flows.iter().copied());
        }
        for (key, flow) in &flows {
            let found = is_found(&reconciler.dataplane, side, key, flow);
            assert!(found, "after change {number}: {flow:?}");
        }
    }
}

/// Where clients are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inside,
    Outside,
}

impl Side {
    fn dialled(self) -> (IpAddr, u16) {
        match self {
            Self::Inside => (cluster_ip(0), 80),
            Self::Outside => ([192, 168, 0, 1].into(), 30_000),
        }
    }

    fn extent(self, frontend: &Frontend) -> Extent {
        match self {
            Self::Inside => frontend.inside,
            Self::Outside => frontend.outside,
        }
    }
}

#[test]
fn a_flow_is_found_through_any_number_of_table_changes() {
    let history = [&[1, 2][..], &[1, 3], &[1, 4, 5], &[2, 6], &[], &[7]];
    check_flows(
        Side::Inside,
        &history.map(|endpoints| sample(0, endpoints.iter().copied())),
    );
}

/// The first Service with a node port; even endpoints are local.
fn external(endpoints: &[u8], external_local: bool) -> Sample {
    Sample {
        node_port: true,
        external_local,
        ..sample(0, endpoints.iter().copied())
    }
}

#[test]
fn a_flow_is_found_when_its_clients_are_given_another_set() {
    check_flows(
        Side::Outside,
        &[
            external(&[1, 2, 3], false),
            external(&[1, 2, 3], true),
            external(&[1, 2, 3], false),
        ],
    );
}

#[test]
fn a_flow_is_found_when_two_sets_become_one() {
    let history = [external(&[2, 4, 1], true), external(&[6], true)];
    check_flows(Side::Outside, &history);
    check_flows(Side::Inside, &history);
}

/// A connection from `port` to the first Service, as the programs would have noted it.
fn flow(reconciler: &Reconciler<Memory>, side: Side, port: u16) -> (FlowKey, Flow) {
    let (addr, dialled) = side.dialled();
    let tuple = Tuple {
        src: std::net::Ipv4Addr::new(203, 0, 113, 9).into(),
        dst: addr.into(),
        src_port: port,
        dst_port: dialled,
        protocol: 6,
    };
    let dataplane = &reconciler.dataplane;
    let frontend = dataplane.maps().frontends[&tuple.frontend()];
    let index = side.extent(&frontend).slot_index(tuple.hash(SEED));
    let slot = dataplane.slots()[index as usize];
    let backend = dataplane.maps().backends[&slot.current.index()];
    let reply = Tuple {
        src: backend.addr,
        dst: tuple.src,
        src_port: backend.port,
        dst_port: port,
        protocol: 6,
    };
    let mut flow = <Flow as bytemuck::Zeroable>::zeroed();
    let now = Now {
        tick: 0,
        ticks_per_second: 100,
    };
    flow.begin(&tuple, 0, &Addr::UNSPECIFIED, &Hop::NONE, now);
    flow.backend = slot.current;
    let edge = match side {
        Side::Inside => 5,
        Side::Outside => edge::WIRE_EGRESS,
    };
    (FlowKey::of_reply(&reply, edge), flow)
}

/// Whether the programs would find a flow where it is: by its slot, or by its pin.
fn is_found(dataplane: &Memory, side: Side, key: &FlowKey, flow: &Flow) -> bool {
    let tuple = flow.tuple();
    let extent = side.extent(&dataplane.maps().frontends[&tuple.frontend()]);
    let slot = (!extent.is_empty())
        .then(|| dataplane.slots()[extent.slot_index(tuple.hash(SEED)) as usize]);
    let by_slot = slot.is_some_and(|s| s.current == flow.backend || s.previous == flow.backend);
    let by_pin = dataplane
        .pins
        .get(&tuple.pin())
        .is_some_and(|pin| pin.backend == flow.backend && pin.source_port == key.dst_port);
    by_slot || by_pin
}

#[test]
fn nothing_is_served_before_unknown_connections_are_left_to_who_served_until_then() {
    let now = Instant::now();
    let of = model(&[sample(0, [1, 2])]);
    let node_with = |has_predecessor| NodeView {
        has_predecessor,
        ..node()
    };
    let mut whole = empty();
    let outcome = whole.reconcile(&of, &node_with(true), now).unwrap();
    for stop in 0..outcome.operations {
        let mut partly = empty();
        partly.dataplane.fails_after = stop;
        assert!(partly.reconcile(&of, &node_with(true), now).is_err());
        let maps = partly.dataplane.maps();
        let has_predecessors = maps.service_nets.has_predecessors();
        assert!(
            has_predecessors || maps.frontends.is_empty(),
            "after {stop}"
        );
        assert!(has_predecessors || stop == 0, "the first operation");
    }
    let left = whole.dataplane.maps().service_nets;
    assert!(left.has_predecessors());
    // Once they have ended there is nothing else to be written.
    let outcome = whole.reconcile(&of, &node_with(false), now).unwrap();
    assert_eq!(outcome.operations, 1);
    let alone = whole.dataplane.maps().service_nets;
    assert_eq!(alone.with_predecessors(), left);
    assert!(!alone.has_predecessors());
}
