//! What SNAT sends from, and to whom.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::dial::{any, connect};
use lb_tests::lab::{Cluster, Fabric, Node, Place as _};
use lb_tests::scene::{PORT, Scene, Stage, reach_all_ways};
use serde_json::Value;

/// How long the kernel may take to find out about a neighbour.
const PATIENCE: Duration = Duration::from_secs(20);

/// Behind a tunnel, strict reverse path filters want an address of the node's pod network.
#[test]
fn snat_address_of_the_pod_network_serves_behind_a_tunnel() {
    for xdp in ["native", "off"] {
        let own = ["10.244.1.250", "fd00:10:244:1::fa"];
        let flags: &'static [&'static str] = match xdp {
            "off" => &[
                "--snat-address",
                "10.244.1.250,fd00:10:244:1::fa",
                "--xdp",
                "off",
            ],
            _ => &["--snat-address", "10.244.1.250,fd00:10:244:1::fa"],
        };
        let scene = Scene::sending_from(Fabric::Vxlan, flags, "lo", own);
        let own = own.map(|addr| addr.parse::<IpAddr>().expect("an address"));
        let client = scene.cluster.client();
        reach_all_ways(client, scene.node_ports(0), &scene.names(), |reply| {
            assert!(own.contains(&reply.seen_client.ip()), "{reply:?}");
        });
    }
}

/// The node's own processes go on sending from the devices' addresses, and from this one, too.
#[test]
fn snat_address_leaves_the_nodes_own_connections_alone() {
    let own = ["192.168.77.211", "fd00:77::d3"];
    let flags = &["--snat-address", "192.168.77.211,fd00:77::d3"];
    let scene = Scene::sending_from(Fabric::Direct, flags, "eth0", own);
    let client = scene.cluster.client();
    reach_all_ways(client, scene.node_ports(0), &scene.names(), |_| ());
    let (node, names) = (scene.cluster.node(0), scene.names());
    let addresses = node.addresses();
    let dialled = Scene::cluster_ips().into_iter().chain(scene.node_ports(0));
    reach_all_ways(node, dialled, &names, |reply| {
        assert!(addresses.contains(&reply.seen_client.ip()), "{reply:?}");
    });
    // To the pod itself, from either address.
    let pod = &scene.backends[0];
    for (addr, own) in pod.addresses().into_iter().zip(own) {
        let to = SocketAddr::new(addr, PORT);
        let own: IpAddr = own.parse().expect("an address");
        let work = || -> io::Result<()> {
            connect((own, 0).into(), to)?;
            connect(any(to, 0), to)?;
            Ok(())
        };
        node.netns()
            .run(work)
            .expect("the node")
            .expect("connections");
    }
}

/// The programs write the neighbour's address themselves. Who goes on without a word is not asked whether he is
/// there still, and his address stays what it was.
#[test]
fn the_kernel_goes_on_asking_for_the_neighbour_that_a_connection_needs() {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2).fabric(Fabric::Direct),
        backends: &[1],
        flags: &["--xdp", "off"],
    });
    let (node, neighbour) = (scene.cluster.node(0), scene.cluster.node(1).ipv4());
    let uplink = node.uplink();
    let delay = format!("ipv4/neigh/{uplink}/delay_first_probe_time");
    node.netns().sysctl(&[(&delay, "1")]).expect("a sysctl");
    let [to, _] = scene.node_ports(0);
    let (is_over, deadline) = (AtomicBool::new(false), Instant::now() + 3 * PATIENCE);
    let client = scene.cluster.client().netns();
    let talks = || -> io::Result<()> {
        let socket = UdpSocket::bind(any(to, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        while !is_over.load(Ordering::Relaxed) && Instant::now() < deadline {
            socket.send(b"who")?;
            let _ = socket.recv(&mut [0; 512]);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let client = scope.spawn(|| client.run(talks));
        await_state(node, neighbour.into(), |state| state == "REACHABLE");
        let stale = format!("neigh change {neighbour} dev {uplink} nud stale");
        node.netns().ip(&[stale]).expect("a neighbour");
        await_state(node, neighbour.into(), |state| state != "REACHABLE");
        await_state(node, neighbour.into(), |state| state == "REACHABLE");
        is_over.store(true, Ordering::Relaxed);
        let talked = client.join().expect("a thread").expect("the client");
        talked.expect("datagrams");
    });
}

/// Waits until the node says this about a neighbour.
#[track_caller]
fn await_state(node: &Node, neighbour: IpAddr, is_awaited: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut ip = node.netns().command("ip");
        let words = ["-j", "neigh", "show", "to", &neighbour.to_string()];
        let output = ip.args(words).output().expect("ip");
        let shown: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list");
        let state = shown.first().and_then(|one| one["state"][0].as_str());
        if state.is_some_and(&is_awaited) {
            return;
        }
        assert!(Instant::now() < deadline, "{neighbour} is {state:?}");
    }
}
