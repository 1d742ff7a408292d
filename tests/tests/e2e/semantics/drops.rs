//! Dropped packets: whoever looks finds out why, with the agent and without.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use lb_tests::lab::{Cluster, Node, Place as _};
use lb_tests::tool::Protocol;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::world::{Ask, Heard, Kind, Service, World, service_cidr};
use crate::http::get;

/// `lb-agent drops` on the node, which reads the maps of its agent.
#[track_caller]
fn drops(node: &Node) -> Value {
    lb_tests::lab::drops(node).expect("lb-agent drops")
}

/// The packets of the rows with these words for reason, hook and interface.
fn packets(drops: &Value, reason: &str, hook: &str, interface: Option<&str>) -> u64 {
    let items = drops["items"].as_array().expect("rows");
    let is_it = |row: &&Value| {
        let place = [&row["reason"], &row["hook"], &row["interface"]];
        place == [&reason.into(), &hook.into(), &interface.into()].map(|word: &Value| word)
    };
    let packets = items.iter().filter(is_it).map(|row| &row["packets"]);
    packets.map(|count| count.as_u64().expect("a number")).sum()
}

/// A pod dials what nobody has, and a process what nobody serves.
fn provoke(world: &World, pod: &lb_tests::lab::Pod) {
    let nobodys = Service::new(99, []).addresses(Kind::ClusterIp)[0];
    let ask = Ask::new(pod.site(), Protocol::Tcp, (nobodys, 80).into());
    assert_eq!(ask.once().hear(), Heard::Silence);
    let empty = Service::new(1, []).dialled(world, Kind::ClusterIp, 0)[0];
    let ask = Ask::new(world.cluster.node(0).site(), Protocol::Tcp, empty);
    assert_eq!(ask.once().hear(), Heard::Refused);
}

#[track_caller]
fn check_metrics(node: &Node, interface: &str) {
    let to = SocketAddr::from(([127, 0, 0, 1], 10249));
    let metrics = get(node, to, "/metrics").expect("metrics").body;
    for labels in [
        format!("reason=\"unallocated\",interface=\"{interface}\",hook=\"pod_ingress\""),
        "reason=\"rejected\",interface=\"\",hook=\"socket\"".to_owned(),
    ] {
        let name = format!("lb_drop_count_total{{{labels}}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        let count = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
        assert!(count.parse::<u64>().expect("a number") > 0, "{name}{count}");
    }
}

#[test]
fn a_dropped_packet_is_told_by_the_command_the_metrics_and_the_log() {
    let mut world = World::new(Cluster::builder().nodes(1), &[], &[]);
    let pod = world.client_pod(0);
    world.fixed = vec![service_cidr()];
    world.serve(&[&Service::new(1, [])]);
    provoke(&world, &pod);
    let (node, veth) = (world.cluster.node(0), pod.host_veth().to_owned());
    let told = drops(node);
    let unallocated = packets(&told, "Unallocated", "PodIngress", Some(&veth));
    assert!(unallocated > 0, "{told}");
    assert!(packets(&told, "Rejected", "Socket", None) > 0, "{told}");
    let reasons = told["reasons"].as_array().expect("reasons");
    let reason = reasons.iter().find(|r| r["reason"] == "Unallocated");
    let reason = reason.expect("Unallocated");
    let [v4, _] = Service::new(99, []).addresses(Kind::ClusterIp);
    let last: IpAddr = reason["last"]["destination"]
        .as_str()
        .expect("an address")
        .parse()
        .expect("an address");
    assert_eq!((last, &reason["last"]["destinationPort"]), (v4, &80.into()));
    assert!(reason["advice"].is_string(), "{reason}");
    check_metrics(node, &veth);

    let World {
        agents, cluster, ..
    } = &mut world;
    let (agent, node) = (&mut agents[0], cluster.node(0));
    let log = agent.log().to_owned();
    let packet = format!("→ {v4}:80, ");
    let logged = agent.wait_for("the packet is in the log", |_| {
        let log = fs::read_to_string(&log).unwrap_or_default();
        let line = log.lines().find(|line| line.contains(&packet));
        line.is_some_and(|line| line.contains("no Service has this cluster address"))
    });
    logged.expect("a line of the log");

    pod.remove().expect("the pod goes");
    let tidied = agent.wait_for("what the pod's device dropped is told without it", |_| {
        packets(&drops(node), "Unallocated", "PodIngress", None) == unallocated
    });
    tidied.expect("no device that is gone");
    let agent = world.agents.remove(0);
    agent.stop(Signal::SIGTERM).expect("the agent ends");
    let told = drops(world.cluster.node(0));
    let without = packets(&told, "Unallocated", "PodIngress", None);
    assert_eq!(without, unallocated, "{told}");
}
