//! Clocks that say something else than the kernel's.

use std::fs;
use std::path::PathBuf;

use lb_tests::lab::{AgentSetup, Place as _};
use lb_tests::tool::TrafficOptions;
use nix::sys::signal::Signal;

use crate::stage::{IN_STEP, Stage, finish, operations};

const DAY: i64 = 24 * 3600;

/// How long the machine has been up, in seconds.
fn uptime_s() -> i64 {
    let uptime = fs::read_to_string("/proc/uptime").expect("read /proc/uptime");
    let seconds = uptime.split('.').next().expect("seconds");
    seconds.parse().expect("a number")
}

/// The namespace of time that a process is in.
fn time_namespace(process: String) -> PathBuf {
    fs::read_link(format!("/proc/{process}/ns/time")).expect("a namespace of time")
}

/// Programs read the kernel's ticks, and the agent must not compare anything of theirs with a clock of
/// its own: a namespace of time sets that apart, as suspension does.
#[test]
fn r16_clocks_that_are_apart_from_the_kernels_make_nothing_expire() {
    let mut stage = Stage::new(1, &[0]);
    stage.write(&[(1, true, stage.backends())]);
    stage.start_agents(&[]);
    let some = |options| TrafficOptions {
        flows: 20,
        ..options
    };
    let inside = stage.client.traffic(&some(stage.inside([1])));
    let outside = stage.cluster.client().traffic(&some(stage.outside(1)));
    let traffic = [inside.expect("traffic"), outside.expect("traffic")];
    // No clock goes to before the machine has been started.
    for clocks_ahead_s in [DAY, -uptime_s() / 2, 365 * DAY] {
        for agent in stage.agents.drain(..) {
            agent.stop(Signal::SIGTERM).expect("a clean end");
        }
        let setup = AgentSetup {
            clocks_ahead_s,
            ..AgentSetup::default()
        };
        let (mut agent, mark) = stage.start_one(&[], &setup);
        agent.wait_for_log(IN_STEP, mark).expect("maps in step");
        let [its, ours] = [agent.id().to_string(), "self".to_owned()].map(time_namespace);
        assert_ne!(its, ours, "its clocks are the kernel's");
        assert_eq!(operations(&agent.log_from(mark)), 0, "{clocks_ahead_s}");
        agent
            .wait_for_log("swept the records", mark)
            .expect("a look at the records");
        let log = agent.log_from(mark);
        let swept = log.lines().find(|line| line.contains("swept the records"));
        let swept = swept.expect("it has just been read");
        assert!(swept.contains("removed: 0"), "{clocks_ahead_s}: {swept}");
        stage.agents.push(agent);
    }
    for (traffic, what) in traffic.into_iter().zip(["inside", "outside"]) {
        let report = finish(traffic, what);
        assert!(report.exchanges > 0, "{what}");
        assert_eq!(report.lost(), 0, "{what}: datagrams");
    }
}
