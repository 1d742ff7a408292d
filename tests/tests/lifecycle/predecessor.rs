//! Nodes on which kube-proxy has served until now.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lb_tests::lab::{Cluster, Node, Place as _, Traffic, forget_connections, lb_agent};
use lb_tests::tool::TrafficOptions;
use nix::sys::signal::Signal;

use crate::stage::{PORT, SERVER_PORT, Stage, cluster_ips, finish, node_port};

/// What an agent logs of connections that are not its own.
const LEFT: &str =
    "connections that netfilter translates (kube-proxy's) are left to it until they end";
/// What a cleanup says while there are such connections.
const STAYS: &str =
    "of its connections stays, and does nothing else; run this again when they have ended";

/// Rules of the two modes, with the same structure: for a Service, by its address and its node port,
/// one of these endpoints.
#[derive(Clone, Copy)]
enum Mode {
    Nftables,
    Iptables,
}

impl Mode {
    fn write(self, node: &Node, endpoints: &[IpAddr]) {
        for vip in cluster_ips(1) {
            let of_family = |ip: &IpAddr| ip.is_ipv4() == vip.is_ipv4();
            let ips = endpoints.iter().copied().filter(of_family);
            let endpoints = ips.map(|ip| SocketAddr::new(ip, SERVER_PORT));
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
chain nat-postrouting {{ type nat hook postrouting priority 100; ct status dnat masquerade fully-random; }}
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
-A KUBE-POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE --random-fully
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
    let pods = stage.pods.iter();
    let ips = pods.flat_map(|pod| [pod.ipv4().into(), pod.ipv6().into()]);
    let ips: Vec<IpAddr> = ips.collect();
    for node in stage.cluster.nodes() {
        mode.write(node, &ips);
    }
    let inside = stage.client.traffic(&some(stage.inside([1])));
    let outside = stage.cluster.client().traffic(&some(stage.outside(1)));
    let traffic: [Traffic; 2] = [inside.expect("traffic"), outside.expect("traffic")];

    stage.start_agents(&[]);
    for node in stage.cluster.nodes() {
        let said = cleanup(node);
        assert!(said.starts_with("removed kube-proxy's rules"), "{said}");
        assert!(said.contains(STAYS), "{said}");
    }
    // Others that find the maps as they ought to be, and what is to be settled still.
    assert_eq!(stage.restart_agents(Signal::SIGKILL, &[]), [0, 0]);
    for agent in &mut stage.agents {
        agent
            .wait_for_log(LEFT, 0)
            .expect("connections of netfilter");
    }
    // From the maps alone, and once more.
    let marks = [(); 2].map(|()| stage.restart_agents(Signal::SIGTERM, &[]));
    assert_eq!(marks[1], [0, 0]);
    for (traffic, what) in traffic.into_iter().zip(["inside", "outside"]) {
        let report = finish(traffic, what);
        assert!(report.exchanges > 0 && report.connections > 0, "{report}");
    }

    for node in stage.cluster.nodes() {
        // The kernel remembers for a while what has ended.
        forget_connections(node.netns()).expect("no connections");
        let said = cleanup(node);
        assert!(!said.contains(STAYS), "{said}");
        assert_eq!(cleanup(node), "kube-proxy has left no rules\n");
    }
}

/// A connection of a node to itself, by a Service's address.
fn dial(node: &Node, ip: IpAddr) -> (TcpStream, TcpStream) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let connect = || {
        let server = TcpListener::bind((ip, SERVER_PORT))?;
        let mut vips = cluster_ips(1).into_iter();
        let vip = vips.find(|vip| vip.is_ipv4() == ip.is_ipv4());
        let client = TcpStream::connect_timeout(&vip.expect("an address"), PATIENCE)?;
        let (server, _) = server.accept()?;
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        io::Result::Ok((client, server))
    };
    let connected = node.netns().run(connect).expect("a namespace");
    connected.expect("a connection")
}

/// Something goes, and something comes back.
fn exchange((client, server): &mut (TcpStream, TcpStream)) -> io::Result<()> {
    let mut buffer = [0];
    client.write_all(b"q")?;
    server.read_exact(&mut buffer)?;
    server.write_all(b"a")?;
    client.read_exact(&mut buffer)
}

/// Where nobody else has rules: then the kernel ceases to translate with the last one.
#[track_caller]
fn clean_up_alone(mode: Mode) {
    let cluster = Cluster::builder().nodes(1).build().expect("a lab");
    let node = cluster.node(0);
    let rules = || {
        let listed = node.netns().feed("nft", &["list", "ruleset"], "");
        listed.expect("rules")
    };
    // What others have would keep the kernel at work.
    let flushed = node.netns().feed("nft", &["flush", "ruleset"], "");
    flushed.expect("no rules");
    mode.write(node, &node.addresses());
    let dialled = node.addresses().into_iter().map(|ip| dial(node, ip));
    let mut connections: Vec<_> = dialled.collect();
    for connection in &mut connections {
        exchange(connection).expect("an answer");
    }
    let said = cleanup(node);
    assert!(said.contains(STAYS), "{said}");
    let left = rules();
    let leads_on = left.contains("numgen") || left.contains("KUBE-SVC");
    assert!(!leads_on, "{left}");
    for connection in &mut connections {
        exchange(connection).expect("an answer after the cleanup");
    }
    drop(connections);
    forget_connections(node.netns()).expect("no connections");
    let said = cleanup(node);
    assert!(!said.contains(STAYS), "{said}");
    assert!(!rules().to_lowercase().contains("kube"), "{}", rules());
}

#[test]
fn r26_connections_go_on_after_a_cleanup_where_only_kube_proxy_had_tables() {
    clean_up_alone(Mode::Nftables);
}

#[test]
fn r26_connections_go_on_after_a_cleanup_where_only_kube_proxy_had_chains() {
    clean_up_alone(Mode::Iptables);
}

#[test]
fn r26_connections_that_kube_proxy_has_translated_by_nftables_go_on() {
    take_over(Mode::Nftables);
}

#[test]
fn r26_connections_that_kube_proxy_has_translated_by_iptables_go_on() {
    take_over(Mode::Iptables);
}
