//! Records of connections that have expired are removed, and no others.

use std::{net::Ipv4Addr, path::PathBuf};

use aya::maps::{HashMap, Map, MapData};
use bytemuck::Zeroable as _;
use lb_agent::dataplane::bpf::{Opening, Sweeper};
use lb_common::{
    Addr, Flow, FlowKey,
    flow::edge,
    maps::{FLOWS, LAYOUT_VERSION, OPENING},
    protocol,
};

use super::PinDir;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Raw<T>(T);

// SAFETY: `bytemuck::Pod` guarantees `Copy`, no padding and no invalid bit patterns, and
// `Raw` has the layout of its only field.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}

/// A map of records.
pub(super) enum Records {
    /// `FLOWS`.
    Hash(HashMap<MapData, Raw<FlowKey>, Raw<Flow>>),
    /// `OPENING`.
    Buckets(Opening),
}

impl Records {
    fn put(&mut self, key: FlowKey, flow: Flow) {
        match self {
            Self::Hash(map) => map.insert(Raw(key), Raw(flow), 0).unwrap(),
            Self::Buckets(opening) => assert!(opening.insert(&key, &flow)),
        }
    }

    fn keys(&self) -> Vec<FlowKey> {
        match self {
            Self::Hash(map) => map.keys().map(|key| key.unwrap().0).collect(),
            Self::Buckets(opening) => opening.records().into_iter().map(|(key, _)| key).collect(),
        }
    }
}

pub(super) fn records(pins: &PinDir, name: &str) -> Records {
    records_at(pins.0.join(format!("v{LAYOUT_VERSION}/maps/{name}")))
}

pub(super) fn records_at(path: PathBuf) -> Records {
    if path.ends_with(OPENING) {
        return Records::Buckets(Opening::open(&path).unwrap().unwrap());
    }
    let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
    Records::Hash(map.try_into().unwrap())
}

pub(super) fn key(number: u16) -> FlowKey {
    FlowKey {
        src: Ipv4Addr::new(10, 0, 0, 1).into(),
        dst: Ipv4Addr::new(10, 0, 0, 2).into(),
        src_port: 80,
        dst_port: number,
        edge: 7,
        protocol: protocol::TCP,
        pad: 0,
        pad_half: 0,
    }
}

/// The key of a connection whose client is outside and whose backend is on another node.
pub(super) fn key_of_snat(number: u16) -> FlowKey {
    FlowKey {
        dst: Addr::UNSPECIFIED,
        edge: edge::WIRE_INGRESS,
        ..key(number)
    }
}

pub(super) fn flow_of(records: &Records, key: FlowKey) -> Option<Flow> {
    match records {
        Records::Hash(map) => map.get(&Raw(key), 0).ok().map(|flow| flow.0),
        Records::Buckets(opening) => opening.flow(&key),
    }
}

pub(super) fn put_at(records: &mut Records, key: FlowKey, flow: Flow) {
    records.put(key, flow);
}

pub(super) fn remove(records: &mut Records, key: FlowKey) {
    match records {
        Records::Hash(map) => map.remove(&Raw(key)).unwrap(),
        Records::Buckets(opening) => opening.forget(&key),
    }
}

pub(super) fn flow(records: &Records, number: u16) -> Flow {
    flow_of(records, key(number)).unwrap()
}

/// A packet of the flow was seen at `seen`, and it may be idle until `expires`.
pub(super) fn put(records: &mut Records, number: u16, [seen, expires]: [u64; 2]) {
    let mut flow = Flow::zeroed();
    (flow.seen_tick, flow.expires_tick) = (seen, expires);
    put_at(records, key(number), flow);
}

pub(super) fn numbers(records: &Records) -> Vec<u16> {
    let mut numbers: Vec<u16> = records.keys().iter().map(|key| key.dst_port).collect();
    numbers.sort_unstable();
    numbers
}

const HZ: u32 = 100;

/// Shortly before the ticks begin anew: their order is all that counts.
const NOW: u64 = u64::MAX - 100;

#[test]
fn expired_records_are_swept_and_others_stay() {
    let pins = PinDir::new();
    let _dataplane = pins
        .open_with(|options| {
            for spec in &mut options.maps {
                if spec.name == FLOWS {
                    spec.max_entries = 20_000;
                }
            }
        })
        .unwrap();
    let mut sweeper = Sweeper::open(&pins.0, HZ).unwrap();
    let nothing = sweeper.sweep(false).unwrap();
    assert_eq!(
        (nothing.removed, nothing.kept, nothing.opening),
        (0, 0, 0),
        "empty maps"
    );

    // More than a batch takes.
    let (mut flows, mut opening) = (records(&pins, FLOWS), records(&pins, OPENING));
    for number in 0..10_000 {
        let expires = if number % 4 == 0 { NOW - 1 } else { NOW };
        put(&mut flows, number, [NOW - 1000, expires]);
    }
    // Far in the future, over the end of the ticks' range.
    put(
        &mut flows,
        10_000,
        [NOW - 1000, NOW.wrapping_add(1_000_000)],
    );
    put(&mut opening, 1, [NOW - 500, NOW - 400]);
    let early = sweeper.sweep(false).unwrap();
    assert_eq!(early.removed, 0, "no packet has come at so late a tick");

    put(&mut opening, 2, [NOW, NOW + 10]);
    let swept = sweeper.sweep(false).unwrap();
    assert_eq!(swept.kept, 7501);
    // What was read before the newest tick was known waits for the next sweep.
    let next = sweeper.sweep(false).unwrap();
    assert_eq!(
        (swept.removed + next.removed, next.kept, next.opening),
        (2501, 7501, 1)
    );
    let left: Vec<u16> = (0..=10_000)
        .filter(|number| number % 4 != 0 || *number == 10_000)
        .collect();
    assert_eq!(numbers(&flows), left);
    assert_eq!(numbers(&opening), [2]);
    let again = sweeper.sweep(false).unwrap();
    assert_eq!((again.removed, again.kept, again.opening), (0, 7501, 1));
}

#[test]
fn closed_connections_make_room_where_there_is_none() {
    /// Both sides have sent a FIN.
    const CLOSED: u8 = 3;
    /// One has, and a RST was seen.
    const RESET: u8 = 5;
    let pins = PinDir::new();
    let _dataplane = pins.open();
    let mut flows = records(&pins, FLOWS);
    let long_ago = NOW - 11 * u64::from(HZ);
    let states = [
        (1, long_ago, CLOSED),
        (2, long_ago, RESET),
        (3, long_ago, 0),
        (4, NOW - 9 * u64::from(HZ), CLOSED),
        (5, NOW, 0),
    ];
    for (number, seen, ends) in states {
        let mut flow = Flow::zeroed();
        (flow.seen_tick, flow.expires_tick, flow.ends) = (seen, NOW.wrapping_add(1000), ends);
        (flow.answered, flow.protocol) = (1, protocol::TCP);
        put_at(&mut flows, key(number), flow);
    }
    let mut sweeper = Sweeper::open(&pins.0, HZ).unwrap();
    for is_no_room in [false, false, true] {
        assert_eq!(numbers(&flows), [1, 2, 3, 4, 5]);
        sweeper.sweep(is_no_room).unwrap();
    }
    assert_eq!(numbers(&flows), [2, 3, 4, 5]);
}
