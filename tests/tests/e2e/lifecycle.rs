//! What the agent's own life does to traffic: nothing.

use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::lab::{Cluster, Place, Pod, Request, Requests};
use lb_tests::tool::Protocol;
use nix::sys::signal::Signal;

use lb_tests::scene::{Scene, Stage, reach_all_ways};

/// Exchanges of every connection between two events.
const EXCHANGES: usize = 30;

/// A connection that exchanges something every 5 ms until it is told to stop.
fn hold(from: &impl Place, protocol: Protocol, to: SocketAddr) -> Requests {
    let request = Request {
        hold: true,
        count: 0,
        interval: Duration::from_millis(5),
        ..Request::new(protocol, to)
    };
    from.start(&request).expect("a client")
}

/// Connections of every kind: from a pod to the ClusterIP and from outside to a NodePort, over both
/// protocols and families, to more backends than one.
pub(crate) fn hold_everywhere(scene: &Scene, pod: &Pod) -> Vec<Requests> {
    let mut connections = Vec::new();
    for protocol in Protocol::ALL {
        for _ in 0..3 {
            connections.extend(Scene::cluster_ips().map(|to| hold(pod, protocol, to)));
            let outside = scene.cluster.client();
            connections.extend(scene.node_ports(0).map(|to| hold(outside, protocol, to)));
        }
    }
    connections
}

/// Ends the connections, none of which has failed.
#[track_caller]
pub(crate) fn finish(connections: Vec<Requests>) {
    for connection in connections {
        for reply in connection.finish() {
            reply.expect("no exchange fails");
        }
    }
}

/// Waits until every connection has exchanged more, and with the backend that it had.
#[track_caller]
pub(crate) fn go_on(connections: &mut [Requests], when: &str) {
    for (number, connection) in connections.iter_mut().enumerate() {
        let mut server: Option<String> = None;
        for reply in connection.take(EXCHANGES) {
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) => panic!("connection {number} {when}: {error:#}"),
            };
            let first = server.get_or_insert_with(|| reply.server.clone());
            assert_eq!(*first, reply.server, "connection {number} {when}");
        }
        assert!(server.is_some(), "connection {number} {when} has ended");
    }
}

/// Two nodes, a client's pod, and connections of every kind that go on.
pub(crate) fn busy() -> (Scene, Pod, Vec<Requests>) {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[0, 1, 1],
        flags: &[],
    });
    let pod = scene.pod("client-pod", 0);
    let mut connections = hold_everywhere(&scene, &pod);
    go_on(&mut connections, "before");
    (scene, pod, connections)
}

/// New connections of every kind reach every backend.
pub(crate) fn reach_everywhere(scene: &Scene, pod: &Pod) {
    let (outside, names) = (scene.cluster.client(), scene.names());
    reach_all_ways(pod, Scene::cluster_ips(), &names, |_| ());
    reach_all_ways(outside, scene.node_ports(0), &names, |_| ());
}

fn restart_agents_by(signal: Signal) {
    let (mut scene, pod, mut connections) = busy();
    for agent in scene.agents.drain(..) {
        agent.stop(signal).expect("a clean end");
    }
    go_on(&mut connections, "without agents");
    reach_everywhere(&scene, &pod);

    scene.start_agents(&[]);
    go_on(&mut connections, "with new agents");
    finish(connections);
}

#[test]
fn connections_run_on_when_every_agent_is_killed_and_started_again() {
    restart_agents_by(Signal::SIGKILL);
}

#[test]
fn s65_connections_run_on_when_every_agent_is_told_to_end_and_started_again() {
    restart_agents_by(Signal::SIGTERM);
}

#[test]
fn connections_stay_with_their_backend_while_others_come_and_go() {
    let mut scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[0, 1, 1, 0],
        flags: &[],
    });
    scene.serve_by(&[0, 1]);
    let pod = scene.pod("client-pod", 0);
    let mut connections = hold_everywhere(&scene, &pod);
    go_on(&mut connections, "with two backends");
    scene.serve_by(&[0, 1, 2]);
    go_on(&mut connections, "after one came");
    scene.serve_by(&[0, 1, 3]);
    go_on(&mut connections, "after one was replaced");
    scene.serve_by(&[0, 1]);
    go_on(&mut connections, "after it went");
    finish(connections);
}

#[test]
fn silent_connections_stay_with_their_backend_while_others_come_and_go() {
    let mut scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[0, 1, 1, 0],
        flags: &[],
    });
    scene.serve_by(&[0, 1]);
    let pod = scene.pod("client-pod", 0);
    let mut connections: Vec<Requests> = (0..12)
        .flat_map(|_| Scene::cluster_ips())
        .map(|to| {
            let request = Request {
                hold: true,
                count: 2,
                interval: Duration::from_secs(2),
                ..Request::new(Protocol::Tcp, to)
            };
            pod.start(&request).expect("a client")
        })
        .collect();
    let first: Vec<String> = connections
        .iter_mut()
        .map(|c| c.next().expect("a reply").expect("an answer").server)
        .collect();
    for backends in [&[0, 1, 2][..], &[0, 1, 3], &[2, 3], &[0, 1]] {
        scene.serve_by(backends);
    }
    for (mut connection, server) in connections.into_iter().zip(first) {
        let reply = connection.next().expect("a reply").expect("an answer");
        assert_eq!(reply.server, server);
    }
}
