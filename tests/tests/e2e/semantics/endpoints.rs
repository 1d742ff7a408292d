//! Which endpoints serve (B), and what becomes of connections when they change (J).

use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::lab::{Cluster, Place as _, Request, Requests, Site};
use lb_tests::tool::Protocol;
use serde_json::{Value, json};

use super::world::{Ask, Endpoint, Heard, Kind, Service, World, check_all, service_cidr};

/// What each of a Service's frontends leads to: clients inside, clients outside.
#[track_caller]
fn check(
    world: &World,
    pod: &Site,
    service: &Service,
    inside: &[usize],
    outside: &[usize],
    what: &str,
) {
    let client = world.cluster.client().site();
    let mut expected = Vec::new();
    for to in service.dialled(world, Kind::LoadBalancer, 0) {
        for (from, by) in [(pod, inside), (client, outside)] {
            let heard = Heard::answered(world.names(by.iter().copied()));
            expected.push((Ask::new(from, Protocol::Tcp, to), heard, what.to_owned()));
        }
    }
    check_all(&expected);
}

#[test]
fn s13_s14_s34_terminating_endpoints_serve_where_there_is_no_other() {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 0, 1, 1], &[]);
    let pod = world.client_pod(0);
    let local = || Service::new(1, []).with(json!({"externalTrafficPolicy": "Local"}));
    let (ready, terminating, not_ready) =
        (Endpoint::ready, Endpoint::terminating, Endpoint::not_ready);
    type Row = (
        Vec<Endpoint>,
        &'static [usize],
        &'static [usize],
        &'static str,
    );
    let table: [Row; 4] = [
        (
            vec![ready(0), terminating(1), ready(2)],
            &[0, 2],
            &[0],
            "ready ones here and there",
        ),
        (
            vec![terminating(0), not_ready(1), ready(2)],
            &[2],
            &[0],
            "nobody ready here",
        ),
        (
            vec![terminating(0), not_ready(1), terminating(2)],
            &[0, 2],
            &[0],
            "nobody ready at all",
        ),
        (
            vec![not_ready(0), ready(1), terminating(2), not_ready(3)],
            &[1],
            &[1],
            "one ready here",
        ),
    ];
    for (endpoints, inside, outside, what) in table {
        let service = local().endpoints(endpoints);
        world.serve(&[&service]);
        check(&world, pod.site(), &service, inside, outside, what);
    }
}

#[test]
fn s17_hints_keep_traffic_on_the_node_or_in_the_zone_that_they_name() {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 0, 1], &[]);
    let pod = world.client_pod(0);
    let node = world.cluster.node(0).name().to_owned();
    let zoned = |zone: &str| {
        json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node, "labels": {"topology.kubernetes.io/zone": zone}}})
    };
    let hinted = |pod: usize, hints: Value| Endpoint {
        hints,
        ..Endpoint::ready(pod)
    };
    let zone = |pod: usize, zone: &str| hinted(pod, json!({"forZones": [{"name": zone}]}));
    let by_zone = vec![zone(0, "a"), zone(1, "a"), zone(2, "b")];
    let mut half = by_zone.clone();
    half[2].hints = Value::Null;
    let both = |pod: usize, name: &str| {
        hinted(
            pod,
            json!({"forZones": [{"name": "b"}], "forNodes": [{"name": name}]}),
        )
    };
    let by_node = vec![both(0, &node), both(1, "another"), both(2, "another")];
    let table: [(&str, Vec<Endpoint>, &[usize], &str); 5] = [
        ("a", by_zone.clone(), &[0, 1], "two of the zone"),
        ("b", by_zone.clone(), &[2], "one of the zone"),
        ("c", by_zone, &[0, 1, 2], "nobody of the zone"),
        ("a", half, &[0, 1, 2], "not all have hints"),
        ("b", by_node, &[0], "the node comes before the zone"),
    ];
    for (zone, endpoints, expected, what) in table {
        world.fixed = vec![zoned(zone)];
        let service = Service::new(1, []).endpoints(endpoints);
        world.serve(&[&service]);
        check(&world, pod.site(), &service, expected, expected, what);
    }
}

/// A connection (or a socket) that asks every 5 ms, from one port.
pub(super) fn hold(from: &Site, protocol: Protocol, to: SocketAddr) -> Requests {
    let request = Request {
        hold: true,
        count: 0,
        connect: true,
        interval: Duration::from_millis(5),
        ..Request::new(protocol, to)
    };
    from.start(&request).expect("a client")
}

/// The same from each of the clients to each of the addresses.
fn hold_all(clients: [&Site; 2], protocol: Protocol, dialled: &[SocketAddr]) -> Vec<Requests> {
    let each = |to: &SocketAddr| clients.map(|client| hold(client, protocol, *to));
    dialled.iter().flat_map(each).collect()
}

/// Ends connections, none of which has failed.
#[track_caller]
pub(super) fn end(connections: Vec<Requests>) {
    for reply in connections.into_iter().flat_map(Requests::finish) {
        reply.expect("no exchange fails");
    }
}

/// Lets connections go on for a while; says who has answered last.
#[track_caller]
pub(super) fn last_server(connection: &mut Requests) -> String {
    let replies = connection
        .take(20)
        .map(|reply| reply.expect("no exchange fails"));
    replies.last().expect("an answer").server
}

#[test]
fn s58_connections_stay_with_an_endpoint_that_no_slice_names_any_more() {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], &[]);
    let pod = world.client_pod(0);
    for victim in [0, 1] {
        let before = Service::new(1, [victim]);
        world.serve(&[&before]);
        let dialled = Kind::ALL
            .map(|kind| before.dialled(&world, kind, 0))
            .concat();
        let clients = [pod.site(), world.cluster.client().site()];
        let mut connections = hold_all(clients, Protocol::Tcp, &dialled);
        for connection in &mut connections {
            assert_eq!(last_server(connection), world.name(victim));
        }
        let other = Service::new(1, [1 - victim]);
        let policy = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
        for after in [other.clone(), other.with(policy), Service::new(1, [])] {
            world.serve(&[&after]);
            for connection in &mut connections {
                assert_eq!(last_server(connection), world.name(victim));
            }
        }
        end(connections);
    }
}

#[test]
fn s58_clients_of_an_endpoint_that_no_slice_names_any_more_are_reset_if_asked_for() {
    let flags = ["--reset-vanished-backends"];
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], &flags);
    let pod = world.client_pod(0);
    for victim in [0, 1] {
        let before = Service::new(1, [victim]);
        world.serve(&[&before]);
        let dialled = Kind::ALL
            .map(|kind| before.dialled(&world, kind, 0))
            .concat();
        let clients = [pod.site(), world.cluster.client().site()];
        let mut connections = hold_all(clients, Protocol::Tcp, &dialled);
        let endpoints = vec![Endpoint::terminating(victim), Endpoint::ready(1 - victim)];
        world.serve(&[&before.clone().endpoints(endpoints)]);
        for connection in &mut connections {
            assert_eq!(last_server(connection), world.name(victim));
        }
        world.serve(&[&Service::new(1, [1 - victim])]);
        for connection in connections {
            let mut failures = connection.filter_map(Result::err);
            let error = failures.next().expect("it ends").to_string();
            assert!(error.contains("reset"), "{error}");
        }
    }
}

#[test]
fn s58_connections_to_a_cluster_address_outlive_their_service() {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], &[]);
    world.fixed = vec![service_cidr()];
    let pod = world.client_pod(0);
    for victim in [0, 1] {
        let service = Service::new(1, [victim]);
        world.serve(&[&service]);
        let dialled = service.dialled(&world, Kind::ClusterIp, 0);
        let clients = [pod.site(), world.cluster.client().site()];
        let mut connections = hold_all(clients, Protocol::Tcp, &dialled);
        let mut go_on = |world: &World| {
            for connection in &mut connections {
                assert_eq!(last_server(connection), world.name(victim));
            }
        };
        go_on(&world);
        world.serve(&[]);
        go_on(&world);
        let heard = Ask::new(pod.site(), Protocol::Tcp, dialled[0]).hear();
        assert_eq!(heard, Heard::Silence, "nobody's address");
        world.serve(&[&Service::new(1, [1 - victim])]);
        go_on(&world);
        end(connections);
    }
}

#[test]
fn s59_datagrams_move_to_an_endpoint_that_is_there_without_a_new_socket() {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], &[]);
    let pod = world.client_pod(0);
    let first = Service::new(1, [0]);
    world.serve(&[&first]);
    let dialled = Kind::ALL
        .map(|kind| first.dialled(&world, kind, 0))
        .concat();
    let clients = [pod.site(), world.cluster.client().site()];
    let mut sockets = hold_all(clients, Protocol::Udp, &dialled);
    for socket in &mut sockets {
        assert_eq!(last_server(socket), world.name(0));
    }
    for there in [1, 0] {
        world.serve(&[&Service::new(1, [there])]);
        for socket in &mut sockets {
            // What was under way when the tables changed may still come from before.
            socket
                .ended()
                .for_each(|reply| drop(reply.expect("no exchange fails")));
            assert_eq!(last_server(socket), world.name(there));
        }
    }
}

#[test]
fn s59_a_socket_that_was_refused_is_served_once_its_endpoint_is_ready() {
    let mut world = World::new(Cluster::builder().nodes(1), &[0], &[]);
    let pod = world.client_pod(0);
    let unready = Service::new(1, []).endpoints(vec![Endpoint::not_ready(0)]);
    world.serve(&[&unready]);
    // All requests come from one port: the 5-tuple is the same before and after.
    let request = |to| Request {
        count: 0,
        source_port: 40_404,
        interval: Duration::from_millis(5),
        timeout: Duration::from_millis(200),
        ..Request::new(Protocol::Udp, to)
    };
    let to = unready.dialled(&world, Kind::ClusterIp, 0);
    let mut clients = to.map(|to| pod.start(&request(to)).expect("a client"));
    for client in &mut clients {
        client
            .next()
            .expect("an outcome")
            .expect_err("nobody serves");
    }
    world.serve(&[&Service::new(1, [0])]);
    for mut client in clients {
        let answered = client.by_ref().take(100).find_map(Result::ok);
        assert_eq!(answered.expect("an answer").server, world.name(0));
    }
}

/// Clients that ask over a connection of its own each time, one after the other, until told to stop.
pub(super) fn ask_on(from: &Site, to: impl IntoIterator<Item = SocketAddr>) -> Vec<Requests> {
    let mut clients = Vec::new();
    for to in to {
        for protocol in Protocol::ALL {
            let request = Request {
                count: 0,
                interval: Duration::from_millis(2),
                ..Request::new(protocol, to)
            };
            clients.push(from.start(&request).expect("a client"));
        }
    }
    clients
}

#[test]
fn s61_a_rollout_loses_no_request_under_either_policy() {
    for policy in ["Cluster", "Local"] {
        let mut world = World::new(Cluster::builder().nodes(2), &[0, 1, 0, 1], &[]);
        let pod = world.client_pod(0);
        let service = Service::new(1, []).with(json!({"externalTrafficPolicy": policy}));
        let serve = |world: &mut World, endpoints: Vec<Endpoint>| {
            world.serve(&[&service.clone().endpoints(endpoints)]);
        };
        let (ready, terminating) = (Endpoint::ready, Endpoint::terminating);
        serve(&mut world, vec![ready(0), ready(1)]);
        let dialled = [Kind::NodePort, Kind::LoadBalancer, Kind::ClusterIp];
        let dialled = dialled
            .map(|kind| service.dialled(&world, kind, 0))
            .concat();
        let mut clients = ask_on(pod.site(), dialled.iter().copied());
        clients.extend(ask_on(world.cluster.client().site(), dialled));
        // One pod after the other: a new one is ready, then the old one goes, then it is gone.
        serve(&mut world, vec![ready(0), ready(1), ready(2)]);
        serve(&mut world, vec![terminating(0), ready(1), ready(2)]);
        serve(&mut world, vec![ready(1), ready(2)]);
        serve(&mut world, vec![ready(1), ready(2), ready(3)]);
        serve(&mut world, vec![terminating(1), ready(2), ready(3)]);
        serve(&mut world, vec![ready(2), ready(3)]);
        let replaced = world.names([2, 3]);
        for client in &mut clients {
            // Until it meets nobody but the new ones.
            let mut last = client
                .by_ref()
                .map(|reply| reply.expect("no request fails"));
            let met = last.find(|reply| replaced.contains(&reply.server));
            assert!(met.is_some(), "the client has ended");
        }
        end(clients);
    }
}
