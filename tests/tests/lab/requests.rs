//! Servers and clients: what they say, when they end, and how they fail.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_tests::lab::{Cni, Fabric, Place as _, Request};
use lb_tests::tool::Protocol;

use super::{PORT, cluster};

const TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn a_held_connection_keeps_its_port_and_ends_with_its_server() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let (pod, client) = (cluster.pod("a", 0).unwrap(), cluster.client());
    let node = cluster.node(1);
    let server = node.serve(PORT).unwrap();
    for (protocol, from) in [(Protocol::Tcp, pod.site()), (Protocol::Udp, client.site())] {
        let request = Request {
            hold: true,
            count: 0,
            source_port: 4000,
            ..Request::new(protocol, (node.ipv6(), PORT).into())
        };
        let mut requests = from.start(&request).unwrap();
        let clients: BTreeSet<SocketAddr> = requests
            .by_ref()
            .take(20)
            .map(|reply| reply.unwrap().seen_client)
            .collect();
        assert_eq!(clients.len(), 1, "{clients:?}");
        assert!(requests.finish().into_iter().all(|reply| reply.is_ok()));
    }
    let request = Request {
        hold: true,
        count: 0,
        ..Request::new(Protocol::Tcp, (node.ipv4(), PORT).into())
    };
    let mut requests = pod.start(&request).unwrap();
    requests.next().unwrap().unwrap();
    drop(server);
    let last = requests.last().unwrap();
    last.unwrap_err();
}

#[test]
fn a_server_answers_from_the_address_that_was_asked() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let pod = cluster.pod("a", 0).unwrap();
    let node = cluster.node(0);
    let _servers = [node.serve(PORT).unwrap(), pod.serve(PORT).unwrap()];
    // Not the address that the route to the client would choose.
    let bridge = node.pod_networks().0.hosts().next().unwrap();
    cluster
        .router()
        .netns()
        .ip(&[format!("route add {bridge} via {}", node.ipv4())])
        .unwrap();
    for protocol in Protocol::ALL {
        let reply = cluster
            .client()
            .request(protocol, (bridge, PORT).into())
            .unwrap();
        assert_eq!(reply.peer, (bridge, PORT).into());
        assert_eq!(reply.seen_server, (bridge, PORT).into());
        for loopback in ["127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
            let reply = pod.request(protocol, (loopback, PORT).into()).unwrap();
            assert_eq!(reply.seen_client.ip(), loopback);
        }
    }
}

#[test]
fn a_client_without_a_count_goes_on_until_it_is_stopped() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let node = cluster.node(0);
    let _server = node.serve(PORT).unwrap();
    let to = (node.ipv4(), PORT).into();
    let endless = Request {
        count: 0,
        ..Request::new(Protocol::Udp, to)
    };
    let requests = cluster.client().start(&endless).unwrap();
    // Long enough to fill a pipe, were it not read.
    let counted = Request {
        count: 1000,
        ..endless
    };
    assert_eq!(
        cluster
            .client()
            .start(&counted)
            .unwrap()
            .filter(Result::is_ok)
            .count(),
        1000
    );
    let replies = requests.finish();
    let numbers: Vec<_> = replies
        .into_iter()
        .map(|reply| reply.unwrap().number)
        .collect();
    let count = numbers.len() as u64;
    assert!(numbers.into_iter().eq(0..count), "a reply is missing");
}

#[test]
fn a_request_that_nobody_answers_fails_in_time() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    // Routed, but nobody has it.
    let nobody = SocketAddr::from(([203, 0, 113, 99], PORT));
    for protocol in Protocol::ALL {
        let timeout = Duration::from_millis(100);
        let request = Request {
            timeout,
            ..Request::new(protocol, nobody)
        };
        let start = Instant::now();
        let error = cluster
            .node(0)
            .start(&request)
            .unwrap()
            .next()
            .unwrap()
            .unwrap_err();
        assert!(error.to_string().contains("within 100ms"), "{error:#}");
        assert!(start.elapsed() < TIMEOUT);
    }
}

#[test]
fn a_taken_port_is_an_error_that_says_so() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let node = cluster.node(0);
    let _server = node.serve(PORT).unwrap();
    let error = format!("{:#}", node.serve(PORT).unwrap_err());
    assert!(error.contains("serve port 8000 in node1"), "{error}");
    assert!(error.contains("Address already in use"), "{error}");
}
