//! The third layout, in which `OPENING` and `OPENING_PINS` were LRU hash maps.

use lb_common::{
    Flow, FlowKey,
    maps::{Kind, MapSpec, OPENING, OPENING_MAX},
};

use super::{Changed, Elements, Layout, v4};

/// As the shipped agent sees it.
pub(super) const LAYOUT: Layout = Layout {
    version: 3,
    changed: &[
        Changed {
            spec: MapSpec::new::<FlowKey, Flow>(OPENING, Kind::LruHash, OPENING_MAX),
            elements: Elements::Convert(same),
        },
        v4::PINS,
    ],
};

/// Records have the same keys and values.
fn same(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), value.to_vec()))
}
