//! `loadBalancerSourceRanges` (G): frontend × source × family × hook.

use lb_common::counter::{Hook, Outcome};
use lb_tests::lab::{Cluster, Place as _, Site};
use lb_tests::tool::Protocol;
use serde_json::json;

use super::world::{Ask, Heard, Kind, Service, World, check_all};

/// Ranges, and whether they let in a pod, the node and the client outside, by family.
struct Ranges {
    ranges: &'static [&'static str],
    v4: [bool; 3],
    v6: [bool; 3],
}

const NOBODY: [bool; 3] = [false; 3];
const EVERYBODY: [bool; 3] = [true; 3];

const TABLE: [Ranges; 6] = [
    Ranges {
        ranges: &["192.0.2.0/24", "2001:db8:ff::/48"],
        v4: NOBODY,
        v6: NOBODY,
    },
    Ranges {
        ranges: &[" 203.0.113.0/24 ", "2001:db8:113::/48"],
        v4: [false, false, true],
        v6: [false, false, true],
    },
    Ranges {
        ranges: &["10.244.1.0/24", "192.0.2.1/32", "fd00:10:244:1::/64"],
        v4: [true, false, false],
        v6: [true, false, false],
    },
    Ranges {
        ranges: &["192.168.77.11/32", "fd00:77::b/128"],
        v4: [false, true, false],
        v6: [false, true, false],
    },
    Ranges {
        ranges: &["0.0.0.0/0", "192.0.2.0/24", "2001:db8:ff::/48"],
        v4: EVERYBODY,
        v6: NOBODY,
    },
    Ranges {
        ranges: &["2001:db8:ff::/48"],
        v4: EVERYBODY,
        v6: NOBODY,
    },
];

/// Checks what these rows of the table say, of Services whose ranges bind these frontends:
/// one with a backend here, and one with a backend elsewhere (the client's address is kept, or not).
#[track_caller]
fn check(world: &mut World, rows: &[Ranges], bound: &[Kind], protocols: &[Protocol]) {
    let pod = world.client_pod(0);
    for row in rows {
        let service = |backend: usize| {
            let number = 1 + u8::try_from(backend).expect("few backends");
            Service::new(number, [backend]).with(json!({"loadBalancerSourceRanges": row.ranges}))
        };
        let services = [0, 1].map(service);
        world.serve(&services.each_ref());
        let node = world.cluster.node(0);
        let clients = [pod.site(), node.site(), world.cluster.client().site()];
        let mut expected = Vec::new();
        for &protocol in protocols {
            for (backend, service) in services.iter().enumerate() {
                let asks = row.expected(world, clients, (service, backend), bound);
                let over = asks.into_iter().map(|(ask, heard, what)| {
                    let ask = Ask { protocol, ..ask };
                    (ask, heard, what)
                });
                expected.extend(over);
            }
        }
        check_all(&expected);
    }
}

#[test]
fn s46_s47_only_clients_in_the_source_ranges_reach_the_load_balancers_address() {
    for flags in [&[][..], &["--xdp", "off"]] {
        let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], flags);
        check(&mut world, &TABLE, &[Kind::LoadBalancer], &[Protocol::Tcp]);
    }
}

/// With the flag, ranges bind every external frontend; the cluster address never, from outside
/// neither. What they keep out is dropped where it comes in.
#[test]
fn source_range_all_hooks() {
    let bound = [Kind::NodePort, Kind::LoadBalancer, Kind::ExternalIp];
    for (xdp, hook, other) in [
        ("native", Hook::Xdp, Hook::WireIngress),
        ("generic", Hook::Xdp, Hook::WireIngress),
        ("off", Hook::WireIngress, Hook::Xdp),
    ] {
        let flags = ["--source-ranges", "external", "--xdp", xdp];
        let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], &flags);
        check(&mut world, &TABLE[..3], &bound, &Protocol::ALL);
        let dropped = |hook| {
            world.agents[0]
                .counter(hook, Outcome::NotAllowed)
                .expect("counters")
        };
        assert!(dropped(hook) > 0 && dropped(Hook::PodIngress) > 0, "{xdp}");
        assert_eq!(dropped(other), 0, "{xdp}");
    }
}

impl Ranges {
    fn expected<'a>(
        &self,
        world: &World,
        clients: [&'a Site; 3],
        (service, backend): (&Service, usize),
        bound: &[Kind],
    ) -> Vec<(Ask<'a>, Heard, String)> {
        let mut expected = Vec::new();
        for kind in Kind::ALL {
            for to in service.dialled(world, kind, 0) {
                let lets_in = if to.is_ipv4() { self.v4 } else { self.v6 };
                for (who, client) in clients.into_iter().enumerate() {
                    let is_let_in = !bound.contains(&kind) || lets_in[who];
                    let ask = Ask::new(client, Protocol::Tcp, to).once();
                    let is_process = client.name() == world.cluster.node(0).name();
                    let heard = match (is_let_in, is_process) {
                        (true, _) => Heard::answered(world.names([backend])),
                        (false, true) => Heard::Unreachable,
                        (false, false) => Heard::Silence,
                    };
                    expected.push((ask, heard, format!("{:?}, {kind:?}", self.ranges)));
                }
            }
        }
        expected
    }
}
