//! Pins of connections that no client has confirmed, in an array: where chance puts them, the newest first.
//!
//! To insert into a hash map that forgets its oldest elements takes half a microsecond. Nothing here is allocated,
//! freed or put in order: whoever writes moves those of a bucket up by one, and the last one is forgotten. Nobody is excluded meanwhile, so a pin is good only with the word that goes with it.
//!
//! Most connections have none, and their first packets would wait for a bucket that is in no cache. So a few bits of
//! each pin's hash lie by themselves, in a sixteenth of the room, in front of all buckets.

#[cfg(doc)]
use super::opening;
use super::{Pin, PinKey};
use crate::hash;

/// Pins of a bucket.
pub const WAYS: usize = 4;
/// Words of a bucket.
pub const WORDS: usize = 2 * WAYS;

/// An element of `OPENING_PINS`, a cache line: a bucket, which has for each pin the key's hash, mixed with the pin, and the pin; or
/// [`Tags`] of several buckets.
pub type Line = [u64; WORDS];

/// How many buckets have their tags in one element.
pub const TAGS: usize = size_of::<Line>() / size_of::<Tags>();

/// How many buckets there are for so many connections that are opening: two pins for each of these, since where chance puts five
/// into a bucket, one goes before its turn.
#[must_use]
pub const fn buckets(records: u32) -> u32 {
    records.div_ceil(WAYS as u32 / 2)
}

/// How many elements `OPENING_PINS` has with so many buckets.
#[must_use]
pub const fn elements(buckets: u32) -> u32 {
    buckets.div_ceil(TAGS as u32) + buckets
}

/// How many buckets an `OPENING_PINS` of so many elements has.
#[must_use]
pub const fn buckets_of(elements: u32) -> u32 {
    (elements as u64 * TAGS as u64 / (TAGS as u64 + 1)) as u32
}

/// Where a key's pin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The element that its bucket is.
    pub bucket: u32,
    /// The element with the bucket's tags,
    pub tags: u32,
    /// and which of these they are.
    pub at: u32,
}

impl Place {
    /// Of a key with this hash, in so many buckets.
    #[inline(always)]
    #[must_use]
    pub fn of(hash: u64, buckets: u32) -> Self {
        let bucket = (((hash >> 32) * u64::from(buckets)) >> 32) as u32;
        Self {
            bucket: buckets.div_ceil(TAGS as u32) + bucket,
            tags: bucket / TAGS as u32,
            at: bucket % TAGS as u32,
        }
    }
}

/// A byte for each pin of a bucket, the newest first: if none is that of a key, the key has no pin there.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags(pub u32);

impl Tags {
    const ONES: u32 = 0x0101_0101;

    /// Of the pin of a key with this hash; 0 of none, and of no other.
    #[inline(always)]
    fn tag(hash: u64) -> u32 {
        let tag = u32::from((hash >> 24) as u8);
        if hash == 0 { 0 } else { tag.max(1) }
    }

    /// Whether one of them is that of a key with this hash.
    #[inline(always)]
    #[must_use]
    pub fn have(self, hash: u64) -> bool {
        // One byte is zero: only then does it borrow from its highest bit.
        let differ = self.0 ^ (Self::tag(hash) * Self::ONES);
        differ.wrapping_sub(Self::ONES) & !differ & (Self::ONES << 7) != 0
    }

    /// Those of a bucket as it is now.
    #[inline(always)]
    fn of(words: &impl Words) -> Self {
        let mut tags = 0;
        for way in (0..WAYS).rev() {
            tags = tags << 8 | Self::tag(hash_at(words, way));
        }
        Self(tags)
    }
}

/// The words of a bucket, which others may write at any time: there are [`WORDS`].
pub trait Words {
    /// Reads one, whole.
    fn read(&self, at: usize) -> u64;
    /// Writes one, whole.
    fn write(&self, at: usize, word: u64);
}

/// What stands for a key, under the seed of [`opening`]; never 0, as where there is no pin.
///
/// Nobody is to know two keys of one hash, or of one bucket: the connection of the first one would go on by the pin of the
/// other, or not at all.
#[inline(always)]
#[must_use]
pub fn hash(key: &PinKey, seed: u64) -> u64 {
    let ports = u64::from(key.src_port) | u64::from(key.dst_port) << 16;
    let word = ports | u64::from(key.protocol) << 32;
    hash::secret(key.src, key.dst, word, seed) | 1
}

/// The pin of a key with this hash.
#[inline(always)]
#[must_use]
pub fn find(words: &impl Words, hash: u64) -> Option<Pin> {
    for way in 0..WAYS {
        let (check, pin) = read(words, way);
        if check ^ pin == hash {
            return Some(Pin::from_word(pin));
        }
    }
    None
}

/// Puts the pin of a key first. All up to its former one move up by one, or all up to a free way, or all, and the last one is
/// forgotten. Returns the bucket's tags.
#[inline(always)]
pub fn put(words: &impl Words, hash: u64, pin: Pin) -> Tags {
    let mut last = WAYS - 1;
    for way in 0..WAYS {
        let there = hash_at(words, way);
        if there == hash || there == 0 {
            last = way;
            break;
        }
    }
    // From behind: whoever reads meanwhile meets one twice, and misses none but the last.
    for way in (1..WAYS).rev() {
        if way <= last {
            write(words, way, read(words, way - 1));
        }
    }
    let pin = pin.word();
    write(words, 0, (hash ^ pin, pin));
    Tags::of(words)
}

#[inline(always)]
fn read(words: &impl Words, way: usize) -> (u64, u64) {
    (words.read(2 * way), words.read(2 * way + 1))
}

#[inline(always)]
fn write(words: &impl Words, way: usize, pair: (u64, u64)) {
    words.write(2 * way, pair.0);
    words.write(2 * way + 1, pair.1);
}

/// Of a way: 0 where there is no pin.
#[inline(always)]
fn hash_at(words: &impl Words, way: usize) -> u64 {
    let (check, pin) = read(words, way);
    check ^ pin
}

/// All pins of a bucket by the hashes of their keys, the newest first.
pub fn all(words: &impl Words) -> impl Iterator<Item = (u64, Pin)> {
    let pins = (0..WAYS).map(|way| read(words, way));
    pins.map(|(check, pin)| (check ^ pin, Pin::from_word(pin)))
        .filter(|(hash, _)| *hash != 0)
}

/// Forgets the pin of a key. Its tag stays until the next one is put.
pub fn remove(words: &impl Words, hash: u64) {
    for way in 0..WAYS {
        if hash_at(words, way) == hash {
            write(words, way, (0, 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::{collections::BTreeSet, vec::Vec};

    use bytemuck::Zeroable as _;
    use proptest::prelude::*;

    use super::*;
    use crate::BackendRef;

    #[derive(Default)]
    struct Bucket([Cell<u64>; WORDS]);

    impl Words for Bucket {
        fn read(&self, at: usize) -> u64 {
            self.0[at].get()
        }

        fn write(&self, at: usize, word: u64) {
            self.0[at].set(word);
        }
    }

    fn pin(number: u32) -> Pin {
        Pin {
            backend: BackendRef::new(number, 1),
            source_port: number as u16,
            pad: 0,
        }
    }

    fn numbers(bucket: &Bucket) -> Vec<u64> {
        all(bucket).map(|(hash, _)| hash).collect()
    }

    #[test]
    fn newest_pins_of_a_bucket_are_found_and_the_oldest_is_forgotten() {
        let bucket = Bucket::default();
        assert_eq!(find(&bucket, 1), None);
        for number in 1..=5 {
            put(&bucket, number.into(), pin(number));
        }
        assert_eq!(numbers(&bucket), [5, 4, 3, 2]);
        assert_eq!(find(&bucket, 1), None);
        for number in 2..=5 {
            assert_eq!(find(&bucket, number.into()), Some(pin(number)));
        }
    }

    #[test]
    fn pin_that_is_put_again_comes_first_and_displaces_none() {
        let bucket = Bucket::default();
        for number in [1, 2, 3, 4, 2] {
            put(&bucket, number.into(), pin(10 + number));
        }
        assert_eq!(numbers(&bucket), [2, 4, 3, 1]);
        put(&bucket, 1, pin(21));
        assert_eq!(numbers(&bucket), [1, 2, 4, 3]);
        assert_eq!(find(&bucket, 1), Some(pin(21)));
        assert_eq!(find(&bucket, 3), Some(pin(13)));
    }

    #[test]
    fn pin_that_is_removed_is_gone_and_its_place_is_taken() {
        let bucket = Bucket::default();
        for number in 1..=4 {
            put(&bucket, number.into(), pin(number));
        }
        remove(&bucket, 3);
        assert_eq!(
            (find(&bucket, 3), numbers(&bucket)),
            (None, [4, 2, 1].into())
        );
        put(&bucket, 7, pin(7));
        assert_eq!(numbers(&bucket), [7, 4, 2, 1]);
    }

    /// A reader, or somebody who moves it up, meets the check of one and the pin of another.
    #[test]
    fn halves_of_two_pins_are_none() {
        let (one, other) = (Bucket::default(), Bucket::default());
        put(&one, 1, pin(1));
        put(&other, 1, pin(2));
        let torn = Bucket::default();
        torn.write(0, one.read(0));
        torn.write(1, other.read(1));
        assert_eq!(find(&torn, 1), None);
    }

    proptest! {
        #[test]
        fn what_was_put_last_is_found(puts in prop::collection::vec((1_u64..9, 1_u32..99), 1..40)) {
            let bucket = Bucket::default();
            for (hash, number) in &puts {
                put(&bucket, *hash, pin(*number));
            }
            let mut newest: Vec<(u64, u32)> = Vec::new();
            for (hash, number) in puts.iter().rev() {
                if newest.len() < WAYS && !newest.iter().any(|(there, _)| there == hash) {
                    newest.push((*hash, *number));
                }
            }
            let newest: Vec<_> = newest.into_iter().map(|(hash, number)| (hash, pin(number))).collect();
            prop_assert_eq!(all(&bucket).collect::<Vec<_>>(), newest);
        }

        #[test]
        fn tags_are_those_of_a_buckets_pins_and_of_few_others(hashes in prop::collection::vec(any::<u64>(), 1..40)) {
            let (bucket, mut tags) = (Bucket::default(), Tags::default());
            prop_assert!(!tags.have(hashes[0] | 1), "of an empty bucket");
            // Some come again.
            for hash in hashes.iter().chain(hashes.iter().step_by(3)).map(|hash| hash | 1) {
                tags = put(&bucket, hash, pin(1));
                prop_assert_eq!(tags.0 as u8, ((hash >> 24) as u8).max(1));
                let mut known: Vec<_> = all(&bucket).map(|(hash, _)| Tags::tag(hash) as u8).collect();
                prop_assert!(all(&bucket).all(|(hash, _)| tags.have(hash)));
                known.resize(WAYS, 0);
                prop_assert_eq!(&tags.0.to_le_bytes()[..], &known[..]);
            }
            for tag in 0..=u8::MAX {
                let expected = tags.0.to_le_bytes().contains(&tag.max(1));
                prop_assert_eq!(tags.have(u64::from(tag) << 24 | 1), expected, "{} in {:x}", tag, tags.0);
            }
        }

        #[test]
        fn elements_have_room_for_each_bucket_and_its_tags(buckets in 1..1_u32 << 20, hash: u64) {
            let elements = elements(buckets);
            prop_assert_eq!(buckets_of(elements), buckets);
            let place = Place::of(hash, buckets);
            prop_assert!(place.bucket < elements);
            prop_assert!(place.tags < elements - buckets);
            prop_assert!((place.at as usize) < TAGS);
            prop_assert_eq!(place.tags * TAGS as u32 + place.at, place.bucket - (elements - buckets));
        }

        #[test]
        fn words_are_pins(index in 0..1_u32 << 24, generation: u8, source_port: u16) {
            let pin = Pin { backend: BackendRef::new(index, generation), source_port, pad: 0 };
            prop_assert_eq!(Pin::from_word(pin.word()), pin);
        }
    }

    #[test]
    fn there_is_room_for_two_pins_of_each_connection() {
        for records in [1, 2, 3, 131_072] {
            assert!(buckets(records) * WAYS as u32 >= 2 * records);
        }
    }

    /// In 2^16 buckets by chance, 63 % of so many keys' buckets are different ones.
    #[test]
    fn keys_that_lie_beside_each_other_have_buckets_all_over() {
        let key = |client: u16, port| PinKey {
            src: core::net::Ipv4Addr::new(10, 244, (client >> 8) as u8, client as u8).into(),
            src_port: port,
            dst_port: 443,
            protocol: crate::protocol::TCP,
            ..PinKey::zeroed()
        };
        let check = |keys: &mut dyn Iterator<Item = PinKey>| {
            let hashes: Vec<_> = keys.map(|key| hash(&key, 7)).collect();
            let own: BTreeSet<_> = hashes
                .iter()
                .map(|hash| Place::of(*hash, 1 << 16).bucket)
                .collect();
            assert!(own.len() > 40_000, "{}", own.len());
            let most = (1..=u8::MAX).map(|tag| {
                hashes
                    .iter()
                    .filter(|hash| Tags::tag(**hash) == u32::from(tag))
                    .count()
            });
            // Twice as many as of any other are 1.
            assert!(
                most.max().unwrap() < 3 * (1 << 16) / 256,
                "tags are all alike"
            );
        };
        check(&mut (0..=u16::MAX).map(|port| key(1, port)));
        check(&mut (0..=u16::MAX).map(|client| key(client, 40_000)));
    }
}
