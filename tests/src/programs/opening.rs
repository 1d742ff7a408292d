//! A bench with little room for connections that open.

use lb_common::{
    DatapathConfig,
    flow::opening::{self, WAYS},
    maps::{self, MapSpec},
};

use super::{Bench, specs};

/// Runs `test` on a bench of its own, whose `OPENING` has so many buckets. `name` is nobody else's.
///
/// # Panics
///
/// As [`on_bench`](super::on_bench).
pub fn on_bench_with_opening(name: &str, buckets: u32, test: impl FnOnce(&mut Bench) + Send) {
    let spec = |spec: MapSpec| match spec.name {
        maps::OPENING => MapSpec {
            max_entries: buckets * WAYS as u32,
            ..spec
        },
        maps::OPENING_WORDS => MapSpec {
            max_entries: opening::lines(buckets * WAYS as u32),
            ..spec
        },
        _ => spec,
    };
    let specs = specs().into_iter().map(spec).collect();
    let bench = Bench::set_up(name, DatapathConfig::DEFAULT, specs);
    let (netns, mut bench) = bench.expect("a bench for the kernel programs");
    let run = netns.run(|| test(&mut bench));
    run.expect("the bench's network namespace");
}

impl Bench {
    /// Lets so many ticks pass for what `OPENING` notes of the use of its records, and for nothing else.
    pub fn age_opening(&self, ticks: u64) {
        self.store.age_opening(ticks);
    }
}
