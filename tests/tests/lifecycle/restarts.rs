//! Agents that end, in whatever way, and others that begin.

use std::collections::BTreeSet;
use std::time::Instant;

use lb_agent::dataplane::bpf;
use lb_tests::lab::Place as _;
use lb_tests::tool::TrafficOptions;
use nix::sys::signal::Signal;

use crate::stage::{Backend, Stage, finish};
use crate::times;

/// Half of the connections that there are to be.
fn half(options: TrafficOptions) -> TrafficOptions {
    TrafficOptions {
        flows: 100,
        streams: 10,
        connections_per_second: 250,
        ..options
    }
}

#[test]
fn r1_r5_connections_notice_nothing_of_restarts_and_nothing_leaks_or_is_written() {
    check_restarts(&[], times(15, 500));
}

/// As on kernels without tcx.
#[test]
fn r1_r5_connections_notice_nothing_of_restarts_where_programs_are_filters() {
    check_restarts(&["--tc", "clsact"], times(5, 50));
}

#[track_caller]
fn check_restarts(flags: &[&str], rounds: usize) {
    let mut stage = Stage::new(2, &[0, 1]);
    let all = stage.backends();
    stage.write(&[(1, true, all.clone())]);
    stage.start_agents(flags);
    // The first agents write, the second ones find all as it ought to be.
    assert_eq!(stage.restart_agents(Signal::SIGTERM, flags), [0, 0]);
    let before = stage.settled();
    let frontends = bpf::pinned_frontends(stage.agents[0].pin_dir()).expect("frontends");
    let inside = stage.client.traffic(&half(stage.inside([1])));
    let outside = stage.cluster.client().traffic(&half(stage.outside(1)));
    let traffic = [inside.expect("traffic"), outside.expect("traffic")];

    let began = Instant::now();
    let mut last = stage.programs();
    for round in 0..rounds {
        let signal = if round % 2 == 0 {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        };
        let operations = stage.restart_agents(signal, flags);
        assert_eq!(operations, [0, 0], "operations on maps, round {round}");
        stage.await_inventory(&before, &format!("round {round}"));
        // Whether a newer build or the same one begins, it runs its own.
        let programs = stage.programs();
        assert!(
            programs.is_disjoint(&last),
            "{programs:?} after {last:?}: programs of the agent before, round {round}"
        );
        last = programs;
    }
    println!(
        "{} restarts in {:.0?}; each node has {:?}",
        2 * rounds,
        began.elapsed(),
        before[0]
    );
    let after = bpf::pinned_frontends(stage.agents[0].pin_dir()).expect("frontends");
    assert_eq!(after, frontends);
    let numbers: BTreeSet<u32> = all.into_iter().map(Backend::number).collect();
    for (traffic, what) in traffic.into_iter().zip(["inside", "outside"]) {
        let report = finish(traffic, what);
        let servers: BTreeSet<u32> = report.servers.keys().copied().collect();
        assert_eq!(servers, numbers, "{what}: all backends, and no others");
        assert!(report.exchanges > 0 && report.connections > 0);
        assert_eq!(report.lost(), 0, "{what}: datagrams");
    }
}
