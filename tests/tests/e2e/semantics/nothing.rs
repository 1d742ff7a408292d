//! Nothing to send to (F), and ICMP for addresses of Services.

use std::net::IpAddr;

use lb_common::counter::{Hook, Outcome};
use lb_tests::lab::{Capture, Captured, Cluster, Place as _, Pod, Site};
use lb_tests::tool::Protocol;
use serde_json::json;

use super::world::{Ask, Endpoint, Heard, Kind, Service, World, check_all, service_cidr};

/// Everybody who may ask: a pod, a process of the node, and somebody outside.
fn everybody<'a>(world: &'a World, pod: &'a Pod) -> [&'a Site; 3] {
    let node = world.cluster.node(0);
    [pod.site(), node.site(), world.cluster.client().site()]
}

/// Requests of a client over each protocol, all of which end alike.
fn over_all<'a>(
    client: &'a Site,
    to: (IpAddr, u16),
    heard: &Heard,
    what: &str,
) -> [(Ask<'a>, Heard, String); 2] {
    Protocol::ALL.map(|protocol| {
        let ask = Ask::new(client, protocol, to.into());
        (ask, heard.clone(), what.to_owned())
    })
}

#[test]
fn s41_s43_a_service_without_endpoints_refuses_everybody_at_once() {
    for flags in [&[][..], &["--xdp", "off"]] {
        let cluster = Cluster::builder().nodes(1).host_tx_offload(false);
        let mut world = World::new(cluster, &[], flags);
        let pod = world.client_pod(0);
        let service = Service::new(1, []);
        world.serve(&[&service]);
        let mut expected = Vec::new();
        for to in Kind::ALL
            .map(|kind| service.dialled(&world, kind, 0))
            .concat()
        {
            for client in everybody(&world, &pod) {
                let what = format!("{flags:?}");
                expected.extend(over_all(
                    client,
                    (to.ip(), to.port()),
                    &Heard::Refused,
                    &what,
                ));
            }
        }
        check_all(&expected);
    }
}

#[test]
fn s41_endpoints_that_are_not_ready_are_none() {
    let mut world = World::new(Cluster::builder().nodes(1), &[0], &[]);
    let pod = world.client_pod(0);
    let service = Service::new(1, []).endpoints(vec![Endpoint::not_ready(0)]);
    world.serve(&[&service]);
    for to in service.dialled(&world, Kind::ClusterIp, 0) {
        for client in everybody(&world, &pod) {
            let heard = Ask::new(client, Protocol::Tcp, to).hear();
            assert_eq!(heard, Heard::Refused, "{}", client.name());
        }
    }
}

#[test]
fn s16_s42_a_policy_that_leaves_nobody_here_drops_and_binds_only_its_own_class() {
    let mut world = World::new(Cluster::builder().nodes(2), &[1], &[]);
    let service = Service::new(1, [0]).with(json!({"externalTrafficPolicy": "Local"}));
    world.serve(&[&service]);
    let client = world.cluster.client().site();
    let kinds = [Kind::NodePort, Kind::LoadBalancer, Kind::ExternalIp];
    let mut expected = Vec::new();
    for to in kinds.map(|kind| service.dialled(&world, kind, 0)).concat() {
        let what = "no endpoint here";
        expected.extend(over_all(
            client,
            (to.ip(), to.port()),
            &Heard::Silence,
            what,
        ));
    }
    for to in service.dialled(&world, Kind::ClusterIp, 0) {
        let heard = Heard::answered(world.names([0]));
        let what = "the cluster address is not bound";
        expected.extend(over_all(client, (to.ip(), to.port()), &heard, what));
    }
    check_all(&expected);
}

#[test]
fn s44_a_port_that_nobody_has_is_refused_and_an_address_that_nobody_has_leads_nowhere() {
    let mut world = World::new(Cluster::builder().nodes(1), &[0], &[]);
    let pod = world.client_pod(0);
    let service = Service::new(1, [0]);
    for is_known in [false, true] {
        world.fixed = if is_known {
            vec![service_cidr()]
        } else {
            Vec::new()
        };
        world.serve(&[&service]);
        let mut expected = Vec::new();
        for client in everybody(&world, &pod) {
            for addr in service.addresses(Kind::ClusterIp) {
                expected.extend(over_all(
                    client,
                    (addr, 81),
                    &Heard::Refused,
                    "no such port",
                ));
            }
            let is_process = client.name() == world.cluster.node(0).name();
            let nowhere = if is_process {
                Heard::Unreachable
            } else {
                Heard::Silence
            };
            let nobodys = Service::new(99, []).addresses(Kind::ClusterIp);
            for addr in nobodys.into_iter().filter(|_| is_known) {
                expected.extend(over_all(client, (addr, 80), &nowhere, "nobody's address"));
            }
        }
        check_all(&expected);
        let dropped = [Hook::PodIngress, Hook::WireIngress].map(|hook| {
            let count = world.agents[0].counter(hook, Outcome::Unallocated);
            count.expect("counters") > 0
        });
        assert_eq!(dropped, [is_known; 2]);
    }
}

/// Packets for one of these addresses that leave a node: by any device, or by XDP, which only the
/// switch sees.
struct Leaving<'a> {
    world: &'a World,
    node: Capture,
    switch: Capture,
}

impl<'a> Leaving<'a> {
    /// Looks at the first node from now on.
    fn of(world: &'a World) -> Self {
        let (node, router) = (world.cluster.node(0), world.cluster.router());
        let [node, switch] = [node.capture(), router.capture()].map(|c| c.expect("a capture"));
        Self {
            world,
            node,
            switch,
        }
    }

    /// Those for these addresses since it was asked last; and how many came from a pod.
    fn to(&self, addresses: &[IpAddr], pod: &Pod) -> (Vec<Captured>, usize) {
        let is_meant = |packet: &Captured| addresses.contains(&packet.dst.ip());
        let all = |capture: &Capture| capture.packets().expect("a whole capture");
        let (switch, peer) = self.world.cluster.node(0).uplink_peer();
        let peer = switch.interface_index(peer).expect("a device");
        let at_node: Vec<_> = all(&self.node).into_iter().filter(is_meant).collect();
        let is_from_pod = |packet: &&Captured| packet.device == pod.host_veth_index();
        let from_pod = at_node.iter().filter(is_from_pod).count();
        let at_switch = all(&self.switch).into_iter().filter(is_meant);
        let at_switch = at_switch.filter(|packet| packet.device == peer && !packet.is_leaving);
        let mut left: Vec<_> = at_node.into_iter().filter(|p| p.is_leaving).collect();
        // What the switch gets from the node has left by its uplink, if nobody else has seen it.
        if left.is_empty() {
            left.extend(at_switch);
        }
        (left, from_pod)
    }
}

#[test]
fn unknown_port_no_loop() {
    for flags in [&[][..], &["--xdp", "off"]] {
        let mut world = World::new(Cluster::builder().nodes(1), &[0], flags);
        world.fixed = vec![service_cidr()];
        let pod = world.client_pod(0);
        let (service, unserved) = (Service::new(1, [0]), Service::new(2, []));
        world.serve(&[&service, &unserved]);
        let (node, outside) = (world.cluster.node(0), world.cluster.client());
        let kinds = [Kind::LoadBalancer, Kind::ExternalIp];
        let external = kinds.map(|kind| service.addresses(kind)).concat();
        let cluster = service.addresses(Kind::ClusterIp).to_vec();
        let nobodys = Service::new(99, []).addresses(Kind::ClusterIp).to_vec();
        let leaving = Leaving::of(&world);
        let mut expected = Vec::new();
        let mut expect = |client, addresses: &[IpAddr], heard| {
            for &addr in addresses {
                expected.extend(over_all(client, (addr, 81), &heard, "no such port"));
            }
        };
        for client in everybody(&world, &pod) {
            expect(client, &cluster, Heard::Refused);
        }
        expect(pod.site(), &nobodys, Heard::Silence);
        expect(node.site(), &nobodys, Heard::Unreachable);
        expect(outside.site(), &nobodys, Heard::Silence);
        expect(outside.site(), &external, Heard::Silence);
        check_all(&expected);
        let unserved = kinds.map(|kind| unserved.addresses(kind)).concat();
        for &addr in [&nobodys, &unserved].into_iter().flatten() {
            assert!(!pings(outside.site(), addr), "{addr}");
        }
        let all = [&cluster[..], &nobodys, &external, &unserved].concat();
        assert_eq!(leaving.to(&all, &pod).0, [], "{flags:?}");
        // These could be somebody's beyond the node. A pod gets there; what the router sends back
        // does not go there again.
        for &addr in &external {
            let ask = Ask::new(pod.site(), Protocol::Udp, (addr, 81).into()).once();
            assert_eq!(ask.hear(), Heard::Silence);
            let (left, sent) = leaving.to(&[addr], &pod);
            let uplink = node
                .netns()
                .interface_index(node.uplink())
                .expect("a device");
            let left = left.iter().filter(|packet| packet.device == uplink).count();
            assert_eq!((left, sent), (1, 1), "{addr}, {flags:?}");
        }
    }
}

fn pings(from: &Site, to: IpAddr) -> bool {
    let family = if to.is_ipv4() { "-4" } else { "-6" };
    let mut ping = from.command("ping").expect("a cgroup");
    ping.args([family, "-n", "-c", "1", "-W", "1", "-s", "1200"]);
    let output = ping.arg(to.to_string()).output().expect("ping");
    output.status.success()
}

#[test]
fn s29_an_address_of_a_service_answers_echo_requests_while_it_has_endpoints() {
    for (flag, is_on) in [("on", true), ("off", false)] {
        let cluster = Cluster::builder().nodes(1).host_tx_offload(false);
        let mut world = World::new(cluster, &[0], &["--icmp-echo", flag]);
        let pod = world.client_pod(0);
        for (service, answers) in [(Service::new(1, [0]), is_on), (Service::new(1, []), false)] {
            world.serve(&[&service]);
            let kinds = [Kind::ClusterIp, Kind::LoadBalancer, Kind::ExternalIp];
            for addr in kinds.map(|kind| service.addresses(kind)).concat() {
                for client in [pod.site(), world.cluster.client().site()] {
                    let name = client.name();
                    assert_eq!(pings(client, addr), answers, "{name} pings {addr}, {flag}");
                }
            }
        }
    }
}
