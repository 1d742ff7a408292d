//! Flags of the maps' capacities.

use clap::{Args, builder::RangedI64ValueParser, value_parser};
use lb_common::maps;

use crate::agent::Capacities;

/// Flags of the maps' capacities.
#[derive(Args, Debug)]
pub(super) struct CapacityArgs {
    /// Capacity for frontends: addresses and ports that clients dial.
    #[arg(long, value_name = "N", default_value_t = maps::FRONTENDS_MAX as u32, value_parser = at_least_one())]
    frontends_max: u32,

    /// Capacity for backends.
    #[arg(long, value_name = "N", default_value_t = maps::BACKENDS_MAX as u32, value_parser = at_least_one())]
    backends_max: u32,

    /// Capacity for look-up tables, in slots of 8 bytes.
    #[arg(long, value_name = "N", default_value_t = maps::SLOTS_MAX as u32, value_parser = at_least_one())]
    slots_max: u32,

    /// Capacity for connections whose client has gone on after an answer: these stay.
    #[arg(long, value_name = "N", default_value_t = maps::FLOWS_MAX as u32, value_parser = at_least_one())]
    flows_max: u32,

    /// Capacity for connections before that: those that are used least make room.
    #[arg(long, value_name = "N", default_value_t = maps::OPENING_MAX as u32, value_parser = at_least_one())]
    opening_max: u32,
}

/// No map can be without elements.
fn at_least_one() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..)
}

impl CapacityArgs {
    /// What the flags ask for.
    pub(super) fn capacities(&self) -> Capacities {
        Capacities {
            frontends: self.frontends_max,
            backends: self.backends_max,
            slots: self.slots_max,
            flows: self.flows_max,
            opening: self.opening_max,
        }
    }
}
