//! What clients can dial (C), and what they are not kept from by it.

use std::net::{IpAddr, SocketAddr};

use lb_tests::lab::{Cluster, Place as _, Site};
use lb_tests::tool::Protocol;
use serde_json::{Value, json};

use super::world::{Ask, Heard, Kind, Service, World, check_all};

/// Further addresses of the first node, in both families.
const SECOND: [&str; 2] = ["192.168.77.200", "fd00:77::200"];

/// Gives the first node further addresses on its uplink.
fn add_addresses(world: &World) {
    let commands = [
        format!("addr add {}/24 dev eth0", SECOND[0]),
        format!("addr add {}/64 dev eth0 nodad", SECOND[1]),
    ];
    world
        .cluster
        .node(0)
        .netns()
        .ip(&commands)
        .expect("addresses");
}

/// What a single request from outside hears at these addresses' node port.
fn at_node_ports(world: &World, service: &Service, addresses: &[IpAddr]) -> Vec<bool> {
    let [to, _] = service.dialled(world, Kind::NodePort, 0);
    let client = world.cluster.client().site();
    let ask = |addr: &IpAddr| {
        let to = SocketAddr::new(*addr, to.port());
        Ask::new(client, Protocol::Tcp, to).once().hear()
    };
    addresses
        .iter()
        .map(ask)
        .map(|heard| match heard {
            Heard::Answered { .. } => true,
            // The node itself has nobody there.
            Heard::Refused => false,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn s21_node_ports_are_on_the_addresses_that_the_flag_chooses_and_follow_them() {
    let table: [(&[&str], [bool; 4]); 4] = [
        (&[], [true, true, false, false]),
        (
            &["--nodeport-addresses", "primary"],
            [true, true, false, false],
        ),
        // Of one family only: the other is open on all of its addresses.
        (
            &["--nodeport-addresses", "192.168.77.128/25"],
            [false, true, true, true],
        ),
        (
            &["--nodeport-addresses", "192.168.77.0/24,fd00:77::200/128"],
            [true, false, true, true],
        ),
    ];
    for (flags, expected) in table {
        let mut world = World::new(Cluster::builder().nodes(1), &[0], flags);
        let service = Service::new(1, [0]);
        world.serve(&[&service]);
        add_addresses(&world);
        // A change of Services comes after that of addresses.
        world.serve(&[&service]);
        let first = world.cluster.node(0).addresses();
        let second = SECOND.map(|addr| addr.parse().expect("an address"));
        let served = at_node_ports(&world, &service, &[first, second].concat());
        assert_eq!(served, expected, "{flags:?}");
    }
}

#[test]
fn s22_node_ports_on_loopback_are_for_processes_of_the_node_and_can_be_turned_off() {
    for (flag, is_on) in [("on", true), ("off", false)] {
        let flags = ["--localhost-nodeports", flag];
        let mut world = World::new(Cluster::builder().nodes(2), &[1], &flags);
        let service = Service::new(1, [0]);
        world.serve(&[&service]);
        let node = world.cluster.node(0).site();
        let [to, _] = service.dialled(&world, Kind::NodePort, 0);
        let heard = if is_on {
            Heard::answered(world.names([0]))
        } else {
            Heard::Refused
        };
        let expected: Vec<_> = [
            [127, 0, 0, 1].into(),
            IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ]
        .into_iter()
        .map(|addr| {
            let ask = Ask::new(node, Protocol::Tcp, SocketAddr::new(addr, to.port()));
            (ask, heard.clone(), flag.to_owned())
        })
        .collect();
        check_all(&expected);
    }
}

#[test]
fn s23_s24_a_load_balancer_in_proxy_mode_or_without_node_ports_is_dialled_by_the_rest() {
    let mut world = World::new(Cluster::builder().nodes(1), &[0], &[]);
    let pod = world.client_pod(0);
    let all = Service::new(1, [0]);
    let port =
        |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 80});
    let without = Service::new(2, [0]).with(json!({
        "allocateLoadBalancerNodePorts": false, "ports": [port("TCP"), port("UDP")],
    }));
    let mut proxied = Service::new(3, [0]);
    proxied.ip_mode = "Proxy";
    world.serve(&[&all, &without, &proxied]);
    let mut expected = Vec::new();
    let mut expect = |service: &Service, kind: Kind, heard: Option<Heard>| {
        for to in service.dialled(&world, kind, 0) {
            for client in [pod.site(), world.cluster.client().site()] {
                let ask = Ask::new(client, Protocol::Tcp, to).once();
                let heard = heard.clone().unwrap_or(Heard::answered(world.names([0])));
                expected.push((ask, heard, format!("{kind:?}")));
            }
        }
    };
    expect(&all, Kind::NodePort, None);
    expect(&all, Kind::LoadBalancer, None);
    expect(&without, Kind::NodePort, Some(Heard::Refused));
    expect(&without, Kind::LoadBalancer, None);
    // The address is the balancer's own affair; nobody has it here.
    expect(&proxied, Kind::LoadBalancer, Some(Heard::Silence));
    expect(&proxied, Kind::NodePort, None);
    check_all(&expected);
}

#[test]
fn s20_tcp_and_udp_on_one_port_are_two_ports() {
    let mut world = World::new(Cluster::builder().nodes(1), &[0, 0], &[]);
    let pod = world.client_pod(0);
    let only = |name: &str, protocol: &str| json!({"ports": [{"name": name, "protocol": protocol, "port": 80, "nodePort": 30101}]});
    for (served, spec) in [
        (Protocol::Tcp, only("tcp", "TCP")),
        (Protocol::Udp, only("udp", "UDP")),
    ] {
        let service = Service::new(1, [0]).with(spec);
        world.serve(&[&service]);
        let mut expected = Vec::new();
        for to in service.dialled(&world, Kind::ClusterIp, 0) {
            for protocol in Protocol::ALL {
                let heard = if protocol == served {
                    Heard::answered(world.names([0]))
                } else {
                    Heard::Refused
                };
                let ask = Ask::new(pod.site(), protocol, to);
                expected.push((ask, heard, format!("{served:?} is served")));
            }
        }
        check_all(&expected);
    }
}

fn output(site: &Site, program: &str, arguments: &[&str]) -> String {
    let mut command = site.command(program).expect("a cgroup");
    let output = command.args(arguments).output().expect("a program");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn s27_the_node_has_no_socket_and_no_address_of_a_service() {
    let mut world = World::new(Cluster::builder().nodes(1), &[0], &[]);
    let node = world.cluster.node(0).site();
    let before = output(node, "ip", &["-o", "addr"]);
    let service = Service::new(1, [0]);
    world.serve(&[&service]);
    let node = world.cluster.node(0).site();
    assert_eq!(output(node, "ip", &["-o", "addr"]), before);
    let port = service.dialled(&world, Kind::NodePort, 0)[0]
        .port()
        .to_string();
    let sockets = output(node, "ss", &["-Hlntu"]);
    assert!(!sockets.contains(&format!(":{port} ")), "{sockets}");
    // Nobody has reserved it, either: whoever binds it serves his own clients on other addresses.
    let mine = node.serve_as("mine", port.parse().expect("a port"));
    drop(mine.expect("a free port"));
}

/// Rules of a firewall that lets through what is between true addresses, and nothing else.
const FIREWALL: &str = "
table inet lab {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ip daddr { 10.96.0.0/16, 198.51.100.0/23 } counter drop
    ip saddr { 10.96.0.0/16, 198.51.100.0/23, 192.168.77.11 } counter drop
    ip saddr 10.244.0.0/16 accept
    ip daddr 10.244.0.0/16 accept
  }
}
";

#[test]
fn s39_a_firewall_sees_clients_and_backends_by_their_own_addresses() {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], &[]);
    let pod = world.client_pod(0);
    let service = Service::new(1, [0, 1]);
    world.serve(&[&service]);
    let node = world.cluster.node(0).site();
    let rules = world.cluster.dir().join("rules");
    std::fs::write(&rules, FIREWALL).expect("rules");
    output(
        node,
        "nft",
        &["-f", rules.to_str().expect("a path in UTF-8")],
    );
    let mut expected = Vec::new();
    for kind in Kind::ALL {
        let [to, _] = service.dialled(&world, kind, 0);
        for client in [pod.site(), world.cluster.client().site()] {
            let heard = Heard::answered(world.names([0, 1]));
            expected.push((
                Ask::new(client, Protocol::Tcp, to),
                heard,
                format!("{kind:?}"),
            ));
        }
    }
    check_all(&expected);
    let list = ["-j", "list", "chain", "inet", "lab", "forward"];
    let counted: Value = serde_json::from_str(&output(node, "nft", &list)).expect("JSON");
    let counters: Vec<u64> = counted["nftables"]
        .as_array()
        .expect("rules")
        .iter()
        .flat_map(|rule| rule["rule"]["expr"].as_array().into_iter().flatten())
        .filter_map(|part| part["counter"]["packets"].as_u64())
        .collect();
    assert_eq!(counters, [0; 2], "{counted}");
}
