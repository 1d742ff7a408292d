//! What others do to the node: pins that vanish, devices that flap, addresses that change.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lb_tests::lab::{Inventory, Place as _};
use lb_tests::tool::{Protocol, TrafficOptions};
use serde_json::Value;

use crate::stage::{IN_STEP, Stage, cluster_ips, finish, node_port, pause};
use crate::times;

/// How long anything may take that ought to take a second on a machine of one's own.
const DEADLINE: Duration = Duration::from_secs(30);

fn some(options: TrafficOptions) -> TrafficOptions {
    TrafficOptions {
        flows: 20,
        ..options
    }
}

fn served() -> Stage {
    let mut stage = Stage::new(1, &[0]);
    stage.write(&[(1, true, stage.backends())]);
    stage.start_agents(&[]);
    stage
}

/// Waits for an answer, and says how long that took.
#[track_caller]
fn await_answer(what: &str, ask: impl Fn() -> bool) {
    let began = Instant::now();
    while !ask() {
        assert!(began.elapsed() < DEADLINE, "no answer: {what}");
        pause();
    }
    println!("{what}: answered after {:.1?}", began.elapsed());
}

/// Whether one new connection is answered.
fn answers(from: &impl lb_tests::lab::Place, to: SocketAddr) -> bool {
    let once = TrafficOptions {
        flows: 1,
        patience_ms: 500,
        ..TrafficOptions::to([to])
    };
    let Ok(traffic) = from.traffic(&once) else {
        return false;
    };
    traffic.finish().is_ok_and(|report| report.exchanges > 0)
}

#[test]
fn r17_an_agent_whose_pins_are_gone_ends_and_the_next_one_makes_all_anew() {
    let mut stage = served();
    let pins = stage.agents[0].pin_dir().to_owned();
    let before = Inventory::of(&pins).expect("an inventory");
    let [to, _] = cluster_ips(1);
    assert!(answers(&stage.client, to));

    fs::remove_dir_all(&pins).expect("pins that can be removed");
    let status = stage.agents[0].wait().expect("an end");
    assert!(!status.success());
    let log = stage.agents[0].log_end();
    assert!(log.contains("the pins are gone; ending"), "{log}");
    stage.agents.clear();

    let began = Instant::now();
    stage.start_agents(&[]);
    println!("all made anew within {:.1?}", began.elapsed());
    assert!(answers(&stage.client, to));
    assert_eq!(Inventory::of(&pins).expect("an inventory"), before);
}

#[test]
fn r18_connections_outlive_devices_that_flap_and_change_their_names() {
    let stage = served();
    let before = stage.settled();
    let inside = stage
        .client
        .traffic(&some(stage.inside([1])))
        .expect("traffic");
    let outside = stage.cluster.client().traffic(&some(stage.outside(1)));
    let outside = outside.expect("traffic");
    let node = stage.cluster.node(0);
    let routes = default_routes(&stage);
    let [pod, uplink] = [stage.client.host_veth(), node.uplink()];
    for _ in 0..times(5, 500) {
        for device in [pod, uplink] {
            let mut commands = vec![
                format!("link set {device} down"),
                format!("link set {device} name renamed"),
                "link set renamed mtu 1400".to_owned(),
                "link set renamed up".to_owned(),
                "link set renamed down".to_owned(),
                format!("link set renamed name {device}"),
                format!("link set {device} mtu 1500"),
                format!("link set {device} up"),
            ];
            if device == uplink {
                // The kernel removes these with the device, and IPv6 addresses, too.
                commands.extend(routes.clone());
            }
            node.netns().ip(&commands).expect("changes of a device");
        }
    }
    // Each connection goes on: what was lost on the way is sent again.
    finish(inside, "inside");
    finish(outside, "outside");
    stage.await_inventory(&before, "all changes");
}

/// What makes a node's uplink reach others again after it was down.
fn default_routes(stage: &Stage) -> Vec<String> {
    let node = stage.cluster.node(0);
    let uplink = node.uplink();
    let shown = |arguments: &[&str]| -> Vec<Value> {
        let text = node.netns().feed("ip", arguments, "").expect("ip");
        serde_json::from_str(&text).expect("JSON")
    };
    let mut commands = Vec::new();
    for address in shown(&["-j", "-6", "addr", "show", "dev", uplink, "scope", "global"]) {
        for info in address["addr_info"].as_array().into_iter().flatten() {
            let (local, length) = (&info["local"], &info["prefixlen"]);
            let Some(local) = local.as_str() else {
                continue;
            };
            commands.push(format!("addr replace {local}/{length} dev {uplink} nodad"));
        }
    }
    for family in ["-4", "-6"] {
        for route in shown(&["-j", family, "route", "show", "dev", uplink]) {
            let (to, via) = (&route["dst"], &route["gateway"]);
            if let (Some(to), Some(via)) = (to.as_str(), via.as_str()) {
                let to = match (to, family) {
                    ("default", "-4") => "0.0.0.0/0",
                    ("default", _) => "::/0",
                    (to, _) => to,
                };
                commands.push(format!("route replace {to} via {via} dev {uplink}"));
            }
        }
    }
    commands
}

#[test]
fn r18_a_pod_that_is_made_anew_is_served_and_leaves_nothing_of_its_predecessor() {
    let mut stage = served();
    let [to, _] = cluster_ips(1);
    let before = stage.settled();
    for _ in 0..times(5, 500) {
        let client = stage.cluster.pod("other-pod", 0).expect("a pod");
        await_answer("a new pod", || answers(&client, to));
        client.remove().expect("a pod that goes");
    }
    stage.await_inventory(&before, "all pods");
    let agent = &mut stage.agents[0];
    agent
        .wait_for_log(IN_STEP, 0)
        .expect("an agent that goes on");
}

#[test]
fn r18_a_node_port_moves_with_the_nodes_address() {
    let stage = served();
    let node = stage.cluster.node(0);
    let old = node.ipv4();
    let [a, b, c, d] = old.octets();
    let new = Ipv4Addr::new(a, b, c, d + 100);
    let at = |ip: Ipv4Addr| SocketAddr::new(ip.into(), node_port(1));
    let client = stage.cluster.client();
    assert!(answers(client, at(old)));

    let shown = node.netns().feed(
        "ip",
        &["-j", "-4", "addr", "show", "to", &old.to_string()],
        "",
    );
    let shown: Vec<Value> = serde_json::from_str(&shown.expect("ip")).expect("JSON");
    let mut lengths = shown
        .iter()
        .filter_map(|device| device["addr_info"][0]["prefixlen"].as_u64());
    let length = lengths.next().expect("the node's address");
    let uplink = node.uplink();
    let mut commands = vec![
        format!("addr del {old}/{length} dev {uplink}"),
        format!("addr add {new}/{length} dev {uplink}"),
    ];
    let routes = default_routes(&stage).into_iter();
    commands.extend(routes.filter(|command| command.starts_with("route")));
    node.netns().ip(&commands).expect("another address");
    await_answer("the new address", || answers(client, at(new)));
    // Nobody is there, not even a node that refuses.
    assert!(client.request(Protocol::Udp, at(old)).is_err());
}
