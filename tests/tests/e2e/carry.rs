//! Maps of other capacities and of another layout: connections run on, and others come all the while.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use lb_tests::lab::{Cluster, Place as _, Pod, Request, Requests};
use lb_tests::tool::Protocol;
use nix::sys::signal::Signal;

use crate::lifecycle::{finish, go_on, hold_everywhere};
use lb_tests::scene::{Scene, Stage};

/// Names the binary of an agent with another layout.
const OTHER_LAYOUT: &str = "LB_AGENT_OTHER_LAYOUT_BIN";

/// What an agent says when it begins.
const BEGUN: &str = "carrying connections over";
/// What it says when it has compared the maps with its source.
const IN_STEP: &str = "in step with the source";

/// Smaller than the defaults: two agents at a time fit into the memory of a small machine.
const USUAL: [&str; 10] = [
    "--flows-max",
    "4096",
    "--opening-max",
    "4096",
    "--slots-max",
    "65536",
    "--frontends-max",
    "1024",
    "--backends-max",
    "1024",
];
const OTHER: [&str; 10] = [
    "--flows-max",
    "16384",
    "--opening-max",
    "2048",
    "--slots-max",
    "131072",
    "--frontends-max",
    "512",
    "--backends-max",
    "2048",
];

fn scene() -> (Scene, Pod) {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[0, 1, 1],
        flags: &USUAL,
    });
    let pod = scene.pod("client-pod", 0);
    (scene, pod)
}

/// Clients whose every request is a new connection.
fn come_and_go(scene: &Scene, pod: &Pod) -> Vec<Requests> {
    let mut clients = Vec::new();
    for protocol in Protocol::ALL {
        let request = |to| Request {
            count: 0,
            interval: Duration::from_millis(5),
            timeout: Duration::from_secs(10),
            ..Request::new(protocol, to)
        };
        for to in Scene::cluster_ips() {
            clients.push(pod.start(&request(to)).expect("a client"));
        }
        for to in scene.node_ports(0) {
            let outside = scene.cluster.client();
            clients.push(outside.start(&request(to)).expect("a client"));
        }
    }
    clients
}

/// Connections that go on, and others that come and go, while `change` does something to the agents.
fn without_loss(scene: &mut Scene, pod: &Pod, change: impl FnOnce(&mut Scene, &mut Vec<Requests>)) {
    let mut held = hold_everywhere(scene, pod);
    go_on(&mut held, "before");
    let others = come_and_go(scene, pod);
    change(scene, &mut held);
    go_on(&mut held, "in the end");
    finish(held);
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    for client in others {
        for reply in client.finish() {
            *served
                .entry(reply.expect("no connection fails").server)
                .or_default() += 1;
        }
    }
    assert_eq!(served.len(), 3, "{served:?}");
}

fn kill_agents(scene: &mut Scene) {
    for agent in scene.agents.drain(..) {
        agent.stop(Signal::SIGKILL).expect("an end");
    }
}

fn stop_agents(scene: &mut Scene) {
    for agent in scene.agents.drain(..) {
        agent.stop(Signal::SIGTERM).expect("a clean end");
    }
}

#[test]
fn connections_run_on_when_maps_grow_and_shrink() {
    let (mut scene, pod) = scene();
    without_loss(&mut scene, &pod, |scene, held| {
        for (flags, when) in [(OTHER, "with other sizes"), (USUAL, "with the former ones")] {
            stop_agents(scene);
            scene.start_agents_until(IN_STEP, &flags, None);
            for agent in &scene.agents {
                assert!(agent.has_said(BEGUN), "{when}");
            }
            go_on(held, when);
        }
    });
}

#[test]
fn connections_run_on_when_the_layout_changes_and_changes_back() {
    let Some(other) = env::var_os(OTHER_LAYOUT).map(PathBuf::from) else {
        panic!("{OTHER_LAYOUT} names no agent: `cargo xtask test e2e` builds one");
    };
    let (mut scene, pod) = scene();
    without_loss(&mut scene, &pod, |scene, held| {
        stop_agents(scene);
        scene.start_agents_until(IN_STEP, &USUAL, Some(&other));
        go_on(held, "in another layout");
        stop_agents(scene);
        scene.start_agents(&USUAL);
        for agent in &scene.agents {
            let carried = agent.has_said(BEGUN);
            assert!(carried, "the maps were of the other layout");
        }
        go_on(held, "in the former layout");
    });
}

#[test]
fn an_agent_that_is_killed_while_maps_grow_loses_no_connection() {
    let (mut scene, pod) = scene();
    without_loss(&mut scene, &pod, |scene, held| {
        for turns in 0..4 {
            kill_agents(scene);
            scene.start_agents_until(BEGUN, &OTHER, None);
            // Each time it comes a little further.
            for _ in 0..turns {
                go_on(held, "while maps grow");
            }
            kill_agents(scene);
            go_on(held, "after a kill");
            scene.start_agents_until(IN_STEP, &USUAL, None);
            go_on(held, "with the former sizes");
        }
    });
}
