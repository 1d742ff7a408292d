//! The fourth layout, in which `OPENING_PINS` was an LRU hash map.

use lb_common::{
    Pin, PinKey,
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
    elements: Elements::Convert(super::same),
};
