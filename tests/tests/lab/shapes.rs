//! Packets that are not plain, and paths that not every packet fits: without a load balancer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::lab::{Cluster, Fabric, Narrow, Place as _, Request, Site, Tag};
use lb_tests::tool::{
    Order, ProbeEnd, ProbeOptions, Protocol, Reply, ServeOptions, Shape, Transfer,
};

use super::PORT;

const MTU: u32 = 1280;

/// As much payload as fills a packet of `mtu` bytes over UDP.
fn filling(mtu: u32, to: IpAddr) -> usize {
    let headers = if to.is_ipv4() { 20 } else { 40 };
    mtu as usize - headers - 8
}

#[track_caller]
fn ask(from: &Site, request: &Request) -> Reply {
    let reply = from.start(request).unwrap().next().unwrap();
    reply.unwrap_or_else(|error| panic!("{}: {request:?}: {error:#}", from.name()))
}

fn shaped(shape: Shape, size: usize, to: SocketAddr) -> Request {
    Request {
        shape,
        size,
        ..Request::new(Protocol::Udp, to)
    }
}

/// A full packet does not pass, its sender hears by how much, and what fits then passes.
#[track_caller]
fn learns(from: &Site, to: [IpAddr; 2]) {
    for to in to.map(|ip| SocketAddr::new(ip, PORT)) {
        let probe = ProbeOptions {
            size: filling(1500, to.ip()),
            ..ProbeOptions::new(Protocol::Udp, to)
        };
        let probed = from.probe(&probe).unwrap();
        assert_eq!(probed.mtu, MTU, "{probed:?}");
        assert_eq!(probed.end, ProbeEnd::Failed("EMSGSIZE".to_owned()));
        assert_eq!(probed.report.unwrap().info, MTU);
        let size = filling(MTU, to.ip());
        let probed = from.probe(&ProbeOptions { size, ..probe }).unwrap();
        assert_eq!(probed.end, ProbeEnd::Answered, "{probed:?}");
    }
}

#[track_caller]
fn transfers(from: &Site, to: [IpAddr; 2]) {
    for to in to.map(|ip| SocketAddr::new(ip, PORT)) {
        for transfer in [Transfer::Upload(1_000_000), Transfer::Download(1_000_000)] {
            let request = Request {
                transfer: Some(transfer),
                ..Request::new(Protocol::Tcp, to)
            };
            ask(from, &request);
        }
    }
}

#[test]
fn narrow_hop_in_front_of_the_client_is_learned_of_by_both_ends() {
    let cluster = Cluster::builder().nodes(1).narrow(Narrow::Client, MTU);
    let cluster = cluster.build().unwrap();
    let (client, node) = (cluster.client(), cluster.node(0));
    let _servers = [client.serve(PORT), node.serve(PORT)].map(Result::unwrap);
    learns(client.site(), node.addresses());
    learns(node.site(), client.addresses());
    client.forget_paths().unwrap();
    node.forget_paths().unwrap();
    transfers(client.site(), node.addresses());
}

#[test]
fn narrow_hop_in_front_of_a_node_is_learned_of_by_pods_on_both_sides() {
    let cluster = Cluster::builder().nodes(3).narrow(Narrow::Node(1), MTU);
    let cluster = cluster.build().unwrap();
    let pods = [0, 1, 2].map(|node| cluster.pod(&format!("pod-{node}"), node).unwrap());
    let _servers = pods.each_ref().map(|pod| pod.serve(PORT).unwrap());
    let [a, b, c] = &pods;
    learns(a.site(), b.addresses());
    learns(b.site(), a.addresses());
    transfers(c.site(), b.addresses());
    // The others do not go that way.
    for to in c.addresses().map(|ip| SocketAddr::new(ip, PORT)) {
        let probe = ProbeOptions {
            size: filling(1500, to.ip()),
            ..ProbeOptions::new(Protocol::Udp, to)
        };
        assert_eq!(a.probe(&probe).unwrap().end, ProbeEnd::Answered);
    }
}

#[test]
fn fragments_arrive_in_every_order_but_not_if_they_overlap() {
    let cluster = super::cluster(lb_tests::lab::Cni::Bridge, Fabric::Direct);
    let (a, b) = (cluster.pod("a", 0).unwrap(), cluster.pod("b", 1).unwrap());
    let reversed = Shape::Fragments(Order::Reversed);
    let _server = b
        .serve_with(ServeOptions {
            answers: reversed,
            ..ServeOptions::new("b", PORT)
        })
        .unwrap();
    for to in b.addresses().map(|ip| SocketAddr::new(ip, PORT)) {
        for order in Order::INTACT {
            ask(a.site(), &shaped(Shape::Fragments(order), 9000, to));
        }
        let overlapping = Request {
            timeout: Duration::from_millis(300),
            ..shaped(Shape::Fragments(Order::Overlapping), 9000, to)
        };
        let outcome = a.start(&overlapping).unwrap().next().unwrap();
        outcome.unwrap_err();
    }
}

#[test]
fn options_and_missing_checksums_do_no_harm() {
    let cluster = super::cluster(lb_tests::lab::Cni::Bridge, Fabric::Direct);
    let (a, b) = (cluster.pod("a", 0).unwrap(), cluster.pod("b", 1).unwrap());
    let _server = b
        .serve_with(ServeOptions {
            answers: Shape::Unchecked,
            ..ServeOptions::new("b", PORT)
        })
        .unwrap();
    for to in b.addresses().map(|ip| SocketAddr::new(ip, PORT)) {
        for shape in [Shape::Options, Shape::ManyOptions, Shape::Unchecked] {
            ask(a.site(), &shaped(shape, 100, to));
        }
        for shape in [Shape::Options, Shape::ManyOptions] {
            let protocol = Protocol::Tcp;
            ask(
                a.site(),
                &Request {
                    protocol,
                    ..shaped(shape, 100, to)
                },
            );
        }
    }
}

#[test]
fn probes_are_told_of_closed_ports_and_of_too_few_hops() {
    let cluster = super::cluster(lb_tests::lab::Cni::Bridge, Fabric::Direct);
    let (client, node) = (cluster.client(), cluster.node(0));
    for to in node.addresses().map(|ip| SocketAddr::new(ip, PORT)) {
        let probe = |protocol, ttl| {
            let options = ProbeOptions {
                ttl,
                ..ProbeOptions::new(protocol, to)
            };
            client.probe(&options).unwrap()
        };
        for protocol in Protocol::ALL {
            let refused = ProbeEnd::Failed("ECONNREFUSED".to_owned());
            assert_eq!(probe(protocol, 0).end, refused);
            let expired = probe(protocol, 1);
            let kind = if to.is_ipv4() { 11 } else { 3 };
            assert_eq!(expired.report.unwrap().kind, kind);
            assert_eq!(expired.end, ProbeEnd::Failed("EHOSTUNREACH".to_owned()));
        }
    }
}

#[test]
fn nodes_in_a_vlan_reach_each_other_and_the_client() {
    const SIMPLE: &[Tag] = &[Tag::customer(100)];
    const DOUBLE: &[Tag] = &[Tag::service(200), Tag::customer(100)];
    for tags in [SIMPLE, DOUBLE] {
        for fabric in Fabric::ALL {
            let cluster = Cluster::builder().nodes(2).fabric(fabric).vlan(tags);
            let cluster = cluster.build().unwrap();
            let (a, b) = (cluster.pod("a", 0).unwrap(), cluster.pod("b", 1).unwrap());
            let client = cluster.client();
            let _servers = [client.serve(PORT), b.serve(PORT)].map(Result::unwrap);
            transfers(a.site(), b.addresses());
            transfers(a.site(), client.addresses());
        }
    }
}

#[test]
fn large_packets_pass_where_the_mtu_is_large() {
    let cluster = Cluster::builder().nodes(2).mtu(9000).build().unwrap();
    let (a, b) = (cluster.pod("a", 0).unwrap(), cluster.pod("b", 1).unwrap());
    let _server = b.serve(PORT).unwrap();
    for to in b.addresses().map(|ip| SocketAddr::new(ip, PORT)) {
        let probe = ProbeOptions {
            size: filling(9000, to.ip()),
            ..ProbeOptions::new(Protocol::Udp, to)
        };
        assert_eq!(a.probe(&probe).unwrap().end, ProbeEnd::Answered);
    }
}
