//! What programs can know of connections is made anew, and not trusted where it may be wrong.

use aya::maps::{Array, Map, MapData};
use bytemuck::Zeroable as _;
use lb_agent::{dataplane::bpf::Known, interfaces::State};
use lb_common::{
    Flow,
    known::{Point, Side, side_words},
    maps::{FLOWS, KNOWN, LAYOUT_VERSION},
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
