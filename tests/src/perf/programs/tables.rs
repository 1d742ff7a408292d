//! A table in one array (`lb_common::ways`), and hash maps with records as long: what an operation costs by
//! itself.

use std::mem;

use anyhow::{Result, ensure};

use super::{
    cell::Rig,
    driver::{Batch, Driver, FLOWS_MAX},
    reference::{MANY, SOME, XDP_TX, cost, fill, insert_by, measure_one, shuffle},
};
use crate::{
    perf::samples::Samples,
    ways::{HAMMERS, Hammer, processors, tell_processors},
};

/// Buckets of the table, of eight records each: half of them stay free.
const BUCKETS: u32 = 1 << 17;
/// Buckets of the table that has no room, and records of the LRU that has none.
const BUCKETS_FULL: u32 = 1 << 14;
const FULL: u32 = BUCKETS_FULL * 8;

/// A table, by its programs.
struct Kind {
    find: &'static str,
    insert: &'static str,
    /// Rows: a look-up of one flow, among some, and among many; an insertion.
    rows: [&'static str; 4],
}

const ARRAY: Kind = Kind {
    find: "lab_xdp_ways_find",
    insert: "lab_xdp_ways_insert",
    rows: [
        "record in an array, hot",
        "record in an array, 64k flows",
        "record in an array, 512k flows",
        "record in an array, insertion with room",
    ],
};

const HASH: Kind = Kind {
    find: "lab_xdp_record_hash",
    insert: "lab_xdp_record_insert",
    rows: [
        "record in a hash map, hot",
        "record in a hash map, 64k flows",
        "record in a hash map, 512k flows",
        "record in a hash map, insertion with room",
    ],
};

/// Measures them, with maps that nothing else needs.
pub(super) fn measure(rig: &mut Rig) -> Result<Vec<(&'static str, Samples)>> {
    let maps = [
        ("WAYS_WORDS", BUCKETS),
        ("WAYS_TABLE", BUCKETS * 8),
        ("WAYS_HASH", FLOWS_MAX as u32),
        ("WAYS_LRU", FULL),
    ];
    let usual = mem::replace(&mut rig.driver, Driver::load_with(&maps)?);
    let measured = all(rig);
    rig.driver = usual;
    measured
}

fn all(rig: &mut Rig) -> Result<Vec<(&'static str, Samples)>> {
    fill(rig)?;
    tell_processors(rig.driver.map_mut(HAMMERS)?, BUCKETS, 0)?;
    let mut found = Vec::new();
    for kind in [ARRAY, HASH] {
        found.push((kind.rows[3], insert(rig, kind.insert, 0)?));
        let all = Batch {
            first: 0,
            packets: MANY,
        };
        insert_by(rig, kind.insert, all)?;
    }
    shuffle(rig);
    for (at, flows) in [1, SOME, MANY].into_iter().enumerate() {
        for kind in [ARRAY, HASH] {
            found.push((kind.rows[at], cost(rig, kind.find, XDP_TX, flows)?));
        }
    }
    check_found(rig)?;
    tell_processors(rig.driver.map_mut(HAMMERS)?, BUCKETS_FULL, 0)?;
    for (row, program) in [
        ("record in an array, insertion with eviction", ARRAY.insert),
        (
            "record in an LRU hash map, insertion with eviction",
            "lab_xdp_record_lru",
        ),
    ] {
        let before = Batch {
            first: 0,
            packets: MANY / 2,
        };
        insert_by(rig, program, before)?;
        found.push((row, insert(rig, program, MANY / 2)?));
    }
    Ok(found)
}

/// Chance displaces one flow of a hundred from the array. If more are missing, something else was measured.
fn check_found(rig: &mut Rig) -> Result<()> {
    let all = processors(rig.driver.map_mut(HAMMERS)?)?;
    let sum = |count: fn(&Hammer) -> u64| all.iter().map(count).sum::<u64>();
    let (found, missed) = (sum(|hammer| hammer.read), sum(|hammer| hammer.no_room));
    ensure!(
        missed * 50 < found,
        "{missed} flows of {found} are not in the array"
    );
    Ok(())
}

/// What insertions cost, of flows that are not there, from the one with this number on.
fn insert(rig: &mut Rig, program: &str, first: usize) -> Result<Samples> {
    const EACH: usize = 1 << 14;
    let batches = (0..MANY / 2 / EACH).map(|round| Batch {
        first: first + round * EACH,
        packets: EACH,
    });
    measure_one(rig, program, XDP_TX, FLOWS_MAX, batches)
}
