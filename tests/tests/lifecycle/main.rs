//! Nothing that the agent does, and nothing that happens to it, drops a connection.
//!
//! `SPECIFICATION.md` names the tests that enforce its figures. `LB_LIFECYCLE_LONG=1` makes them go on
//! for as long as a release deserves.

mod agents;
mod churn;
mod clocks;
mod failpoints;
mod limits;
mod links;
mod maps;
mod outages;
mod predecessor;
mod restarts;
mod stage;

use std::env;

/// Set for a long run.
const LONG_VARIABLE: &str = "LB_LIFECYCLE_LONG";

/// A number for every day, or one for a long run.
fn times(short: usize, long: usize) -> usize {
    if env::var_os(LONG_VARIABLE).is_some() {
        long
    } else {
        short
    }
}
