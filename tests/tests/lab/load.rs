//! Datagrams as fast as a node forwards.

use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::lab::{Aim, Cluster, Flows, Load, Place as _, forget_connections};

use super::network_file;

const WINDOW: Duration = Duration::from_millis(10);

/// Two nodes, the first of which forwards to an address behind the second.
fn cluster() -> (Cluster, [SocketAddr; 2]) {
    let cluster = Cluster::builder().nodes(2).build().expect("a lab");
    let (node, far) = (cluster.node(0), cluster.node(1));
    let neighbours = far.addresses().map(|addr| {
        format!("neigh replace {addr} lladdr 02:00:00:00:00:fe dev eth0 nud permanent")
    });
    node.netns().ip(&neighbours).expect("neighbours");
    let port = Load::ports().next().expect("a port");
    let to = far.pod_gateway().map(|addr| (addr, port).into());
    (cluster, to)
}

#[test]
fn load_passes_the_node_and_comes_back() {
    let (cluster, to) = cluster();
    let node = cluster.node(0);
    let mut load = Load::new().expect("programs");
    load.sink_at(node).expect("a sink");
    for to in to {
        for flows in [Flows::One, Flows::New] {
            let sent = load.send(Aim { node, to, flows }, WINDOW);
            let sent = sent.expect("datagrams that arrive");
            assert!(sent.arrived > 0 && sent.lost == 0, "{to}: {sent:?}");
        }
    }
}

#[test]
fn load_of_many_flows_has_each_of_them() {
    let (cluster, [to, _]) = cluster();
    let node = cluster.node(0);
    let mut load = Load::new().expect("programs");
    load.sink_at(node).expect("a sink");
    let flows = Flows::Many;
    load.send(Aim { node, to, flows }, WINDOW).expect("a load");
    // The lab's rule for pods lets the node track connections.
    let known = || {
        let count = network_file(node.netns(), "/proc/sys/net/netfilter/nf_conntrack_count");
        count.trim().parse::<u32>().expect("a number")
    };
    assert!(known() >= 1 << 16, "{} connections", known());
    forget_connections(node.netns()).expect("a kernel that forgets");
    assert!(known() < 100, "{} connections", known());
}

#[test]
fn load_that_does_not_arrive_is_an_error() {
    let (cluster, [to, _]) = cluster();
    let node = cluster.node(0);
    let mut load = Load::new().expect("programs");
    // Without a sink, nothing is counted.
    let flows = Flows::One;
    let error = load
        .send(Aim { node, to, flows }, WINDOW)
        .expect_err("nothing");
    assert!(
        format!("{error:#}").contains("datagrams arrived"),
        "{error:#}"
    );
}
