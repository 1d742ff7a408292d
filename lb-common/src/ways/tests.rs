//! What holds for a bucket that one at a time changes.

mod model;

use core::cell::Cell;
use std::{collections::BTreeMap, vec::Vec};

use proptest::prelude::*;

use super::*;

const WAYS: usize = 8;

struct Bucket([Cell<u64>; WAYS]);

impl Words<WAYS> for Bucket {
    fn word(&self, way: usize) -> Word {
        Word(self.0[way].get())
    }

    fn exchange(&self, way: usize, from: Word, to: Word) -> bool {
        let is_it = self.0[way].get() == from.0;
        if is_it {
            self.0[way].set(to.0);
        }
        is_it
    }

    fn store(&self, way: usize, _: Word, to: Word) -> bool {
        self.0[way].set(to.0);
        true
    }
}

fn bucket() -> Bucket {
    Bucket(array::from_fn(|_| Cell::new(0)))
}

fn put(bucket: &Bucket, tag: u32, tick: u64, displace: Displace) -> Insertion {
    insert(bucket, Tag(tag), tick, displace, |_| {})
}

fn tags(bucket: &Bucket) -> Vec<u32> {
    let words = all(bucket).into_iter();
    let mut tags: Vec<u32> = words
        .filter(|word| word.is_published())
        .map(Word::tag)
        .collect();
    tags.sort_unstable();
    tags
}

proptest! {
    #[test]
    fn bucket_has_those_that_were_touched_last(
        first in 0_u64..1 << 40,
        steps in prop::collection::vec((1_u32..20, 0_u8..3, 1_u64..1000), 0..200),
    ) {
        let bucket = bucket();
        let (mut there, mut tick) = (BTreeMap::new(), first);
        for (tag, what, after) in steps {
            tick += after;
            let found = find(&bucket, Tag(tag));
            prop_assert_eq!(found.is_some(), there.contains_key(&tag));
            match (what, found) {
                (0, None) => {
                    let oldest = there.iter().min_by_key(|(_, tick)| **tick);
                    let oldest = oldest.map(|(tag, _)| *tag);
                    let is_full = there.len() == WAYS;
                    let insertion = put(&bucket, tag, tick, Displace::First);
                    prop_assert_eq!(insertion.has_displaced, is_full);
                    prop_assert!(insertion.result.is_ok());
                    if let (true, Some(oldest)) = (is_full, oldest) {
                        there.remove(&oldest);
                    }
                    there.insert(tag, tick);
                }
                (0, Some(_)) => {
                    let insertion = put(&bucket, tag, tick, Displace::First);
                    prop_assert_eq!(insertion.result, Err(Refused::There));
                }
                (1, Some((way, word))) => {
                    touch(&bucket, way, word, tick);
                    there.insert(tag, tick);
                }
                (2, Some((way, word))) => {
                    prop_assert!(remove(&bucket, way, word));
                    there.remove(&tag);
                }
                _ => {}
            }
            prop_assert_eq!(tags(&bucket), there.keys().copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_hash_has_a_place(hash: u64, buckets in 1_u32..) {
        let place = Place::of(hash, buckets);
        prop_assert!(place.bucket < buckets);
        let word = Word::FREE.claimed(place.tag, hash);
        prop_assert!(word.has(place.tag) && word.is_claimed() && !word.is_published());
        prop_assert!(word.is_revocable() && !word.firm().is_revocable());
        prop_assert!(word.firm().has(place.tag) && word.firm().is_claimed());
        prop_assert_eq!(word.firm().published(), word.published());
        prop_assert_eq!(word.firm().freed(), word.freed());
        prop_assert!(word.published().has(place.tag) && word.published().is_published());
        prop_assert!(!word.revoked().has(place.tag) && word.revoked().is_claimed());
        prop_assert!(word.freed().is_free() && !word.revoked().is_free());
    }

    #[test]
    fn lowest_bit_is_found(set in 1_u64..) {
        prop_assert_eq!(lowest(set), set.trailing_zeros() as usize);
    }
}

#[test]
fn who_may_displace_nobody_is_refused_where_all_ways_are_taken() {
    let bucket = bucket();
    for tag in 1..=WAYS as u32 {
        assert!(put(&bucket, tag, 7, Displace::Nobody).result.is_ok());
    }
    let insertion = put(&bucket, 99, 1000, Displace::Nobody);
    assert_eq!(insertion.result, Err(Refused::NoRoom));
    assert!(!insertion.has_displaced);
    assert_eq!(tags(&bucket).len(), WAYS);
}

/// A flood of minutes ago must not be taken for newer than what comes now.
#[test]
fn the_longer_a_record_was_not_used_the_sooner_it_goes() {
    let old = |ticks: u64| {
        Word::FREE
            .claimed(Tag(1), 5_u64.wrapping_sub(ticks))
            .published()
    };
    let mut ranks = [
        0,
        1,
        5000,
        Word::OLD - 1,
        Word::OLD,
        Word::OLD + 1,
        2 * Word::OLD - 5000,
    ]
    .map(|ticks| old(ticks).rank(5, |bits| bits));
    assert!(ranks.is_sorted_by(|one, next| one < next), "{ranks:?}");
    ranks[6] = old(2 * Word::OLD - 1000).rank(5, |bits| bits);
    assert_eq!(ranks[6], ranks[0], "another processor is ahead");
}

#[test]
fn what_is_held_back_stays_old_however_much_time_passes() {
    let word = Word::FREE.claimed(Tag(1), 7).published();
    assert_eq!(word.held_back(7 + Word::OLD), word);
    let (mut held, mut tick) = (word, 7);
    for _ in 0..75 {
        tick += 30_000;
        held = held.held_back(tick);
    }
    assert_eq!(held.age(tick, |bits| bits), Word::OLD);
    assert!(held.is_same(word) && held.is_published());
    assert!(
        !word.is_older(tick, Word::OLD),
        "nobody has held this one back"
    );
}

/// Somebody dies while a record is being written.
#[test]
fn claim_that_nobody_publishes_costs_a_way_and_its_tag_until_it_is_cleared() {
    let claimed = Word::FREE.claimed(Tag(7), 1);
    for left in [claimed, claimed.firm()] {
        check_left(left);
    }
}

#[track_caller]
fn check_left(left: Word) {
    let bucket = bucket();
    assert!(bucket.exchange(3, Word::FREE, left));
    assert_eq!(find(&bucket, Tag(7)), None);
    let insertion = put(&bucket, 7, 2, Displace::First);
    assert_eq!(insertion.result, Err(Refused::There));
    for tag in 10..30 {
        let insertion = put(&bucket, tag, tag.into(), Displace::First);
        assert!(insertion.result.is_ok_and(|way| way != 3));
    }
    assert_eq!(tags(&bucket).len(), WAYS - 1);
    assert_eq!(clear(&bucket, 40, 39), 0, "it may be written still");
    assert_eq!(clear(&bucket, 40, 38), 1);
    assert_eq!(put(&bucket, 7, 40, Displace::Nobody).result, Ok(3));
}

/// By `clear`, or by a program of a former version.
#[test]
fn what_was_taken_from_its_claimant_is_not_published() {
    let claimed = Word::FREE.claimed(Tag(7), 1);
    let others = Word::FREE.claimed(Tag(8), 2).firm();
    for (now, then) in [
        (
            claimed.firm().revoked(),
            Word::FREE.claimed(Tag(7), 1).freed(),
        ),
        (claimed.freed(), claimed.freed()),
        (others, others),
    ] {
        let bucket = bucket();
        assert!(bucket.exchange(3, Word::FREE, now));
        assert!(!publish(&bucket, Tag(7), 3));
        assert!(bucket.word(3) == then || bucket.word(3).is_free() && then.is_free());
    }
}

#[test]
fn nothing_is_done_to_a_way_that_is_free_or_claimed() {
    let bucket = bucket();
    let claimed = Word::FREE.claimed(Tag(7), 1);
    assert!(!is_claimed(&bucket, Tag(7)));
    assert!(bucket.exchange(3, Word::FREE, claimed));
    assert!(is_claimed(&bucket, Tag(7)) && !is_claimed(&bucket, Tag(6)));
    for (way, word) in [(2, Word::FREE), (3, claimed)] {
        touch(&bucket, way, word, 9);
        assert!(!remove(&bucket, way, word));
        assert_eq!(bucket.word(way), word);
    }
    for gone in [claimed.published(), claimed.revoked()] {
        let now = bucket.word(3);
        assert!(bucket.exchange(3, now, gone));
        assert!(!is_claimed(&bucket, Tag(7)), "nobody has it to publish");
    }
}

/// Ticks of processors are apart, and the one that inserts has read its own a moment ago.
#[test]
fn record_that_was_touched_a_tick_ahead_is_not_the_oldest() {
    let bucket = bucket();
    for tag in 1..=WAYS as u32 {
        assert!(
            put(&bucket, tag, 90 + u64::from(tag), Displace::First)
                .result
                .is_ok()
        );
    }
    let (way, word) = find(&bucket, Tag(5)).expect("a record");
    touch(&bucket, way, word, 101);
    assert!(put(&bucket, 99, 100, Displace::First).has_displaced);
    assert!(find(&bucket, Tag(5)).is_some() && find(&bucket, Tag(1)).is_none());
}
