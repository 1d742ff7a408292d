//! Maps: what is written, what is refused, and which pins are trusted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
};

use aya::maps::{Array, Map, MapData};
use lb_agent::dataplane::{
    Dataplane as _, Element, Error as DataplaneError, Key, Observation,
    bpf::{Error, Options, Step},
};
use lb_common::{
    Addr, Backend, BackendRef, BackendState, Extent, Frontend, FrontendKey, Interface, Role,
    ServiceNet, ServiceNets, Slot, SourceRange, Vip,
    addresses::{self, Place},
    maps::{ADDRESSES, BACKENDS, FRONTEND_INDEX, LAYOUT_VERSION, MapSpec, SPECS},
    protocol, vip,
};

use super::PinDir;

pub(super) fn addr(last: u8) -> Addr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

pub(super) fn key(last: u8) -> FrontendKey {
    FrontendKey::new(addr(last), 8000, protocol::TCP)
}

pub(super) fn frontend(service: u32) -> Frontend {
    Frontend {
        service,
        generation: 1,
        outside: Extent {
            offset: 10,
            bits: 7,
        },
        inside: Extent::EMPTY,
        affinity_timeout_s: 0,
        flags: 0,
    }
}

pub(super) fn backend(last: u8) -> Backend {
    Backend {
        addr: addr(last),
        service: 1,
        port: 80,
        generation: 3,
        state: BackendState::Active as u8,
        local: 1,
        protocol: protocol::TCP,
        sets: 0,
        pad: 0,
    }
}

pub(super) fn interface() -> Interface {
    Interface {
        snat4: addr(9),
        snat6: Addr::UNSPECIFIED,
        role: Role::Uplink as u8,
        ..Interface::default()
    }
}

pub(super) fn vip() -> Vip {
    Vip {
        flags: vip::flags::CLUSTER_IP,
    }
}

/// A network within the one that `range(1)` is: both can be there.
pub(super) fn range(last: u8) -> SourceRange {
    SourceRange {
        prefix_len: SourceRange::SERVICE_BITS + 96 + 16 + u32::from(last),
        service: 7,
        addr: Ipv4Addr::new(192, 0, 0, 0).into(),
    }
}

pub(super) fn nets() -> ServiceNets {
    let mut nets = ServiceNets::default();
    nets.nets[0] = ServiceNet {
        addr: addr(0),
        mask: Addr::from(Ipv4Addr::new(255, 255, 255, 0)),
        flags: vip::net_flags::IN_USE,
    };
    nets
}

pub(super) fn slots() -> [Slot; 2] {
    let slot = Slot {
        current: BackendRef::new(5, 3),
        previous: BackendRef::NONE,
    };
    [Slot::header(1, 1), slot]
}

#[test]
fn what_is_written_is_read_back_also_by_the_next_process() {
    let pins = PinDir::new();
    let mut dataplane = pins.open();
    let empty = dataplane.observe().unwrap();
    assert_eq!((empty.frontends_max, empty.backends_max), (64, 256));
    assert_eq!(dataplane.slots(), vec![Slot::default(); 4096]);

    dataplane.put(&Element::Backend(5, backend(1))).unwrap();
    dataplane.write_slots(4094, &slots()).unwrap();
    for last in [1, 2] {
        dataplane
            .put(&Element::Frontend(key(last), frontend(7)))
            .unwrap();
        let index = u32::from(last);
        dataplane
            .put(&Element::Interface(index, interface()))
            .unwrap();
        dataplane.put(&Element::Vip(addr(last), vip())).unwrap();
        dataplane.put(&Element::SourceRange(range(last))).unwrap();
    }
    dataplane.put(&Element::ServiceNets(nets().into())).unwrap();
    for _ in 0..2 {
        dataplane.remove(&Key::Frontend(key(2))).unwrap();
        dataplane.remove(&Key::Interface(2)).unwrap();
        dataplane.remove(&Key::Vip(addr(2))).unwrap();
        dataplane.remove(&Key::SourceRange(range(2))).unwrap();
    }
    dataplane
        .put(&Element::Frontend(key(1), frontend(8)))
        .unwrap();

    let expected = Observation {
        frontends: BTreeMap::from([(key(1), frontend(8))]),
        backends: BTreeMap::from([(5, backend(1))]),
        interfaces: BTreeMap::from([(1, interface())]),
        vips: BTreeMap::from([(addr(1), vip())]),
        source_ranges: BTreeSet::from([range(1)]),
        service_nets: nets(),
        ..empty
    };
    assert_eq!(dataplane.observe().unwrap(), expected);
    assert_eq!(dataplane.slots()[4094..], slots());
    drop(dataplane);
    let next = pins.open();
    assert_eq!(next.observe().unwrap(), expected);
    assert_eq!(next.slots()[4094..], slots());
}

/// The pinned bits of addresses of an agent that serves, or of what is being made.
fn bits(pins: &PinDir, suffix: &str) -> Array<MapData, u64> {
    let layout = format!("v{LAYOUT_VERSION}{suffix}");
    let path = pins.0.join(layout).join("maps").join(ADDRESSES);
    Map::Array(MapData::from_pin(path).unwrap())
        .try_into()
        .unwrap()
}

#[test]
fn backends_of_an_earlier_version_are_known_by_their_ports_before_programs_look() {
    let pins = PinDir::new();
    let full = |options: &mut Options| {
        let bits = options.maps.iter_mut().find(|map| map.name == ADDRESSES);
        bits.unwrap().max_entries = addresses::ELEMENTS as u32;
    };
    let known = |suffix: &str| {
        let Place { index, mask } = Place::of_backend(addr(1), 80);
        bits(&pins, suffix).get(&index, 0).unwrap() & mask != 0
    };
    let mut dataplane = pins.open_with(full).unwrap();
    assert!(!known(""));
    dataplane.put(&Element::Backend(5, backend(1))).unwrap();
    assert!(known(""));
    drop(dataplane);
    // It goes on knowing the address.
    let forget = || {
        let Place { index, mask } = Place::of_backend(addr(1), 80);
        let mut bits = bits(&pins, "");
        let others = bits.get(&index, 0).unwrap() & !mask;
        bits.set(index, others, 0).unwrap();
    };
    forget();
    assert!(!known(""));
    drop(pins.open_with(full).unwrap());
    assert!(known(""));
    // Also where programs are attached to new maps before the old ones go.
    forget();
    let stopped = pins.open_with(|options| {
        full(options);
        let backends = options.maps.iter_mut().find(|map| map.name == BACKENDS);
        backends.unwrap().max_entries *= 2;
        options.stop_after = Some(Step::Filled);
    });
    assert!(matches!(stopped, Err(Error::Stopped(Step::Filled))));
    assert!(known("-next"));
}

#[test]
fn an_index_that_does_not_say_what_the_frontends_say_is_set_right() {
    let pins = PinDir::new();
    let mut dataplane = pins.open();
    let path = format!("v{LAYOUT_VERSION}/maps/{FRONTEND_INDEX}");
    let index = MapData::from_pin(pins.0.join(path)).unwrap();
    let mut index: Array<MapData, [u64; 8]> = Map::Array(index).try_into().unwrap();
    // Flags, and tags: which copies they refer to is all the same.
    let words = |index: &Array<MapData, [u64; 8]>| -> Vec<[u64; 8]> {
        let all = (0..index.len()).map(|bucket| index.get(&bucket, 0).unwrap());
        all.map(|[flags, ways @ ..]| {
            let [a, b, c, d, e, f, g] = ways.map(|way| way >> 32);
            [flags, a, b, c, d, e, f, g]
        })
        .collect()
    };
    let empty = words(&index);
    dataplane
        .put(&Element::Frontend(key(1), frontend(1)))
        .unwrap();
    let right = words(&index);
    assert_ne!(right, empty);
    for damage in [[0; 8], [u64::MAX; 8]] {
        for bucket in 0..index.len() {
            index.set(bucket, damage, 0).unwrap();
        }
        dataplane.mend().unwrap();
        // The second time what has spilled meanwhile has not any more.
        dataplane.mend().unwrap();
        assert_eq!(words(&index), right);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let pins = PinDir::new();
    let mut dataplane = pins.open();
    let error = dataplane
        .put(&Element::Backend(256, backend(1)))
        .unwrap_err();
    assert_eq!(error.to_string(), "update BACKENDS[256]");
    let error = dataplane.write_slots(4095, &slots()).unwrap_err();
    assert!(matches!(
        error,
        DataplaneError::OutOfArena {
            offset: 4095,
            len: 2,
            capacity: 4096
        }
    ));
    for last in 0..64 {
        dataplane
            .put(&Element::Frontend(key(last), frontend(1)))
            .unwrap();
    }
    let error = dataplane
        .put(&Element::Frontend(key(64), frontend(1)))
        .unwrap_err();
    assert!(
        error.to_string().starts_with("update FRONTENDS["),
        "{error}"
    );
    assert!(error.to_string().contains("192.0.2.64"), "{error}");
}

#[test]
fn maps_of_another_shape_are_not_adopted() {
    let pins = PinDir::new();
    pins.open()
        .put(&Element::Frontend(key(1), frontend(1)))
        .unwrap();
    let error = pins.open_with(|options| {
        options.maps[0].value_size = 40;
        options.maps[2].key_size = 8;
    });
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("FRONTENDS: value size is 32, must be 40"),
        "{error}"
    );
    assert!(
        error.contains("BACKENDS: key size is 4, must be 8"),
        "{error}"
    );
    let observed = pins.open().observe().unwrap();
    assert_eq!(observed.frontends, BTreeMap::from([(key(1), frontend(1))]));
}

#[test]
fn object_with_other_maps_leaves_no_pins() {
    let pins = PinDir::new();
    let error = pins.open_with(|options| options.maps[1].flags = 0);
    let error = error.err().unwrap();
    assert!(matches!(&error, Error::WrongObject { .. }), "{error}");
    assert!(
        error
            .to_string()
            .ends_with("SLOTS: flags is 1024, must be 0"),
        "{error}"
    );

    let error = pins.open_with(|options| {
        options.maps.push(MapSpec {
            name: "NOPE",
            ..SPECS[0]
        })
    });
    assert_eq!(
        error.err().unwrap().to_string(),
        "the object has no map NOPE"
    );
    pins.open();
}

#[test]
fn pins_that_others_could_have_made_are_not_trusted() {
    let pins = PinDir::new();
    drop(pins.open());
    fs::set_permissions(&pins.0, fs::Permissions::from_mode(0o755)).unwrap();
    let error = pins.open_with(|_| {}).err().unwrap().to_string();
    assert!(error.ends_with("its mode is 755, not 700"), "{error}");

    fs::set_permissions(&pins.0, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&pins.0, Some(65_534), None).unwrap();
    let error = pins.open_with(|_| {}).err().unwrap().to_string();
    assert!(error.ends_with("its owner is user 65534, not 0"), "{error}");
}
