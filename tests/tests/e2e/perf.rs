//! Measurements that work at all.

use clap::Parser as _;
use lb_tests::perf::{self, Options};

#[test]
fn agent_learns_a_small_cluster_and_is_measured() {
    let line = "perf control --services 30 --endpoints 3 --deadline 20 --json";
    perf::run(&Options::parse_from(line.split(' '))).unwrap();
}
