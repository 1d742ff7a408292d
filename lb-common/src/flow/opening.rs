//! The table of flows that are opening, in arrays: [`ways`] says which record is whose.
//!
//! Words lie by themselves: a packet waits for those of a bucket that nobody has looked at lately, and all of them
//! together are a twentieth of the records.

use bytemuck::{Pod, Zeroable};

use super::{Flow, FlowKey};
use crate::hash;
#[cfg(doc)]
use crate::ways;

/// Records of a bucket.
pub const WAYS: usize = 8;

/// A record, and whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Record {
    /// The reply that it undoes.
    pub key: FlowKey,
    /// Zero.
    pub pad: u32,
    /// What is known of the connection.
    pub flow: Flow,
}

/// An element of `OPENING_WORDS`: those of a bucket.
pub type Line = [u64; WAYS];

/// Elements of `OPENING_WORDS` in front of the buckets: the first word of the first one is the seed of [`hash`].
pub const HEADER: u32 = 1;

/// How many buckets an `OPENING` of so many records has.
#[must_use]
pub const fn buckets(records: u32) -> u32 {
    records / WAYS as u32
}

/// How many records an `OPENING` for so many flows has: whole buckets.
#[must_use]
pub const fn records(flows: u32) -> u32 {
    flows.div_ceil(WAYS as u32).saturating_mul(WAYS as u32)
}

/// How many elements the `OPENING_WORDS` of so many records has.
#[must_use]
pub const fn lines(records: u32) -> u32 {
    HEADER + buckets(records)
}

/// Which element of `OPENING_WORDS` a bucket's words are.
#[inline(always)]
#[must_use]
pub const fn line(bucket: u32) -> u32 {
    HEADER + bucket
}

/// Which element of `OPENING` a record of a bucket is.
#[inline(always)]
#[must_use]
pub const fn record(bucket: u32, way: usize) -> u32 {
    bucket * WAYS as u32 + way as u32
}

/// The hash of a key under a seed that nobody knows.
#[inline(always)]
#[must_use]
pub fn hash(key: &FlowKey, seed: u64) -> u64 {
    let ports = u64::from(key.src_port) | u64::from(key.dst_port) << 16;
    let edge = u64::from(key.edge ^ u32::from(key.protocol) << 24);
    hash::secret(key.src, key.dst, ports | edge << 32, seed)
}

impl Record {
    /// Makes this the record of a flow. In place, and word by word: see [`Flow::begin`].
    #[inline(always)]
    pub fn write(&mut self, key: &FlowKey, flow: &Flow) {
        self.key.src = key.src.by_words();
        self.key.dst = key.dst.by_words();
        self.key.src_port = key.src_port;
        self.key.dst_port = key.dst_port;
        self.key.edge = key.edge;
        self.key.protocol = key.protocol;
        self.flow.copy(flow);
    }

    /// Whether it is of this key.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, key: &FlowKey) -> bool {
        let src = self.key.src.differs_from(key.src);
        let dst = self.key.dst.differs_from(key.dst);
        let ports = u32::from(self.key.src_port ^ key.src_port)
            | u32::from(self.key.dst_port ^ key.dst_port);
        let rest = (self.key.edge ^ key.edge) | u32::from(self.key.protocol ^ key.protocol);
        src | dst | ports | rest == 0
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;
    use std::{collections::BTreeSet, vec::Vec};

    use super::*;
    use crate::{Addr, flow::edge, protocol, ways::Place};

    fn addr(last: u16) -> Addr {
        Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, last).into()
    }

    /// A key, and those that differ from it in one thing.
    fn keys() -> Vec<FlowKey> {
        let key = FlowKey {
            src: addr(1),
            dst: addr(2),
            src_port: 80,
            dst_port: 40_000,
            edge: 7,
            protocol: protocol::TCP,
            ..FlowKey::zeroed()
        };
        let (src, dst) = (addr(3), addr(3));
        std::vec![
            key,
            FlowKey { src, ..key },
            FlowKey { dst, ..key },
            FlowKey {
                src_port: 81,
                ..key
            },
            FlowKey {
                dst_port: 40_001,
                ..key
            },
            FlowKey {
                edge: edge::WIRE_EGRESS,
                ..key
            },
            FlowKey {
                protocol: protocol::UDP,
                ..key
            },
        ]
    }

    #[test]
    fn record_is_of_its_key_and_of_no_other() {
        let keys = keys();
        for (one, key) in keys.iter().enumerate() {
            let mut record = Record {
                key: FlowKey::zeroed(),
                pad: 0,
                flow: Flow::zeroed(),
            };
            record.write(key, &Flow::zeroed());
            assert_eq!(record.key, *key);
            for (other, key) in keys.iter().enumerate() {
                assert_eq!(record.is_of(key), one == other, "{key:?}");
            }
        }
    }

    #[test]
    fn everything_in_a_key_and_the_seed_say_where_it_is() {
        let hashes: BTreeSet<_> = keys().iter().map(|key| hash(key, 1)).collect();
        assert_eq!(hashes.len(), keys().len());
        assert!(keys().iter().all(|key| !hashes.contains(&hash(key, 2))));
    }

    #[test]
    fn there_is_room_for_what_was_asked_for_in_whole_buckets() {
        for flows in [1, 8, 9, 131_072] {
            let records = records(flows);
            assert!((flows..flows + WAYS as u32).contains(&records), "{flows}");
            assert_eq!(buckets(records) * WAYS as u32, records);
            assert_eq!(lines(records), HEADER + buckets(records));
        }
    }

    #[test]
    fn each_way_of_each_bucket_has_a_record_of_its_own_and_no_words_are_the_header() {
        let ways = (0..3).flat_map(|bucket| (0..WAYS).map(move |way| record(bucket, way)));
        assert_eq!(ways.collect::<Vec<_>>(), Vec::from_iter(0..records(24)));
        assert_eq!([0, 1, 2].map(line), [1, 2, 3]);
        assert!(line(2) < lines(records(24)));
    }

    /// Without a secret multiplier, these addresses have one hash under each seed.
    #[test]
    fn nobody_knows_addresses_that_have_one_hash() {
        let [key, ..] = keys()[..] else {
            unreachable!()
        };
        let seeds = (1..1000_u64).map(|seed| seed.wrapping_mul(hash::MULTIPLIER));
        let mut octets = key.dst.octets;
        for at in [3, 7, 15] {
            octets[at] ^= 0x80;
        }
        let other = FlowKey {
            dst: Addr { octets },
            ..key
        };
        let bucket = |key, seed| Place::of(hash(key, seed), 1 << 14).bucket;
        let same = seeds.filter(|seed| bucket(&key, *seed) == bucket(&other, *seed));
        assert!(same.count() < 5);
    }
}
