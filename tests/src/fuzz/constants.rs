//! What the programs are loaded with, and how large their maps are.

use lb_common::{
    DatapathConfig, config,
    maps::{self, MapSpec},
};

use super::episode::Constants;
use crate::programs::{Family, Flows};

/// Few source ports, so that they run out.
pub(super) fn config(constants: Constants) -> DatapathConfig {
    let usual = DatapathConfig {
        snat_port_first: 61_000,
        snat_port_last: 61_031,
        // The model knows no time but what it is told.
        icmp_errors_per_second: 0,
        ..DatapathConfig::DEFAULT
    };
    match constants {
        Constants::Usual | Constants::Table => usual,
        Constants::Other => {
            let own = Family::ALL.map(|family| family.node(1).into());
            let config = DatapathConfig {
                flags: config::flags::RESET_VANISHED,
                ..usual
            };
            own.into_iter()
                .fold(config, DatapathConfig::with_snat_address)
        }
    }
}

/// Maps of a size that is emptied at once.
pub(super) fn small_maps(constants: Constants) -> Vec<MapSpec> {
    let flows = match constants {
        Constants::Usual | Constants::Other => Flows::Maps,
        Constants::Table => Flows::Table(1024),
    };
    let small = |spec: MapSpec| {
        let max_entries = match spec.name {
            maps::FLOWS | maps::OPENING if flows == Flows::Maps => 4096,
            maps::PINS | maps::OPENING_PINS | maps::AFFINITY | maps::FRAGMENTS => 2048,
            maps::BACKENDS => 512,
            _ => spec.max_entries,
        };
        MapSpec {
            max_entries,
            ..spec
        }
    };
    flows.specs().into_iter().map(small).collect()
}
