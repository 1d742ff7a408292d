//! Traffic goes on without an API server, without an agent, and without both.

use std::fs;
use std::time::{Duration, Instant};

use lb_tests::apiserver::store::Kind;
use lb_tests::lab::{Place as _, Request, Requests};
use nix::sys::signal::Signal;

use super::answers::{Expected, Heard, Way, await_answers, expect};
use super::objects::{ADDRESS, NODE_PORT, service, slice};
use super::stage::Stage;
use lb_tests::scene::PORT;

/// Exchanges of every connection between two events.
const EXCHANGES: usize = 20;
/// What an agent says that finds no API server.
const TROUBLE: &str = "list services";

/// Connections that exchange something all the time, from a pod and from outside.
fn hold(stage: &Stage) -> Vec<Requests> {
    let ways = [stage.inside(&[ADDRESS], PORT), outside(stage)].concat();
    let start = |_| {
        ways.iter().map(|way| {
            let request = Request {
                hold: true,
                count: 0,
                interval: Duration::from_millis(5),
                ..Request::new(way.protocol, way.to)
            };
            way.from.start(&request).expect("a client")
        })
    };
    // Of each kind so many that both pods have some.
    (0..4).flat_map(start).collect()
}

fn outside(stage: &Stage) -> Vec<Way<'_>> {
    let ways = stage.outside(NODE_PORT).into_iter();
    ways.filter(|way| way.to.is_ipv4()).collect()
}

#[track_caller]
fn go_on(connections: &mut [Requests], when: &str) {
    for (number, connection) in connections.iter_mut().enumerate() {
        for _ in 0..EXCHANGES {
            let reply = connection.next().expect("a connection that goes on");
            reply.unwrap_or_else(|error| panic!("connection {number} {when}: {error:#}"));
        }
    }
}

#[test]
fn s11_s65_rules_stay_without_agent_and_api_server_and_are_brought_up_to_date_after() {
    let mut stage = Stage::new(1, &[("pod-1", 0, None), ("pod-2", 0, None)]);
    let [one, two] =
        [0, 1].map(|pod| slice(["hand-1", "hand-2"][pod], &[(&stage.pods[pod], None)]));
    let at = stage.user().apply(&[service(), one, two]);
    expect("applied", at, &answers(&stage, &["pod-1", "pod-2"]));
    let mut connections = hold(&stage);
    go_on(&mut connections, "before");
    let unchanged = |stage: &Stage, what: &str| {
        await_answers(what, Instant::now(), &answers(stage, &["pod-1", "pod-2"]));
    };

    stage.server.close();
    go_on(&mut connections, "without the API server");
    unchanged(&stage, "without the API server");
    for agent in stage.agents.drain(..) {
        agent.stop(Signal::SIGTERM).expect("a clean end");
    }
    let gone = stage
        .server
        .delete(Kind::EndpointSlice, "default", "hand-2");
    gone.expect("a slice");
    go_on(&mut connections, "without both");
    unchanged(&stage, "without both");

    start_in_vain(&mut stage);
    go_on(&mut connections, "with an agent that knows nothing yet");
    unchanged(&stage, "with an agent that knows nothing yet");

    stage.server.open();
    // How long depends on when the agent tries again.
    let at = Instant::now();
    let took = await_answers("the API server is back", at, &answers(&stage, &["pod-1"]));
    println!("the API server is back: {} ms", took.as_millis());
    go_on(&mut connections, "with all again");
    for connection in connections {
        for reply in connection.finish() {
            reply.expect("no exchange fails");
        }
    }
}

fn answers<'a>(stage: &'a Stage, pods: &[&str]) -> [Expected<'a>; 2] {
    let heard = Heard::by(pods);
    [
        (stage.inside(&[ADDRESS], PORT), heard.clone()),
        (outside(stage), heard),
    ]
}

/// Starts agents, and waits until they have found no API server.
fn start_in_vain(stage: &mut Stage) {
    let log = stage.cluster.node(0).dir().join("agent.log");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let before = read().len();
    stage.start_agents();
    let is_told = |text: &str| text.contains(TROUBLE);
    let waited = stage.agents[0].wait_for("the API server is missed", |_| {
        read().get(before..).is_some_and(is_told)
    });
    waited.expect("a log");
}
