//! The maps of programs that random packets are for.

use lb_common::{flow::opening, maps};

use crate::programs::specs;

/// Maps of a size that is emptied at once.
pub(super) fn small_maps() -> Vec<maps::MapSpec> {
    let small = |spec: maps::MapSpec| {
        let max_entries = match spec.name {
            maps::FLOWS => 4096,
            maps::OPENING => 32_768,
            maps::OPENING_WORDS => opening::lines(32_768),
            maps::OPENING_PINS => 16_384,
            maps::PINS | maps::AFFINITY | maps::FRAGMENTS => 2048,
            maps::BACKENDS => 512,
            _ => spec.max_entries,
        };
        maps::MapSpec {
            max_entries,
            ..spec
        }
    };
    specs().into_iter().map(small).collect()
}
