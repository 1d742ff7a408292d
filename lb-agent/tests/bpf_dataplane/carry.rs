//! What earlier programs hold is carried over into maps of other capacities.

use std::fs;

use aya::{
    maps::{Array, Map, MapData},
    programs::TcAttachType,
};
use bytemuck::Zeroable as _;
use lb_agent::{
    dataplane::{
        Dataplane as _, Element, Observation,
        bpf::{BpfDataplane, Error, Opening, OpeningPins, Step},
    },
    interfaces::State,
};
use lb_common::{
    Addr, BackendRef, Flow, Pin, PinKey, Role, Slot,
    flow::opening::{self, WAYS},
    maps::{
        BACKENDS, FLOWS, FRONTENDS, LAYOUT_VERSION, OPENING, OPENING_PINS, OPENING_WORDS, SLOTS,
        SOURCE_RANGES, VIPS,
    },
};

use super::{
    PinDir,
    devices::{has_xdp, in_namespace, ip, state, sync, tcx},
    maps::{addr, backend, frontend, interface, key, nets, range, vip},
    soon,
    sweep::{self, numbers, records},
};

const STEPS: [Step; 7] = [
    Step::Loaded,
    Step::Filled,
    Step::SocketsAttached,
    Step::Attached,
    Step::CaughtUp,
    Step::SetAside,
    Step::Placed,
];

/// The capacities of these maps are other ones.
fn sized(
    pins: &PinDir,
    sizes: &[(&str, u32)],
    stop_after: Option<Step>,
) -> Result<BpfDataplane, Error> {
    pins.open_with(|options| {
        for (name, size) in sizes {
            let mut maps = options.maps.iter_mut();
            maps.find(|spec| spec.name == *name).unwrap().max_entries = *size;
            if *name == OPENING {
                maps.next().unwrap().max_entries = opening::lines(*size);
            }
        }
        options.stop_after = stop_after;
    })
}

const SLOT: Slot = Slot {
    current: BackendRef { bits: 0x501 },
    previous: BackendRef { bits: 0x401 },
};

/// Something in every map that the agent writes.
pub(super) fn fill(dataplane: &mut BpfDataplane) {
    let elements = [
        Element::Frontend(key(1), frontend(7)),
        Element::Frontend(key(2), frontend(8)),
        Element::Backend(0, backend(1)),
        Element::Backend(100, backend(2)),
        Element::Interface(7, interface()),
        Element::Vip(addr(1), vip()),
        Element::SourceRange(range(1)),
        Element::ServiceNets(nets().into()),
    ];
    for element in &elements {
        dataplane.put(element).unwrap();
    }
    dataplane.write_slots(2000, &[SLOT; 3]).unwrap();
}

/// What the maps hold, apart from their sizes.
pub(super) fn held(dataplane: &BpfDataplane) -> (Observation, Vec<Slot>) {
    let observed = Observation {
        frontends_max: 0,
        backends_max: 0,
        vips_max: 0,
        source_ranges_max: 0,
        ..dataplane.observe().unwrap()
    };
    (observed, dataplane.slots()[1998..2005].to_vec())
}

/// Records of connections, some of them confirmed.
fn put_flows(pins: &PinDir) {
    for number in 1..=20 {
        sweep::put(&mut records(pins, FLOWS), number, [5, 9]);
        sweep::put(&mut records(pins, OPENING), number + 100, [6, 9]);
    }
}

/// A pin of a connection that opens, and its key.
pub(super) fn opening_pin(number: u16) -> (PinKey, Pin) {
    let key = PinKey {
        src_port: number,
        ..PinKey::zeroed()
    };
    let pin = Pin {
        backend: BackendRef::new(number.into(), 1),
        source_port: number,
        pad: 0,
    };
    (key, pin)
}

/// Pins of connections that open.
pub(super) fn put_pins(pins: &PinDir) {
    let opening = OpeningPins::open(&pins.0).unwrap();
    for (key, pin) in (1..=20).map(opening_pin) {
        opening.note(&key, pin);
    }
}

#[track_caller]
pub(super) fn assert_pins(pins: &PinDir) {
    let opening = OpeningPins::open(&pins.0).unwrap();
    for (key, pin) in (1..=20).map(opening_pin) {
        assert_eq!(opening.pin(&key), Some(pin));
    }
    assert_eq!(opening.all().len(), 20);
}

#[track_caller]
pub(super) fn assert_flows(pins: &PinDir) {
    assert_eq!(numbers(&records(pins, FLOWS)), Vec::from_iter(1..=20));
    assert_eq!(numbers(&records(pins, OPENING)), Vec::from_iter(101..=120));
}

fn entries(pins: &PinDir) -> Vec<String> {
    let entries = fs::read_dir(&pins.0).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[track_caller]
pub(super) fn assert_tidy(pins: &PinDir) {
    assert_eq!(entries(pins), [format!("v{LAYOUT_VERSION}")]);
}

const LARGER: [(&str, u32); 8] = [
    (FRONTENDS, 128),
    (BACKENDS, 512),
    (SLOTS, 8192),
    (FLOWS, 4096),
    (OPENING, 2048),
    (OPENING_PINS, 700),
    (VIPS, 2048),
    (SOURCE_RANGES, 2048),
];

/// By what connections that open find their buckets.
fn seed(pins: &PinDir) -> u64 {
    let [seed, ..] = words_of_opening(pins).get(&0, 0).unwrap();
    seed
}

pub(super) fn words_of_opening(pins: &PinDir) -> Array<MapData, [u64; WAYS]> {
    let path = pins
        .0
        .join(format!("v{LAYOUT_VERSION}/maps/{OPENING_WORDS}"));
    let words = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
    words.try_into().unwrap()
}

#[test]
fn maps_grow_and_shrink_with_all_that_they_hold() {
    let pins = PinDir::new();
    let mut dataplane = pins.open();
    fill(&mut dataplane);
    put_flows(&pins);
    put_pins(&pins);
    let (before, seed_before) = (held(&dataplane), seed(&pins));
    assert_ne!(seed_before, 0);
    drop(dataplane);
    let dataplane = sized(&pins, &LARGER, None).unwrap();
    assert_eq!(held(&dataplane), before);
    let observed = dataplane.observe().unwrap();
    assert_eq!((observed.frontends_max, observed.backends_max), (128, 512));
    assert_eq!(dataplane.slots().len(), 8192);
    assert_eq!(dataplane.kept(), []);
    assert_eq!(seed(&pins), seed_before);
    assert_flows(&pins);
    assert_pins(&pins);
    assert_tidy(&pins);
    drop(dataplane);
    let dataplane = pins.open();
    assert_eq!(held(&dataplane), before);
    assert_eq!(seed(&pins), seed_before);
    assert_eq!(dataplane.slots().len(), 4096);
    assert_flows(&pins);
    assert_pins(&pins);
    assert_tidy(&pins);
}

#[test]
fn a_map_that_has_too_much_for_a_smaller_one_keeps_its_capacity() {
    let pins = PinDir::new();
    let mut dataplane = pins.open();
    fill(&mut dataplane);
    put_flows(&pins);
    let before = held(&dataplane);
    drop(dataplane);
    let sizes = [(BACKENDS, 100), (FLOWS, 19), (OPENING, 32), (SLOTS, 2002)];
    let dataplane = sized(&pins, &sizes, None).unwrap();
    let kept: Vec<String> = dataplane.kept().iter().map(ToString::to_string).collect();
    let expected = [
        "SLOTS keeps its capacity of 4096: 2003 are taken, and 2002 are wanted",
        "BACKENDS keeps its capacity of 256: 101 are taken, and 100 are wanted",
        "FLOWS keeps its capacity of 1024: 20 are taken, and 19 are wanted",
        "OPENING keeps its capacity of 1024: 20 are taken, and 32 are wanted",
    ];
    assert_eq!(kept, expected);
    assert_eq!(held(&dataplane), before);
    assert_flows(&pins);
}

/// A first start, or an end, was cut short between two maps.
#[test]
fn records_and_words_without_each_other_stand_in_nobodys_way() {
    for (size, missing) in [
        (1024, OPENING_WORDS),
        (2048, OPENING_WORDS),
        (1024, OPENING),
        (2048, OPENING),
    ] {
        let pins = PinDir::new();
        drop(sized(&pins, &[(OPENING, 1024)], None).unwrap());
        put_flows(&pins);
        let maps = pins.0.join(format!("v{LAYOUT_VERSION}/maps"));
        fs::remove_file(maps.join(missing)).unwrap();
        drop(sized(&pins, &[(OPENING, size)], None).unwrap());
        let left = Opening::open(&maps.join(OPENING)).unwrap().unwrap();
        assert_eq!(left.records(), [], "without {missing}");
        put_flows(&pins);
        drop(sized(&pins, &[(OPENING, size)], None).unwrap());
        assert_flows(&pins);
    }
}

/// Devices with all programs, and their state.
pub(super) fn devices() -> State {
    ip("link add wan type veth peer name pod");
    ip("link add over type vxlan id 7 dstport 4789");
    state(&[
        ("wan", Role::Uplink),
        ("pod", Role::Pod),
        ("over", Role::Tunnel),
    ])
}

/// Ids of the programs of all hooks; each hook has one.
pub(super) fn programs() -> Vec<u32> {
    use TcAttachType::{Egress, Ingress};
    let hooks = [
        ("pod", Ingress),
        ("pod", Egress),
        ("wan", Ingress),
        ("wan", Egress),
        ("over", Ingress),
    ];
    hooks
        .into_iter()
        .flat_map(|(device, hook)| tcx(device, hook))
        .collect()
}

#[test]
fn every_hook_has_a_program_all_the_time_and_one_in_the_end() {
    in_namespace(|| {
        let pins = PinDir::new();
        let all = devices();
        let mut dataplane = pins.open();
        let _attached = sync(&mut dataplane, &all);
        let xdp = pins.link(&link_of_xdp(&pins)).link;
        let before = programs();
        drop(dataplane);

        let stopped = sized(&pins, &LARGER, Some(Step::CaughtUp)).err().unwrap();
        assert!(
            matches!(stopped, Error::Stopped(Step::CaughtUp)),
            "{stopped}"
        );
        assert_eq!(programs().len(), 10, "the new ones are before the old ones");
        for old in &before {
            assert!(programs().contains(old));
        }

        let mut dataplane = sized(&pins, &LARGER, None).unwrap();
        soon("the old programs have gone", || programs().len() == 5);
        let after = programs();
        assert!(before.iter().all(|old| !after.contains(old)));
        let [attached, _, removed] = sync(&mut dataplane, &all);
        assert!(attached.is_empty() && removed.is_empty());
        assert_eq!(pins.link(&link_of_xdp(&pins)).link, xdp, "the same link");
        assert!(has_xdp("wan", "xdp"));
        assert_tidy(&pins);
    });
}

fn link_of_xdp(pins: &PinDir) -> String {
    let names = fs::read_dir(pins.links()).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.find(|name| name.contains("xdp")).unwrap()
}

#[test]
fn killed_at_any_step_the_next_start_goes_on() {
    in_namespace(|| {
        let all = devices();
        for step in STEPS {
            let pins = PinDir::new();
            let mut dataplane = pins.open();
            fill(&mut dataplane);
            put_flows(&pins);
            let before = held(&dataplane);
            let _attached = sync(&mut dataplane, &all);
            drop(dataplane);
            let stopped = sized(&pins, &LARGER, Some(step)).err().unwrap();
            assert!(
                matches!(stopped, Error::Stopped(at) if at == step),
                "{stopped}"
            );
            assert!(programs().len() >= 5, "{step:?}");

            // With yet other sizes: what was begun is finished first.
            let mut dataplane = sized(&pins, &[(FLOWS, 2000)], None).unwrap();
            assert_eq!(held(&dataplane), before, "{step:?}");
            assert_flows(&pins);
            assert_tidy(&pins);
            soon("the old programs have gone", || programs().len() == 5);
            let [attached, _, removed] = sync(&mut dataplane, &all);
            assert!(attached.is_empty() && removed.is_empty(), "{step:?}");
            drop((dataplane, pins));
            soon("nothing is attached", || {
                programs().is_empty() && !has_xdp("wan", "xdp")
            });
        }
    });
}

/// What is recorded in new maps while a process is dead stays.
#[test]
fn records_that_new_programs_have_made_survive_a_kill() {
    in_namespace(|| {
        let pins = PinDir::new();
        let all = devices();
        let mut dataplane = pins.open();
        put_flows(&pins);
        let _attached = sync(&mut dataplane, &all);
        drop(dataplane);
        let _stopped = sized(&pins, &LARGER, Some(Step::Attached)).err().unwrap();
        let path = pins.0.join(format!("v{LAYOUT_VERSION}-next/maps/{FLOWS}"));
        sweep::put(&mut sweep::records_at(path), 77, [5, 9]);
        sweep::put(&mut records(&pins, FLOWS), 78, [5, 9]);
        let _dataplane = sized(&pins, &LARGER, None).unwrap();
        let expected: Vec<u16> = (1..=20).chain([77, 78]).collect();
        assert_eq!(numbers(&records(&pins, FLOWS)), expected);
    });
}

/// A connection of this client port; both ends have closed it, or neither.
fn of_client(port: u8, seen_tick: u64, is_closed: bool) -> Flow {
    const FINS: u8 = 1 | 2;
    Flow {
        client: addr(port),
        client_port: port.into(),
        snat: addr(9),
        seen_tick,
        ends: u8::from(is_closed) * FINS,
        ..Flow::zeroed()
    }
}

/// Whose connection the new programs take a packet for, by the number of its key: none's if its port
/// is only reserved.
fn owners(records: &sweep::Records) -> Vec<(u16, u16)> {
    let owner = |n| sweep::flow_of(records, sweep::key_of_snat(n)).map(|flow| (n, flow));
    let flows = (1..9).filter_map(owner);
    let port = |flow: Flow| match flow.client == Addr::UNSPECIFIED {
        true => 0,
        false => flow.client_port,
    };
    flows.map(|(n, flow)| (n, port(flow))).collect()
}

/// The port of a connection that has been closed is another one's at once, which old programs note
/// in old maps: it would end where new ones still had the record of the first.
#[test]
fn connections_take_the_ports_of_closed_ones_while_maps_are_carried_over() {
    in_namespace(|| {
        let pins = PinDir::new();
        let all = devices();
        let next = |name: &str| {
            let path = pins.0.join(format!("v{LAYOUT_VERSION}-next/maps/{name}"));
            sweep::records_at(path)
        };
        let mut dataplane = pins.open();
        let _attached = sync(&mut dataplane, &all);
        drop(dataplane);
        let (mut flows, mut opening) = (records(&pins, FLOWS), records(&pins, OPENING));
        let key = sweep::key_of_snat;
        for number in 1..=3 {
            sweep::put_at(&mut flows, key(number), of_client(1, 5, true));
        }
        for number in 4..=6 {
            sweep::put_at(&mut flows, key(number), of_client(1, 5, false));
        }
        let _stopped = sized(&pins, &LARGER, Some(Step::Attached)).err().unwrap();
        let reserved = [(4, 0), (5, 0), (6, 0)];
        assert_eq!(owners(&next(FLOWS)), reserved, "those that go on");

        // Another client has the second one's port in the old maps, the third one's in the new ones. The
        // fourth one's has been closed and begun anew by another one; the fifth one is confirmed; the
        // sixth one is forgotten.
        sweep::remove(&mut flows, key(2));
        sweep::put_at(&mut opening, key(2), of_client(2, 6, false));
        sweep::put_at(&mut next(OPENING), key(3), of_client(2, 6, false));
        sweep::remove(&mut flows, key(4));
        sweep::put_at(&mut opening, key(4), of_client(2, 6, false));
        sweep::put_at(&mut opening, key(5), of_client(1, 4, false));
        sweep::remove(&mut flows, key(6));
        let _dataplane = sized(&pins, &LARGER, None).unwrap();
        assert_eq!(owners(&records(&pins, FLOWS)), [(1, 1), (5, 1)]);
        assert_eq!(owners(&records(&pins, OPENING)), [(2, 2), (3, 2), (4, 2)]);
    });
}
