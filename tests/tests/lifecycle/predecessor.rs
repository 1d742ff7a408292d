//! Nodes on which kube-proxy has served until now.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use lb_tests::lab::{Node, Place as _, Pod, Traffic, forget_connections, lb_agent};
use lb_tests::tool::TrafficOptions;
use nix::sys::signal::Signal;

use crate::stage::{PORT, SERVER_PORT, Stage, cluster_ips, finish, node_port};

/// What an agent logs of connections that are not its own.
const LEFT: &str =
    "connections that netfilter translates (kube-proxy's) are left to it until they end";
const ENDED: &str = "connections that netfilter has translated have ended";

/// Rules of the two modes, with the same structure: for a Service, by its address and its node port,
/// one of these endpoints.
#[derive(Clone, Copy)]
enum Mode {
    Nftables,
    Iptables,
}

impl Mode {
    fn write(self, node: &Node, pods: &[Pod]) {
        for vip in cluster_ips(1) {
            let of_family = |ip: &IpAddr| ip.is_ipv4() == vip.is_ipv4();
            let ips = pods
                .iter()
                .flat_map(|pod| [pod.ipv4().into(), pod.ipv6().into()]);
            let endpoints = ips
                .filter(of_family)
                .map(|ip| SocketAddr::new(ip, SERVER_PORT));
            let endpoints: Vec<_> = endpoints.collect();
            let (program, arguments, rules): (_, &[&str], _) = match (self, vip.is_ipv4()) {
                (Self::Nftables, _) => ("nft", &["-f", "-"], nftables(vip, &endpoints)),
                (Self::Iptables, true) => ("iptables-nft-restore", &[], iptables(vip, &endpoints)),
                (Self::Iptables, false) => {
                    ("ip6tables-nft-restore", &[], iptables(vip, &endpoints))
                }
            };
            let written = node.netns().feed(program, arguments, &rules);
            written.expect("rules");
        }
    }
}

fn nftables(vip: SocketAddr, endpoints: &[SocketAddr]) -> String {
    let ip = if vip.is_ipv4() { "ip" } else { "ip6" };
    let mut rules = format!("table {ip} kube-proxy {{\n");
    let mut choices = Vec::new();
    for (number, endpoint) in endpoints.iter().enumerate() {
        let _ = writeln!(
            rules,
            "chain endpoint-{number} {{ meta l4proto tcp dnat to {endpoint}; }}"
        );
        choices.push(format!("{number} : goto endpoint-{number}"));
    }
    let choice = format!(
        "numgen random mod {} vmap {{ {} }}",
        choices.len(),
        choices.join(", ")
    );
    let node_port = node_port(1);
    let _ = write!(
        rules,
        "chain service {{ {choice}; }}
chain services {{
  {ip} daddr {} tcp dport {PORT} goto service
  fib daddr type local tcp dport {node_port} goto service
}}
chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
chain nat-output {{ type nat hook output priority -100; jump services; }}
chain nat-postrouting {{ type nat hook postrouting priority 100; ct status dnat masquerade; }}
}}
",
        vip.ip()
    );
    rules
}

fn iptables(vip: SocketAddr, endpoints: &[SocketAddr]) -> String {
    let (mut chains, mut rules) = (String::new(), String::new());
    for (number, endpoint) in endpoints.iter().enumerate() {
        let left = endpoints.len() - number;
        let chance = if left > 1 {
            format!("-m statistic --mode nth --every {left} --packet 0")
        } else {
            String::new()
        };
        let _ = writeln!(chains, ":KUBE-SEP-{number} - [0:0]");
        let _ = writeln!(rules, "-A KUBE-SVC-1 {chance} -j KUBE-SEP-{number}");
        let _ = writeln!(
            rules,
            "-A KUBE-SEP-{number} -p tcp -j DNAT --to-destination {endpoint}"
        );
    }
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SVC-1 - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d {} -p tcp --dport {PORT} -j KUBE-SVC-1
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp --dport {} -j KUBE-SVC-1
-A KUBE-POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE
{rules}COMMIT
",
        vip.ip(),
        node_port(1)
    )
}

/// Connections that stay, and others that come and go.
fn some(options: TrafficOptions) -> TrafficOptions {
    TrafficOptions {
        flows: 50,
        connections_per_second: 100,
        ..options
    }
}

fn cleanup(node: &Node) -> String {
    let done = lb_agent(node, &["cleanup", "--kube-proxy"]).expect("a command");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{done:?}");
    said
}

#[track_caller]
fn take_over(mode: Mode) {
    let mut stage = Stage::new(2, &[0, 1]);
    stage.write(&[(1, true, stage.backends())]);
    for node in stage.cluster.nodes() {
        mode.write(node, &stage.pods);
    }
    let inside = stage.client.traffic(&some(stage.inside([1])));
    let outside = stage.cluster.client().traffic(&some(stage.outside(1)));
    let traffic: [Traffic; 2] = [inside.expect("traffic"), outside.expect("traffic")];

    stage.start_agents(&[]);
    for agent in &stage.agents {
        assert!(agent.log_from(0).contains(LEFT), "{}", agent.log_from(0));
    }
    for node in stage.cluster.nodes() {
        let said = cleanup(node);
        assert!(said.starts_with("removed kube-proxy's rules"), "{said}");
        let stays = said.contains("its table of nftables stays, empty");
        assert_eq!(stays, matches!(mode, Mode::Nftables), "{said}");
    }
    // Others that know it from the kernel alone, and find the maps as they ought to be.
    assert_eq!(stage.restart_agents(Signal::SIGKILL, &[]), [0, 0]);
    for (traffic, what) in traffic.into_iter().zip(["inside", "outside"]) {
        let report = finish(traffic, what);
        assert!(report.exchanges > 0 && report.connections > 0, "{report}");
    }

    for (agent, node) in stage.agents.iter_mut().zip(stage.cluster.nodes()) {
        assert!(!agent.log_from(0).contains(ENDED), "not before they have");
        // The kernel remembers for a while what has ended.
        forget_connections(node.netns()).expect("no connections");
        agent.wait_for_log(ENDED, 0).expect("nobody else");
        let said = cleanup(node);
        assert!(!said.contains("stays"), "{said}");
        assert_eq!(cleanup(node), "kube-proxy has left no rules\n");
    }
}

#[test]
fn r26_connections_that_kube_proxy_has_translated_by_nftables_go_on() {
    take_over(Mode::Nftables);
}

#[test]
fn r26_connections_that_kube_proxy_has_translated_by_iptables_go_on() {
    take_over(Mode::Iptables);
}
