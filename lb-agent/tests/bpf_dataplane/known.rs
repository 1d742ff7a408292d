//! What programs can know of connections is made anew, and not trusted where it may be wrong.

use std::{fs, net::Ipv4Addr};

use aya::maps::{Array, Map, MapData};
use bytemuck::Zeroable as _;
use lb_agent::{
    dataplane::bpf::{self, Elsewhere, Known},
    interfaces::State,
};
use lb_common::{
    Flow, FlowKey, Tuple,
    flow::edge,
    known::{Point, Side, side_words},
    maps::{FLOWS, KNOWN, LAYOUT_VERSION},
    protocol,
};

use super::{
    PinDir,
    sweep::{key, put_at, records, remove},
};

/// The words of `KNOWN`.
fn words(pins: &PinDir) -> Array<MapData, u64> {
    let path = pins.0.join(format!("v{LAYOUT_VERSION}/maps/{KNOWN}"));
    Map::Array(MapData::from_pin(path).unwrap())
        .try_into()
        .unwrap()
}

/// The side that programs ask.
fn asked(words: &Array<MapData, u64>) -> Option<Side> {
    Side::named_by(words.get(&0, 0).unwrap())
}

/// Whether the flow with this number can be there, as a side has it.
fn has(words: &Array<MapData, u64>, side: Side, number: u16) -> bool {
    let of_side = side_words(words.len());
    let point = Point::of_flow(&key(number), of_side);
    words.get(&point.index(side, of_side), 0).unwrap() & point.mask != 0
}

/// Those of some numbers that can be there, as both sides have it.
fn known(words: &Array<MapData, u64>) -> [Vec<u16>; 2] {
    [Side::Left, Side::Right]
        .map(|side| (1..=9).filter(|number| has(words, side, *number)).collect())
}

#[test]
fn connections_are_noted_anew_on_the_side_that_nobody_asks() {
    let pins = PinDir::new();
    let mut dataplane = pins.open();
    let (words, mut flows) = (words(&pins), records(&pins, FLOWS));
    assert_eq!(asked(&words), None, "nothing is known at first");
    let anew = Known::open(&pins.0).unwrap();
    for number in [1, 2] {
        put_at(&mut flows, key(number), Flow::zeroed());
    }
    assert!(!anew.begin(), "programs of an earlier version may run");
    let synced = dataplane.sync_attachments(&State::default());
    assert!(synced.failed.is_empty());
    assert!(anew.begin());
    anew.finish().unwrap();
    assert_eq!(asked(&words), Some(Side::Left));
    assert_eq!(known(&words), [vec![1, 2], vec![]]);

    remove(&mut flows, key(1));
    put_at(&mut flows, key(3), Flow::zeroed());
    assert!(anew.begin());
    assert_eq!(
        asked(&words),
        Some(Side::Left),
        "until the other one is finished"
    );
    anew.finish().unwrap();
    assert_eq!(asked(&words), Some(Side::Right));
    assert_eq!(known(&words), [vec![1, 2], vec![2, 3]]);

    assert!(anew.begin());
    assert_eq!(known(&words), [vec![], vec![2, 3]]);

    // Whoever was there since the last agent may have noted nothing.
    drop(dataplane);
    let _next = pins.open();
    assert_eq!(asked(&words), None);
    assert!(!anew.begin());
}

#[test]
fn nothing_is_made_anew_while_there_is_a_link_of_somebody_else() {
    let pins = PinDir::new();
    let mut dataplane = pins.open();
    let anew = Known::open(&pins.0).unwrap();
    // One that can neither be taken over nor be removed.
    let layout = pins.0.join(format!("v{LAYOUT_VERSION}"));
    let link = layout.join("links/7-pod-ingress");
    fs::create_dir(&link).unwrap();
    let synced = dataplane.sync_attachments(&State::default());
    assert!(!synced.failed.is_empty());
    assert!(!anew.begin());

    fs::remove_dir(&link).unwrap();
    let synced = dataplane.sync_attachments(&State::default());
    assert!(synced.failed.is_empty());
    assert!(anew.begin());
}

#[test]
fn connections_that_are_left_to_netfilter_are_noted_on_both_sides() {
    let pins = PinDir::new();
    let _dataplane = pins.open();
    let words = words(&pins);
    let tuple = |src: [u8; 4], src_port, dst: [u8; 4], dst_port| Tuple {
        src: Ipv4Addr::from(src).into(),
        dst: Ipv4Addr::from(dst).into(),
        src_port,
        dst_port,
        protocol: protocol::TCP,
    };
    let connection = Elsewhere {
        forward: tuple([192, 0, 2, 9], 40_000, [192, 0, 2, 1], 30_080),
        reply: tuple([10, 0, 1, 2], 80, [192, 0, 2, 1], 61_234),
    };
    assert_eq!(bpf::leave(&pins.0, &[connection], 7).unwrap(), 1);
    let of_side = side_words(words.len());
    let taken = FlowKey::of_reply(&connection.reply, edge::WIRE_INGRESS);
    for point in [
        Point::of_pin(&connection.forward.pin(), of_side),
        Point::of_flow(&taken, of_side),
    ] {
        for side in [Side::Left, Side::Right] {
            let word = words.get(&point.index(side, of_side), 0).unwrap();
            assert_ne!(word & point.mask, 0, "{point:?} on {side:?}");
        }
    }
}
