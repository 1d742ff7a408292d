//! What becomes of connections when a Service selects other pods.

use std::time::{Duration, Instant};

use lb_tests::apiserver::store::Kind;
use lb_tests::lab::{Place as _, Pod, Request, Requests};
use lb_tests::tool::{Protocol, Reply};
use serde_json::{Value, json};

use super::answers::{Heard, Way, await_answers, expect};
use super::objects::{ADDRESS, NODE_PORT, service};
use super::stage::Stage;
use lb_tests::scene::PORT;

/// Pods of two versions, one of each on both nodes.
const NAMES: [&str; 4] = ["blue-1", "blue-2", "green-1", "green-2"];

/// A pod of the cluster that is ready and has this label.
fn labelled(pod: &Pod, version: &str) -> Value {
    let ips = pod.addresses().map(|ip| json!({"ip": ip}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod.name(), "namespace": "default", "labels": {"version": version}},
        "spec": {"nodeName": pod.node().name(),
            "containers": [{"name": "alpaca", "image": "alpaca"}]},
        "status": {"phase": "Running", "podIPs": ips,
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// Two nodes with the pods, and a Service that selects the blue ones.
fn blue_and_green() -> Stage {
    let pods = [0, 1, 2, 3].map(|pod| (NAMES[pod], pod % 2, None));
    let stage = Stage::new(2, &pods);
    let colour = |pod: &Pod| pod.name().split('-').next().unwrap_or_default().to_owned();
    let pods = stage.pods.iter().map(|pod| labelled(pod, &colour(pod)));
    let mut objects: Vec<Value> = pods.collect();
    let mut service = service();
    service["spec"]["selector"] = json!({"version": "blue"});
    objects.push(service);
    stage.user().apply(&objects);
    stage
}

/// A connection or a socket that asks all the time.
fn hold(way: &Way<'_>) -> Requests {
    let request = Request {
        hold: true,
        count: 0,
        interval: Duration::from_millis(5),
        ..Request::new(way.protocol, way.to)
    };
    way.from.start(&request).expect("a client")
}

/// Ends what clients have heard so far, and listens to each for a while: who answers?
#[track_caller]
fn listen(client: &mut Requests) -> Vec<String> {
    let earlier: Vec<_> = client.ended().collect();
    let later: Vec<_> = client.take(20).collect();
    let server = |reply: anyhow::Result<Reply>| reply.expect("no exchange fails").server;
    earlier.into_iter().map(server).for_each(drop);
    later.into_iter().map(server).collect()
}

#[test]
fn selector_change_drains() {
    let stage = blue_and_green();
    let user = stage.user();
    let outside = stage.outside(NODE_PORT).into_iter();
    let outside = outside.filter(|way| way.to.is_ipv4());
    let ways: Vec<_> = stage
        .inside(&[ADDRESS], PORT)
        .into_iter()
        .chain(outside)
        .collect();
    let (blue, green) = (Heard::by(&NAMES[..2]), Heard::by(&NAMES[2..]));
    await_answers("blue", Instant::now(), &[(ways.clone(), blue.clone())]);

    let over = |protocol| ways.iter().filter(move |way| way.protocol == protocol);
    // Of each kind so many that each pod has some.
    let connections = over(Protocol::Tcp).flat_map(|way| (0..6).map(move |_| hold(way)));
    let mut connections: Vec<(String, Requests)> = connections
        .map(|mut connection| {
            let reply = connection.next().expect("a reply").expect("an answer");
            (reply.server, connection)
        })
        .collect();
    let mut sockets: Vec<Requests> = over(Protocol::Udp).map(hold).collect();

    for (colour, heard) in [("green", &green), ("blue", &blue), ("green", &green)] {
        let selector = json!({"spec": {"selector": {"version": colour}}});
        let at = user.patch(Kind::Service, "hand", &selector);
        expect(colour, at, &[(ways.clone(), heard.clone())]);
        for (server, connection) in &mut connections {
            let servers = listen(connection);
            assert!(
                !servers.is_empty() && servers.iter().all(|s| s == server),
                "{servers:?}"
            );
        }
        for socket in &mut sockets {
            let servers = listen(socket);
            let last = servers.last().expect("an answer");
            assert!(
                last.starts_with(colour),
                "a datagram has no connection: {servers:?}"
            );
        }
    }
}
