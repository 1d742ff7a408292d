//! Backends that go, and Services that go and come back, while clients ask.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use lb_tests::lab::{Captured, Cluster, Place as _, Request, Requests, Site};
use lb_tests::tool::{Protocol, Reply};

use super::endpoints::{ask_on, end, hold};
use super::world::{Kind, POD_PORT, Service, World, service_cidr};

/// Whether a packet is the first of a connection with the server, or any datagram for it.
fn is_for_server(packet: &Captured) -> bool {
    !packet.is_leaving && packet.dst.port() == POD_PORT && (packet.is_syn || packet.is_udp)
}

/// Clients by who asks whom.
type Clients = Vec<(String, Requests)>;

/// What clients have heard up to now.
fn heard(clients: &mut Clients) -> Vec<(String, Result<Reply>)> {
    let ended = |(name, client): &mut (String, Requests)| {
        let name = name.clone();
        let ended: Vec<_> = client.ended().collect();
        ended.into_iter().map(move |reply| (name.clone(), reply))
    };
    clients.iter_mut().flat_map(ended).collect()
}

/// Lets each client end `count` requests, from now on; all requests are answered. By whom?
#[track_caller]
fn answers(clients: &mut Clients, count: usize) -> Vec<String> {
    let mut servers = Vec::new();
    for (name, reply) in heard(clients) {
        let _ = reply.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
    for (name, client) in clients {
        for reply in client.take(count) {
            let reply = reply.unwrap_or_else(|error| panic!("{name}: {error:#}"));
            servers.push(reply.server);
        }
    }
    servers
}

#[test]
fn backend_delete_no_window() {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 1, 0, 1], &[]);
    let pod = world.client_pod(0);
    let all = Service::new(1, 0..4);
    world.serve(&[&all]);
    let dialled = [Kind::ClusterIp, Kind::NodePort].map(|kind| all.dialled(&world, kind, 0));
    let dialled = dialled.concat();
    let node = world.cluster.node(0).site();
    let (pod, outside) = (pod.site(), world.cluster.client().site());
    // Connections, and sockets that send on.
    let mut clients = Clients::new();
    for from in [pod, node, outside] {
        let named = |client| (from.name().to_owned(), client);
        clients.extend(ask_on(from, dialled.iter().copied()).into_iter().map(named));
        if from.name() != node.name() {
            let hold = |to: &SocketAddr| hold(from, Protocol::Udp, *to);
            clients.extend(dialled.iter().map(hold).map(named));
        }
    }
    answers(&mut clients, 10);
    for (victim, left) in [(0, 1..4), (1, 2..4)] {
        world.serve(&[&Service::new(1, left.clone())]);
        let capture = world.pods[victim].capture().expect("a capture");
        // What was under way may still come from before; then the pod goes, and nobody notices.
        answers(&mut clients, 2);
        let down = world.pods[victim].netns().ip(&["link set eth0 down"]);
        down.expect("a pod without a network");
        let late = capture.packets().expect("a whole capture");
        let late: Vec<_> = late.into_iter().filter(is_for_server).collect();
        assert_eq!(late, [], "for {} when it had left", world.name(victim));
        let left = world.names(left);
        for server in answers(&mut clients, 20) {
            assert!(left.contains(&server), "{server} is none of {left:?}");
        }
    }
    end(clients.into_iter().map(|(_, client)| client).collect());
}

/// Senders of datagrams from one port each, which go on whatever they hear: a socket of each for
/// every frontend of the Service, from everywhere.
fn senders(world: &World, pod: &Site, service: &Service) -> Clients {
    let node = world.cluster.node(0).site();
    let kinds = Kind::ALL.map(|kind| service.dialled(world, kind, 0));
    let dialled = kinds.concat();
    let mut senders = Clients::new();
    for from in [pod, node, world.cluster.client().site()] {
        for (&to, source_port) in dialled.iter().zip(40_400..) {
            let request = Request {
                hold: true,
                endure: true,
                count: 0,
                source_port,
                interval: Duration::from_millis(20),
                timeout: Duration::from_millis(400),
                ..Request::new(Protocol::Udp, to)
            };
            let name = format!("{} to {to}", from.name());
            senders.push((name, from.start(&request).expect("a sender")));
        }
    }
    senders
}

/// A Service is served by one pod, by nobody in a way of its own, by another pod, and so on: what
/// senders hear.
fn serve_in_turn(nobody: &[&Service]) {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], &[]);
    world.fixed = vec![service_cidr()];
    let pod = world.client_pod(0);
    let by = [0, 1].map(|pod| Service::new(1, [pod]));
    world.serve(&[&by[0]]);
    let mut senders = senders(&world, pod.site(), &by[0]);
    for turn in [0, 1, 0, 0, 1] {
        world.serve(&[&by[turn]]);
        heard(&mut senders);
        for (to, sender) in &mut senders {
            // What was under way when the Service came back may have been refused or lost.
            let is_served = |heard: &Result<Reply>| {
                let heard = heard.as_ref();
                heard.is_ok_and(|reply| reply.server == world.name(turn))
            };
            let heard: Vec<_> = sender.by_ref().take(20).collect();
            let is_served_now = heard.iter().any(is_served);
            assert!(is_served_now, "{to}: not served again: {heard:?}");
            for reply in sender.take(10) {
                let reply = reply.expect("no request fails");
                assert_eq!(reply.server, world.name(turn), "{to}");
            }
        }
        world.serve(nobody);
        heard(&mut senders);
        for (to, sender) in &mut senders {
            // One may have been under way.
            let heard: Vec<_> = sender.take(3).collect();
            assert!(heard[1..].iter().all(Result::is_err), "{to}: {heard:?}");
        }
    }
}

/// Connected sockets of the first node's processes, to every frontend of a Service.
fn connected(world: &World, service: &Service) -> Clients {
    let node = world.cluster.node(0).site();
    let kinds = Kind::ALL.map(|kind| service.dialled(world, kind, 0));
    let connect = |to| {
        let request = Request {
            hold: true,
            endure: true,
            connect: true,
            count: 0,
            interval: Duration::from_millis(5),
            ..Request::new(Protocol::Udp, to)
        };
        (to.to_string(), node.start(&request).expect("a client"))
    };
    kinds.concat().into_iter().map(connect).collect()
}

#[test]
fn s59_connected_sockets_of_the_node_leave_a_backend_that_is_gone_and_no_other() {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 1, 0], &[]);
    let other = Service::new(2, [0]);
    let serve = |world: &mut World, pods: &[usize]| {
        let service = Service::new(1, pods.iter().copied());
        world.serve(&[&service, &other]);
        service
    };
    let service = serve(&mut world, &[0]);
    let mut moving = connected(&world, &service);
    let mut staying = connected(&world, &other);
    let [zeroth, first, second] = [0, 1, 2].map(|pod| world.name(pod));
    let by = |clients: &mut Clients, count: usize, server: &String| {
        assert!(answers(clients, count).iter().all(|name| name == server));
    };
    by(&mut moving, 5, &zeroth);
    by(&mut staying, 5, &zeroth);

    // The pod is still there, and still serves the other Service.
    serve(&mut world, &[1, 2]);
    let mut at_first = Clients::new();
    for (to, mut client) in moving {
        let is_old = |reply: &Result<Reply>| matches!(reply, Ok(reply) if reply.server == zeroth);
        let heard: Vec<_> = client
            .by_ref()
            .take(2000)
            .skip_while(is_old)
            .take(1)
            .collect();
        let error = heard[0].as_ref().expect_err("it is told").to_string();
        assert!(error.contains("abort"), "{to}: {error}");
        let replies = client.by_ref().take(10);
        let servers = replies.map(|reply| reply.expect("it has connected again").server);
        let servers: BTreeSet<String> = servers.collect();
        assert!(!servers.contains(&zeroth), "{to}: {servers:?}");
        if servers == BTreeSet::from([first.clone()]) {
            at_first.push((to, client));
        } else {
            assert_eq!(servers, BTreeSet::from([second.clone()]), "{to}");
        }
    }
    by(&mut staying, 20, &zeroth);

    // Nobody leaves who is still served.
    serve(&mut world, &[1, 0]);
    by(&mut at_first, 20, &first);
}

#[test]
fn udp_fixed_source_service_recreate() {
    serve_in_turn(&[]);
}

#[test]
fn udp_scale_to_zero_and_back() {
    serve_in_turn(&[&Service::new(1, [])]);
}
