//! One clock for all processes of a lab.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the machine's monotonic clock, which all processes share.
#[must_use]
pub fn now_ns() -> u64 {
    // It is there on every Linux.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
