//! What programs find, whatever is written.

use std::{fs::File, net::Ipv4Addr, os::fd::AsFd as _};

use lb_common::protocol;
use proptest::prelude::*;

use super::*;

const BUCKETS: usize = 2;

/// What a program finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Frontend(Frontend),
    /// It asks `FRONTENDS`.
    Spilled,
}

/// An index in plain files, which can be mapped just so.
fn index(copies: usize) -> (Index, [File; 2]) {
    let mapped = |words: usize| {
        let file = tempfile::tempfile().unwrap();
        file.set_len((words * 8) as u64).unwrap();
        (Words::new(file.as_fd(), words).unwrap(), file)
    };
    let (buckets, one) = mapped(BUCKETS * Bucket::WORDS);
    let (copies, other) = mapped(copies * COPY);
    (Index::new(buckets, copies), [one, other])
}

/// As `lb-ebpf/src/index.rs` does it.
fn look_up(index: &Index, key: &FrontendKey) -> Answer {
    let place = Place::of(key, index.len());
    let reference = Index::ways(place)
        .map(|at| Reference(index.word(at)))
        .find(|reference| reference.has(place.tag));
    let is_spilled = index.word(place.bucket as usize * Bucket::WORDS) & flags::SPILLED != 0;
    match reference {
        Some(reference) => match index.listed(reference.index()) {
            Some(listed) if listed.is_of(key) => Answer::Frontend(listed.frontend),
            _ => Answer::Spilled,
        },
        None if is_spilled => Answer::Spilled,
        None => Answer::Nothing,
    }
}

fn key(number: u8) -> FrontendKey {
    let addr = Ipv4Addr::new(10, 96, 0, number);
    FrontendKey::new(addr.into(), 80, protocol::TCP)
}

fn frontend(service: u32) -> Frontend {
    Frontend {
        service,
        ..Frontend::default()
    }
}

/// Whether programs find all that there is, and nothing else.
fn is_true(index: &Index, frontends: &BTreeMap<FrontendKey, Frontend>) -> bool {
    (0..=u8::MAX).map(key).all(|key| {
        let expected = match frontends.get(&key) {
            Some(frontend) => Answer::Frontend(*frontend),
            None => Answer::Nothing,
        };
        [expected, Answer::Spilled].contains(&look_up(index, &key))
    })
}

proptest! {
    #[test]
    fn programs_find_what_is_served_and_nothing_else_after_every_change(
        changes in prop::collection::vec((0_u8..30, prop::option::of(0_u32..3)), 0..100),
        copies in 1_usize..40,
    ) {
        let (mut index, _files) = index(copies);
        let mut frontends = BTreeMap::new();
        for (number, change) in changes {
            let key = key(number);
            if let Some(service) = change {
                frontends.insert(key, frontend(service));
                index.put(&key, &frontend(service));
            } else {
                index.remove(&key);
                frontends.remove(&key);
            }
            prop_assert!(is_true(&index, &frontends));
        }
        // With enough room, whoever has a place is found there.
        let places = Bucket::WORDS - 1;
        if copies == 39 && frontends.len() <= places {
            index.resting.clear();
            index.sync(&frontends);
            index.sync(&frontends);
            let found = |key: &FrontendKey| look_up(&index, key) != Answer::Spilled;
            prop_assert!(frontends.keys().all(found));
        }
    }

    /// Of another version, of a process that was killed, or of nobody: at the start there may be anything.
    #[test]
    fn whatever_is_there_at_the_start_is_set_right(
        words in prop::collection::vec((0..BUCKETS * Bucket::WORDS, 0_u8..30, 0_u32..9), 0..20),
        copies in prop::collection::vec((0_u8..30, 0_u32..3), 8),
        garbage in prop::collection::vec((0..BUCKETS * Bucket::WORDS, any::<u64>()), 0..3),
        served in prop::collection::btree_map(0_u8..30, 0_u32..3, 0..20),
    ) {
        let (mut index, _files) = index(40);
        for (copy, (number, service)) in (0..).zip(copies) {
            let (key, frontend) = (key(number), frontend(service));
            index.write(copy, &Listed { key, frontend, pad: [0; 3] });
        }
        for (at, number, copy) in words {
            index.set(at, Reference::new(Place::of(&key(number), 2).tag, copy).0);
        }
        for (at, word) in garbage {
            index.set(at, word);
        }
        let served = served.into_iter().map(|(number, service)| (key(number), frontend(service)));
        let frontends: BTreeMap<_, _> = served.collect();
        index.sync(&frontends);
        prop_assert!(is_true(&index, &frontends));
        index.sync(&frontends);
        prop_assert!(is_true(&index, &frontends));
        let before: Vec<_> = (0..BUCKETS * Bucket::WORDS).map(|at| index.word(at)).collect();
        index.sync(&frontends);
        let after: Vec<_> = (0..BUCKETS * Bucket::WORDS).map(|at| index.word(at)).collect();
        prop_assert_eq!(before, after, "what is right stays as it is");
        for key in frontends.keys() {
            index.remove(key);
            let is_gone = !matches!(look_up(&index, key), Answer::Frontend(_));
            prop_assert!(is_gone, "what is removed is found no more");
        }
    }
}

#[test]
fn a_copy_that_a_program_may_be_reading_is_not_written() {
    let (mut index, _files) = index(2);
    index.put(&key(1), &frontend(1));
    index.put(&key(1), &frontend(2));
    assert_eq!(look_up(&index, &key(1)), Answer::Frontend(frontend(2)));
    let both = [0, 1].map(|copy| index.listed(copy).unwrap().frontend);
    assert_eq!(both, [frontend(1), frontend(2)]);
    index.put(&key(1), &frontend(3));
    assert_eq!(look_up(&index, &key(1)), Answer::Spilled);
    let still = [0, 1].map(|copy| index.listed(copy).unwrap().frontend);
    assert_eq!(still, both);
}

#[test]
fn what_finds_no_copy_while_all_is_set_right_is_spilled() {
    let (mut index, _files) = index(2);
    for service in [1, 2] {
        index.put(&key(1), &frontend(service));
    }
    let changed = BTreeMap::from([(key(1), frontend(3))]);
    index.sync(&changed);
    assert_eq!(look_up(&index, &key(1)), Answer::Spilled);
}

#[test]
fn what_was_spilled_is_so_no_longer_once_there_is_room_at_a_start() {
    let (mut index, _files) = index(40);
    let all: BTreeMap<_, _> = (0..30).map(|number| (key(number), frontend(1))).collect();
    index.sync(&all);
    assert!(is_true(&index, &all));
    let is_spilled = |index: &Index| all.keys().any(|key| look_up(index, key) == Answer::Spilled);
    assert!(is_spilled(&index), "thirty do not fit into fourteen places");
    let few: BTreeMap<_, _> = (0..4).map(|number| (key(number), frontend(1))).collect();
    // Whoever has looked before knows at the next start.
    index.sync(&few);
    assert!(is_true(&index, &few));
    index.sync(&few);
    assert!(!is_spilled(&index));
    assert!(is_true(&index, &few));
}
