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
                    let oldest = there.iter().min_by_key(|(_, tick)| **tick).map(|(tag, _)| *tag);
                    let is_full = there.len() == WAYS;
                    if let (true, Some(oldest)) = (is_full, oldest) {
                        there.remove(&oldest);
                    }
                    there.insert(tag, tick);
                    let insertion = put(&bucket, tag, tick, Displace::First);
                    prop_assert!(insertion.result.is_ok());
                    prop_assert_eq!(insertion.has_displaced, is_full);
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
fn bucket_that_is_full_of_others_refuses_who_may_displace_nobody() {
    let bucket = bucket();
    for tag in 1..=WAYS as u32 {
        assert!(put(&bucket, tag, 1, Displace::Nobody).result.is_ok());
    }
    let insertion = put(&bucket, 99, 2, Displace::Nobody);
    assert_eq!(insertion.result, Err(Refused::NoRoom));
    assert!(!insertion.has_displaced);
    assert_eq!(tags(&bucket).len(), WAYS);
}

/// Somebody dies while a record is being written.
#[test]
fn claim_that_nobody_publishes_is_not_found_and_costs_one_way_until_it_is_cleared() {
    let bucket = bucket();
    assert!(bucket.exchange(3, Word::FREE, Word::FREE.claimed(Tag(7), 1)));
    assert_eq!(find(&bucket, Tag(7)), None);
    for tag in 10..30 {
        let insertion = put(&bucket, tag, tag.into(), Displace::First);
        assert!(insertion.result.is_ok_and(|way| way != 3));
    }
    assert_eq!(tags(&bucket).len(), WAYS - 1);
    assert_eq!(clear(&bucket), 1);
    assert_eq!(put(&bucket, 7, 40, Displace::Nobody).result, Ok(3));
}
