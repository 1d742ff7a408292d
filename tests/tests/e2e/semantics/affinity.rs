//! Session affinity by client address (H).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::lab::{Cluster, Place as _, Request, Site};
use lb_tests::tool::Protocol;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::world::{Ask, Endpoint, Heard, Kind, POD_PORT, PORT, Service, World};

fn affinity(seconds: u32) -> Value {
    json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
    })
}

/// Who answers over this protocol at these addresses.
#[track_caller]
fn who(
    from: &Site,
    protocol: Protocol,
    to: impl IntoIterator<Item = SocketAddr>,
) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for to in to {
        match Ask::new(from, protocol, to).hear() {
            Heard::Answered { by, .. } => all.extend(by),
            other => panic!("{} → {to}: {other:?}", from.name()),
        }
    }
    all
}

/// One address of each kind of frontend, in one family.
fn of_every_kind(world: &World, service: &Service, family: usize) -> [SocketAddr; 4] {
    Kind::ALL.map(|kind| service.dialled(world, kind, 0)[family])
}

#[test]
fn s49_a_client_stays_with_one_backend_over_all_frontends_of_a_port() {
    for flags in [&[][..], &["--xdp", "off"]] {
        let mut world = World::new(Cluster::builder().nodes(2), &[0, 0, 1, 1], flags);
        let pod = world.client_pod(0);
        let service = Service::new(1, [0, 1, 2, 3]).with(affinity(600));
        world.serve(&[&service]);
        let node = world.cluster.node(0);
        for client in [pod.site(), node.site(), world.cluster.client().site()] {
            for (family, protocol) in [(0, Protocol::Tcp), (1, Protocol::Udp)] {
                let by = who(client, protocol, of_every_kind(&world, &service, family));
                assert_eq!(by.len(), 1, "{} {protocol:?}: {by:?}", client.name());
            }
        }
    }
}

#[test]
fn affinity_multi_port() {
    for flags in [&[][..], &["--xdp", "off"]] {
        let mut world = World::new(Cluster::builder().nodes(2), &[0, 0, 1, 1], flags);
        let pod = world.client_pod(0);
        let servers = world.pods.iter().map(|pod| pod.serve(POD_PORT + 1));
        let _servers: Vec<_> = servers.collect::<Result<_, _>>().expect("servers");
        let mut service = Service::new(1, 0..4).with(affinity(600));
        service.ports.push((PORT + 1, POD_PORT + 1));
        world.serve(&[&service]);
        let (node, client) = (world.cluster.node(0), world.cluster.client());
        // Whether both ports have led a client to one backend.
        let mut is_shared = Vec::new();
        for from in [pod.site(), node.site(), client.site()] {
            for (family, protocol) in [0, 1]
                .into_iter()
                .flat_map(|family| Protocol::ALL.map(|protocol| (family, protocol)))
            {
                let bound = |index| {
                    let at = |kind| service.dialled_at(&world, kind, 0, index)[family];
                    let by = who(from, protocol, Kind::ALL.map(at));
                    assert_eq!(by.len(), 1, "{} {protocol:?}: {by:?}", from.name());
                    by
                };
                let [first, second] = [0, 1].map(bound);
                assert_eq!([0, 1].map(bound), [first.clone(), second.clone()]);
                is_shared.push(first == second);
            }
        }
        // Each port binds on its own: that chance leads all to the same is 1 in 4^12.
        assert!(
            is_shared.contains(&false),
            "one port binds another's clients"
        );
    }
}

#[test]
fn s49_a_client_whose_backend_is_not_ready_any_more_gets_another_and_stays_there() {
    let mut world = World::new(Cluster::builder().nodes(1), &[0, 0, 0], &[]);
    let client = world.client_pod(0);
    let service = Service::new(1, [0, 1, 2]).with(affinity(600));
    world.serve(&[&service]);
    let to = service.dialled(&world, Kind::ClusterIp, 0);
    let first = who(client.site(), Protocol::Tcp, to);
    // Each family is a port of its own: up to two have answered.
    let endpoint = |pod: usize| {
        if first.contains(&world.name(pod)) {
            Endpoint::not_ready(pod)
        } else {
            Endpoint::ready(pod)
        }
    };
    let endpoints = (0..3).map(endpoint).collect();
    let changed = service.clone().endpoints(endpoints);
    world.serve(&[&changed]);
    for to in to {
        let second = who(client.site(), Protocol::Tcp, [to]);
        assert_eq!(second.len(), 1, "{second:?}");
        assert!(second.is_disjoint(&first), "{second:?} is not ready");
        world.serve(&[&service]);
        assert_eq!(who(client.site(), Protocol::Tcp, [to]), second);
        world.serve(&[&changed]);
    }
}

#[test]
fn s49_affinity_ends_with_its_time_and_is_switched_on_and_off_while_clients_dial() {
    let mut world = World::new(Cluster::builder().nodes(1), &[0, 0, 0], &[]);
    let client = world.client_pod(0);
    let off = Service::new(1, [0, 1, 2]);
    world.serve(&[&off]);
    let to = off.dialled(&world, Kind::ClusterIp, 0)[0];
    assert_eq!(who(client.site(), Protocol::Tcp, [to]), world.names(0..3));
    let on = off.clone().with(affinity(1));
    world.serve(&[&on]);
    let bound = who(client.site(), Protocol::Tcp, [to]);
    assert_eq!(bound.len(), 1, "{bound:?}");
    // Every connection begins the second anew; a client that dials less often gets whom its slot
    // says. That this is always the same has a chance of 1 in 3^15.
    let seldom = Request {
        count: 16,
        interval: Duration::from_millis(1100),
        ..Request::new(Protocol::Tcp, to)
    };
    let dialled = client.start(&seldom).expect("a client");
    let mut met = BTreeSet::new();
    let another = dialled.into_iter().any(|reply| {
        met.insert(reply.expect("an answer").server);
        met.len() == 2
    });
    assert!(another, "only {met:?}");
    world.serve(&[&off]);
    assert_eq!(who(client.site(), Protocol::Tcp, [to]), world.names(0..3));
}

#[test]
fn s50_affinity_outlives_the_agent() {
    let mut world = World::new(Cluster::builder().nodes(1), &[0, 0, 0], &[]);
    let client = world.client_pod(0);
    let service = Service::new(1, [0, 1, 2]).with(affinity(600));
    world.serve(&[&service]);
    let to = service.dialled(&world, Kind::ClusterIp, 0);
    let before = to.map(|to| who(client.site(), Protocol::Tcp, [to]));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let agent = world.agents.remove(0);
        agent.stop(signal).expect("an agent that ends");
        let meanwhile = to.map(|to| who(client.site(), Protocol::Tcp, [to]));
        assert_eq!(meanwhile, before);
        world.start_agents();
        let after = to.map(|to| who(client.site(), Protocol::Tcp, [to]));
        assert_eq!(after, before);
    }
}
