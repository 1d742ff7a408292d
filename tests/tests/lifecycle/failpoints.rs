//! An agent that is killed between two operations, whichever they are.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use lb_common::maps::LAYOUT_VERSION;
use lb_tests::lab::{AgentSetup, Place as _, drops, lb_agent};
use lb_tests::tool::TrafficOptions;
use nix::sys::signal::Signal;

use crate::maps;
use crate::stage::{Backend, IN_STEP, Service, Stage, finish, operations};
use crate::times;

/// Names the agent's binary with the feature `failpoints`.
const BINARY_VARIABLE: &str = "LB_AGENT_FAILPOINTS_BIN";
/// Says at which operation it kills itself.
const FAILPOINT: &str = "LB_FAILPOINT";
/// Services that are there in both states, with other backends in each.
const STEADY: [u16; 2] = [1, 2];

fn binary() -> PathBuf {
    let path = env::var_os(BINARY_VARIABLE).map(PathBuf::from);
    path.unwrap_or_else(|| {
        panic!(
            "{BINARY_VARIABLE} is not set: `cargo build -p lb-agent --features failpoints`, and say \
             where the binary is"
        )
    })
}

/// Two states of a cluster, with much between them: Services that come, go, and change their backends,
/// their ports and their numbers.
fn states(all: &BTreeSet<Backend>) -> [Vec<Service>; 2] {
    let those = |servers: &[u16]| -> BTreeSet<Backend> {
        let ours = all
            .iter()
            .filter(|backend| servers.contains(&backend.server));
        ours.copied().collect()
    };
    [
        vec![
            (1, false, those(&[0])),
            (2, true, those(&[0, 1])),
            (3, true, those(&[0, 1, 2])),
            (4, false, those(&[2])),
            (5, true, BTreeSet::new()),
        ],
        vec![
            (1, true, those(&[1, 2])),
            (2, false, those(&[2])),
            (4, true, those(&[1])),
            (5, true, those(&[0])),
            (6, false, those(&[0, 1])),
        ],
    ]
}

#[test]
fn r2_an_agent_that_is_killed_between_any_two_operations_leaves_nothing_behind() {
    let binary = binary();
    let mut stage = Stage::new(1, &[0, 0]);
    let states = states(&stage.backends());
    let expected = states
        .each_ref()
        .map(|state| from_nothing(&mut stage, state));
    assert_ne!(expected[0], expected[1]);
    let probes = TrafficOptions {
        connections_per_second: 50,
        streams: 8,
        streams_may_move: true,
        ..stage.inside(STEADY)
    };
    // From state 1, in which the last agent has left the maps.
    let before = backlog_drops();
    let probes = stage.client.traffic(&probes).expect("traffic");
    let total = count_operations(&stage, &states[0]);
    let kills = times(8, 200);
    let mut reached = 0;
    for kill in 0..kills {
        let target = (kill + 1) % 2;
        stage.write(&states[target]);
        // Every operation has its turn, in an order without a pattern.
        let point = 1 + (kill * 37 + kill / total) % total;
        let point_text = point.to_string();
        let setup = AgentSetup {
            binary: Some(&binary),
            environment: &[(FAILPOINT, &point_text)],
            ..AgentSetup::default()
        };
        let (mut agent, mark) = stage.start_one(&[], &setup);
        // Where this state takes fewer operations, it lives.
        if agent.wait_for_log(IN_STEP, mark).is_err() {
            let status = agent.wait().expect("an end");
            assert_eq!(status.signal(), Some(libc::SIGKILL), "{}", agent.log_end());
            reached += 1;
        }
        drop(agent);
        let (mut agent, mark) = stage.start_one(&[], &AgentSetup::default());
        agent.wait_for_log(IN_STEP, mark).expect("maps in step");
        let found = maps::read(agent.pin_dir());
        assert_eq!(
            found, expected[target],
            "after a kill at {point} of {total}"
        );
        agent.stop(Signal::SIGKILL).expect("an end");
    }
    println!("{reached} of {kills} agents were killed at one of {total} operations");
    assert!(reached > kills / 2);
    // Either state has backends of these Services, so nobody is ever refused.
    let report = finish(probes, "probes");
    let told = drops(stage.cluster.node(0)).expect("what was dropped");
    let (lost, backlog) = (report.lost(), backlog_drops() - before);
    assert_eq!(
        lost, 0,
        "datagrams; the programs dropped {told}, the kernel {backlog} of all"
    );
}

/// Packets of all network namespaces that the kernel has dropped because it did not come to them, as on a machine
/// that has more to do than it can (the second column of `/proc/net/softnet_stat`).
fn backlog_drops() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").expect("figures of the kernel");
    let columns = text.lines().filter_map(|line| line.split(' ').nth(1));
    columns
        .map(|number| u64::from_str_radix(number, 16).expect("a hexadecimal number"))
        .sum()
}

/// What the maps say after an agent that began with none.
fn from_nothing(stage: &mut Stage, state: &[Service]) -> BTreeMap<String, String> {
    let removed = lb_agent(stage.cluster.node(0), &["cleanup"]).expect("a command");
    assert!(removed.status.success(), "{removed:?}");
    stage.write(state);
    stage.start_agents(&[]);
    let found = maps::read(stage.agents[0].pin_dir());
    for agent in stage.agents.drain(..) {
        agent.stop(Signal::SIGTERM).expect("a clean end");
    }
    found
}

/// About how many operations an agent takes from its start until all is as `state` asks for.
fn count_operations(stage: &Stage, state: &[Service]) -> usize {
    stage.write(state);
    let (mut agent, mark) = stage.start_one(&[], &AgentSetup::default());
    agent.wait_for_log(IN_STEP, mark).expect("maps in step");
    let links = agent.pin_dir().join(format!("v{LAYOUT_VERSION}/links"));
    let links = fs::read_dir(links).expect("links").count();
    let operations = operations(&agent.log_from(mark));
    agent.stop(Signal::SIGKILL).expect("an end");
    links + operations
}
