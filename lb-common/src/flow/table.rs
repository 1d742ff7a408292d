//! The table of flows in one array: [`ways`] says which record is whose.

use super::{Flow, FlowKey};
use crate::{hash, ways};

/// Records of a bucket.
pub const WAYS: usize = 8;

/// A record, and whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The reply that it undoes.
    pub key: FlowKey,
    /// Zero.
    pub pad: u32,
    /// What is known of the connection.
    pub flow: Flow,
}

/// An element of `FLOW_TABLE`.
pub type Bucket = ways::Bucket<Record, WAYS>;

/// How many buckets programs have in a `FLOW_TABLE` with so many elements. One that has a single element, as a map must,
/// is not used: flows are in `FLOWS` and `OPENING`.
#[must_use]
pub const fn buckets(elements: u32) -> u32 {
    if elements > 1 { elements } else { 0 }
}

/// How many buckets a table has for so many flows that are kept: two records for each, since who finds his bucket full
/// gets another backend or port, or nothing.
#[must_use]
pub const fn buckets_for(flows: u32) -> u32 {
    flows.div_ceil(WAYS as u32 / 2)
}

/// The hash of a key, of which [`Place`] is made. Out of line: the stack of all calls together is small.
#[inline(never)]
#[must_use]
pub fn hash(key: &FlowKey, seed: u32) -> u64 {
    let ports = u64::from(key.src_port) | u64::from(key.dst_port) << 16;
    let edge = u64::from(key.edge ^ u32::from(key.protocol) << 24);
    let word = (ports | edge << 32) ^ u64::from(seed).wrapping_mul(hash::MULTIPLIER);
    hash::both(key.src, key.dst, word)
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
        self.flow.confirm(flow);
        self.flow.confirmed = flow.confirmed;
    }

    /// Whether it is of this key.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, key: &FlowKey) -> bool {
        let [a0, a1, a2, a3] = self.key.src.to_wire_words();
        let [b0, b1, b2, b3] = key.src.to_wire_words();
        let src = (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3);
        let [a0, a1, a2, a3] = self.key.dst.to_wire_words();
        let [b0, b1, b2, b3] = key.dst.to_wire_words();
        let dst = (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3);
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

    use bytemuck::Zeroable as _;

    use super::*;
    use crate::{Addr, flow::edge, protocol};

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
    fn table_of_one_bucket_is_none() {
        assert_eq!([0, 1, 2, 1024].map(buckets), [0, 0, 2, 1024]);
    }
}
