//! Flags of the maps' capacities.

use clap::Args;
use lb_common::maps;

use crate::agent::Capacities;

/// Flags of the maps' capacities.
#[derive(Args, Debug)]
pub(super) struct CapacityArgs {
    /// Capacity for frontends: addresses and ports that clients dial.
    #[arg(long, value_name = "N", default_value_t = maps::FRONTENDS_MAX as u32)]
    frontends_max: u32,

    /// Capacity for backends.
    #[arg(long, value_name = "N", default_value_t = maps::BACKENDS_MAX as u32)]
    backends_max: u32,

    /// Capacity for look-up tables, in slots of 8 bytes.
    #[arg(long, value_name = "N", default_value_t = maps::SLOTS_MAX as u32)]
    slots_max: u32,

    /// Capacity for connections whose client has gone on after an answer: these stay.
    #[arg(long, value_name = "N", default_value_t = maps::FLOWS_MAX as u32)]
    flows_max: u32,

    /// Capacity for connections before that: those that are used least make room.
    #[arg(long, value_name = "N", default_value_t = maps::OPENING_MAX as u32)]
    opening_max: u32,
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
