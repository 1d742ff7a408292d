//! The trie of networks whose clients a Service port serves.

use std::collections::BTreeSet;

use aya::{
    Ebpf,
    maps::{LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use lb_common::{SourceRange, maps::SOURCE_RANGES};

use super::{
    error::Error,
    maps::{failed, take, unusable},
};
use crate::dataplane::Error as DataplaneError;

/// Bytes of a key without its length.
const PREFIX: usize = size_of::<SourceRange>() - size_of::<u32>();

/// The map `SOURCE_RANGES`.
pub(super) struct Ranges {
    trie: LpmTrie<MapData, [u8; PREFIX], u32>,
    max_entries: u32,
}

impl Ranges {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map = take(ebpf, SOURCE_RANGES)?;
        let info = match &map {
            Map::LpmTrie(data) => data.info(),
            _ => Err(MapError::InvalidMapType { map_type: 0 }),
        };
        let wrong = |source| unusable(SOURCE_RANGES, source);
        Ok(Self {
            max_entries: info.map_err(wrong)?.max_entries(),
            trie: map.try_into().map_err(wrong)?,
        })
    }

    pub(super) fn max_entries(&self) -> u32 {
        self.max_entries
    }

    pub(super) fn put(&mut self, range: &SourceRange) -> Result<(), MapError> {
        self.trie.insert(&key(range), 1, 0)
    }

    pub(super) fn remove(&mut self, range: &SourceRange) -> Result<(), MapError> {
        self.trie.remove(&key(range))
    }

    pub(super) fn read(&self) -> Result<BTreeSet<SourceRange>, DataplaneError> {
        let refused = |error| failed("read", SOURCE_RANGES, "next", error);
        self.trie
            .keys()
            .map(|key| key.map(|key| range(&key)).map_err(refused))
            .collect()
    }
}

/// A range in the form of the trie: the length of the prefix, and the rest as it lies in memory.
fn key(range: &SourceRange) -> Key<[u8; PREFIX]> {
    let mut prefix = [0; PREFIX];
    prefix.copy_from_slice(&bytemuck::bytes_of(range)[size_of::<u32>()..]);
    Key::new(range.prefix_len, prefix)
}

fn range(key: &Key<[u8; PREFIX]>) -> SourceRange {
    let mut bytes = [0; size_of::<SourceRange>()];
    let (length, prefix) = bytes.split_at_mut(size_of::<u32>());
    length.copy_from_slice(&key.prefix_len().to_ne_bytes());
    prefix.copy_from_slice(&key.data());
    bytemuck::cast(bytes)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_range_survives_the_way_into_the_trie_and_back() {
        let given = SourceRange::of_client(7, &Ipv4Addr::new(192, 0, 2, 1).into());
        assert_eq!(range(&key(&given)), given);
        assert_eq!(key(&given).prefix_len(), 160);
    }
}
