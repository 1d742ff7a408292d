//! What earlier programs hold is carried over from maps of another layout.

use std::{fs, path::Path, process::Command};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use bytemuck::Zeroable as _;
use lb_agent::dataplane::{Dataplane as _, bpf::Error};
use lb_common::{
    Flow, FlowKey, Pin, PinKey,
    flow::opening::{self, WAYS},
    maps::{
        FLOWS, LAB_LAYOUT_VERSION, LAYOUT_VERSION, MMAPABLE, OPENING, OPENING_PINS, OPENING_WORDS,
    },
    ways::{Place, Word},
};

use super::{
    PinDir,
    carry::{
        assert_flows, assert_pins, assert_tidy, devices, fill, held, opening_pin, programs,
        put_pins, words_of_opening,
    },
    devices::{NOTHING, in_namespace, sync},
    soon,
    sweep::{self, records},
};

/// Bytes, as they lie in a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Bytes<const N: usize>([u8; N]);

// SAFETY: an array of bytes has no padding and no invalid bit patterns.
unsafe impl<const N: usize> aya::Pod for Bytes<N> {}

const KEY: usize = size_of::<FlowKey>();
const RECORD: usize = size_of::<Flow>();
const PIN_KEY: usize = size_of::<PinKey>();
const PIN: usize = size_of::<Pin>();
/// A record of the lab's layout: eight bytes, and one of ours.
const LONGER: usize = RECORD + 8;
/// A bucket of them.
const PAIR: usize = KEY.next_multiple_of(8) + LONGER;

/// Makes a map in the place of another one.
fn replace<T: TryFrom<Map, Error = MapError>>(path: &Path, looks: &str) -> T {
    fs::remove_file(path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut command = Command::new("bpftool");
    let command = command.args(["map", "create"]).arg(path);
    let command = command.args(looks.split(' ')).args(["name", name]);
    assert!(command.status().unwrap().success(), "{looks}");
    let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
    map.try_into().unwrap()
}

fn of_hash<const N: usize>(kind: &str) -> String {
    format!("type {kind} key {KEY} value {N} entries 1024")
}

fn seen_at(tick: u16) -> Flow {
    Flow {
        seen_tick: tick.into(),
        ..Flow::zeroed()
    }
}

fn longer(number: u16) -> [u8; LONGER] {
    let mut value = [0xff; LONGER];
    value[8..].copy_from_slice(bytemuck::bytes_of(&seen_at(number)));
    value
}

/// A record of the lab's layout.
fn pair(number: u16) -> [u8; PAIR] {
    let mut pair = [0; PAIR];
    pair[..KEY].copy_from_slice(bytemuck::bytes_of(&sweep::key(number)));
    pair[KEY.next_multiple_of(8)..].copy_from_slice(&longer(number));
    pair
}

/// Makes the pins those of the lab's layout.
fn become_the_labs(pins: &PinDir) {
    let ours = pins.0.join(format!("v{LAYOUT_VERSION}"));
    let at = |name| ours.join("maps").join(name);
    let mut flows: HashMap<_, Bytes<KEY>, Bytes<LONGER>> =
        replace(&at(FLOWS), &of_hash::<LONGER>("hash"));
    for number in 1..=20 {
        let key = bytemuck::cast(sweep::key(number));
        flows.insert(Bytes(key), Bytes(longer(number)), 0).unwrap();
    }
    let looks = format!("type array key 4 value {PAIR} entries 1024 flags {MMAPABLE}");
    let mut records: Array<_, Bytes<PAIR>> = replace(&at(OPENING), &looks);
    let mut words = words_of_opening(pins);
    let numbers: Vec<u16> = (101..=120).collect();
    for (bucket, numbers) in (0..).zip(numbers.chunks(7)) {
        let mut line = [0; WAYS];
        for (way, (word, number)) in line.iter_mut().zip(numbers).enumerate() {
            let tag = Place::of(u64::from(*number) << 8, 1).tag;
            *word = Word::FREE.claimed(tag, 7).published().0;
            let record = opening::record(bucket, way);
            records.set(record, Bytes(pair(*number)), 0).unwrap();
        }
        words.set(opening::line(bucket), line, 0).unwrap();
    }
    fs::rename(ours, pins.0.join(format!("v{LAB_LAYOUT_VERSION}"))).unwrap();
}

/// Makes `OPENING_PINS` that of the layouts in which it was a hash map.
fn hash_pins(path: &Path) {
    let looks = format!("type lru_hash key {PIN_KEY} value {PIN} entries 1024");
    let mut pins: HashMap<_, Bytes<PIN_KEY>, Bytes<PIN>> = replace(path, &looks);
    for (key, pin) in (1..=20).map(opening_pin) {
        let (key, pin) = (bytemuck::cast(key), bytemuck::cast(pin));
        pins.insert(Bytes(key), Bytes(pin), 0).unwrap();
    }
}

/// Makes the pins those of the fourth layout.
fn become_the_fourth(pins: &PinDir) {
    let ours = pins.0.join(format!("v{LAYOUT_VERSION}"));
    hash_pins(&ours.join("maps").join(OPENING_PINS));
    let mut opening = records(pins, OPENING);
    for number in 101..=120 {
        sweep::put_at(&mut opening, sweep::key(number), seen_at(number));
    }
    drop(opening);
    fs::rename(ours, pins.0.join("v4")).unwrap();
}

/// Makes the pins those of the third layout.
fn become_the_third(pins: &PinDir) {
    let ours = pins.0.join(format!("v{LAYOUT_VERSION}"));
    let path = ours.join("maps").join(OPENING);
    let mut opening: HashMap<_, Bytes<KEY>, Bytes<RECORD>> =
        replace(&path, &of_hash::<RECORD>("lru_hash"));
    for number in 101..=120 {
        let key = bytemuck::cast(sweep::key(number));
        let value = bytemuck::cast(seen_at(number));
        opening.insert(Bytes(key), Bytes(value), 0).unwrap();
    }
    fs::remove_file(path.with_file_name(OPENING_WORDS)).unwrap();
    hash_pins(&path.with_file_name(OPENING_PINS));
    fs::rename(ours, pins.0.join("v3")).unwrap();
}

/// What `become_another` makes of pins is taken over, with the links.
fn check_takeover(become_another: fn(&PinDir)) {
    in_namespace(move || {
        let pins = PinDir::new();
        let all = devices();
        let mut dataplane = pins.open();
        fill(&mut dataplane);
        put_pins(&pins);
        let before = held(&dataplane);
        let _attached = sync(&mut dataplane, &all);
        drop(dataplane);
        for number in 1..=20 {
            sweep::put_at(
                &mut records(&pins, FLOWS),
                sweep::key(number),
                seen_at(number),
            );
        }
        become_another(&pins);

        let mut dataplane = pins.open();
        assert_eq!(held(&dataplane), before);
        assert_flows(&pins);
        assert_pins(&pins);
        for (map, number) in [(FLOWS, 7), (OPENING, 107)] {
            let flow = sweep::flow(&records(&pins, map), number);
            assert_eq!(flow, seen_at(number), "the record itself");
        }
        assert_tidy(&pins);
        soon("the old programs have gone", || programs().len() == 5);
        assert_eq!(sync(&mut dataplane, &all), NOTHING);
    });
}

#[test]
fn maps_of_another_layout_are_taken_over_with_their_links() {
    check_takeover(become_the_labs);
}

#[test]
fn maps_of_the_layout_in_which_their_pins_were_in_a_hash_map_are_taken_over_with_their_links() {
    check_takeover(become_the_fourth);
}

#[test]
fn maps_of_the_layout_in_which_connections_opened_in_a_hash_map_are_taken_over_with_their_links() {
    check_takeover(become_the_third);
}

#[test]
fn maps_of_an_unknown_layout_are_left_alone_unless_told_otherwise() {
    let pins = PinDir::new();
    drop(pins.open());
    let unknown = pins.0.join("v4294967295");
    fs::rename(pins.0.join(format!("v{LAYOUT_VERSION}")), &unknown).unwrap();
    let error = pins.open_with(|_| {}).err().unwrap();
    assert!(
        matches!(
            error,
            Error::UnknownLayout {
                version: u32::MAX,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("--discard-unknown-layouts"),
        "{error}"
    );
    assert!(unknown.exists());

    let dataplane = pins.open_with(|options| options.discards_unknown_layouts = true);
    assert_eq!(dataplane.unwrap().observe().unwrap().frontends.len(), 0);
    assert_tidy(&pins);
}
