//! Metrics of the sweeps that remove records of connections.

use std::time::Duration;

use lb_common::maps::{FLOWS, OPENING};
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family as Rows,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::Metrics;

/// What sweeps have found.
#[derive(Debug)]
pub(super) struct Sweeps {
    duration: Histogram,
    removed: Counter,
    left: Rows<[(&'static str, &'static str); 1], Gauge>,
}

impl Sweeps {
    /// Registers them in the registry of our own metrics.
    pub(super) fn new(lb: &mut Registry) -> Self {
        let new = Self {
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            removed: Counter::default(),
            left: Rows::default(),
        };
        let help = "How long a sweep of the records of connections took, in seconds";
        lb.register("sweep_duration_seconds", help, new.duration.clone());
        let help = "Records of connections that had expired and were removed";
        lb.register("flows_swept", help, new.removed.clone());
        let help = "Records of connections that the last sweep left, by map";
        lb.register("flows_alive", help, new.left.clone());
        new
    }
}

impl Metrics {
    /// The records of connections have been swept; `left` of `FLOWS` and `OPENING` live.
    pub fn swept(&self, took: Duration, removed: u64, left: [u64; 2]) {
        let Sweeps {
            duration,
            removed: all_removed,
            left: rows,
        } = &self.sweeps;
        duration.observe(took.as_secs_f64());
        all_removed.inc_by(removed);
        for (map, count) in [FLOWS, OPENING].into_iter().zip(left) {
            let row = rows.get_or_create(&[("map", map)]);
            row.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
