//! What the agent and the kernel programs count, for Prometheus.
//!
//! [`Metrics`] is the one place where metrics are named. What the agent's loop knows it writes
//! there; maps and the process are looked at when somebody asks.

mod changes;
mod drops;
mod maps;
mod process;
mod registry;
mod server;
mod sweeps;

pub use self::{
    changes::{Changes, Trigger, changes, triggers},
    maps::{MapReader, Maps, Usage},
    registry::{Done, Metrics, Sync},
    server::MetricsSite,
};
