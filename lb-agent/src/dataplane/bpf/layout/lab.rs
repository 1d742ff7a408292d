//! The layout that only a test's build has (feature `lab-layout`): that a change of the layout loses
//! nothing can be shown only with two of them, in both directions.
//!
//! There, records of connections have eight bytes more in front.

use lb_common::{
    Flow, FlowKey,
    flow::opening::Record,
    maps::{
        FLOWS, FLOWS_MAX, Kind, LAB_LAYOUT_VERSION, MMAPABLE, MapSpec, OPENING, OPENING_MAX,
        SHIPPED_LAYOUT_VERSION,
    },
};

use super::{Changed, Convert, Elements, Layout};

/// Bytes that a record has in front in the lab's layout.
const EXTRA: usize = 8;

const IS_LAB: bool = cfg!(feature = "lab-layout");

/// Bytes of a record in the other layout.
const OTHER_FLOW: u32 = if IS_LAB {
    size_of::<Flow>() - EXTRA
} else {
    size_of::<Flow>() + EXTRA
} as u32;

/// The lab's layout, as the shipped agent sees it; or the other way round.
pub(super) const OTHER: Layout = Layout {
    version: if IS_LAB {
        SHIPPED_LAYOUT_VERSION
    } else {
        LAB_LAYOUT_VERSION
    },
    changed: &[
        Changed {
            spec: MapSpec {
                value_size: OTHER_FLOW,
                ..MapSpec::new::<FlowKey, Flow>(FLOWS, Kind::Hash, FLOWS_MAX)
            },
            elements: Elements::Convert(CONVERT),
        },
        Changed {
            spec: MapSpec {
                value_size: OTHER_RECORD,
                flags: MMAPABLE,
                ..MapSpec::new::<u32, Record>(OPENING, Kind::Array, OPENING_MAX)
            },
            elements: Elements::Convert(CONVERT),
        },
    ],
};

/// Bytes of a record with its key in the other layout.
const OTHER_RECORD: u32 = if IS_LAB {
    size_of::<Record>() - EXTRA
} else {
    size_of::<Record>() + EXTRA
} as u32;

const CONVERT: Convert = if IS_LAB { lengthen } else { shorten };

fn lengthen(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), [&[0; EXTRA], value].concat()))
}

fn shorten(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), value.get(EXTRA..)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_way_there_and_back() {
        let (key, value) = ([1, 2], [3, 4, 5]);
        let (there, longer) = lengthen(&key, &value).unwrap();
        let back = shorten(&there, &longer).unwrap();
        assert_eq!(back, (key.to_vec(), value.to_vec()));
        assert_eq!(shorten(&key, &value), None);
    }
}
