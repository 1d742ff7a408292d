//! The fourth layout, in which `OPENING_PINS` was an LRU hash map.

use lb_common::{
    Pin, PinKey,
    flow::opening_pins,
    maps::{Kind, MapSpec, OPENING_MAX, OPENING_PINS},
};

use super::{Changed, Elements, Layout};

/// As the shipped agent sees it.
pub(super) const LAYOUT: Layout = Layout {
    version: 4,
    changed: &[PINS],
};

/// What `OPENING_PINS` was, in the third one, too.
pub(super) const PINS: Changed = Changed {
    spec: MapSpec::new::<PinKey, Pin>(OPENING_PINS, Kind::LruHash, OPENING_MAX),
    elements: Elements::Convert(hashed),
};

/// The hash of a key is what stands for it now.
fn hashed(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let key: PinKey = bytemuck::try_pod_read_unaligned(key).ok()?;
    let hash = opening_pins::hash(&key);
    Some((hash.to_ne_bytes().to_vec(), value.to_vec()))
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    #[test]
    fn pins_are_found_by_the_hash_of_their_key() {
        let key = PinKey {
            src_port: 7,
            ..PinKey::zeroed()
        };
        let (there, value) = hashed(bytemuck::bytes_of(&key), &[1, 2]).unwrap();
        assert_eq!(there, opening_pins::hash(&key).to_ne_bytes());
        assert_eq!(value, [1, 2]);
        assert_eq!(hashed(&[1], &[2]), None);
    }
}
