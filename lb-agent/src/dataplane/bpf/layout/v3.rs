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
            elements: Elements::Convert(super::same),
        },
        v4::PINS,
    ],
};
