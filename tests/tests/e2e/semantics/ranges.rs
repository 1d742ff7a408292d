//! `loadBalancerSourceRanges` (G): frontend × source × family × hook.

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

#[test]
fn s46_s47_only_clients_in_the_source_ranges_reach_the_load_balancers_address() {
    for flags in [&[][..], &["--xdp", "off"]] {
        let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], flags);
        let pod = world.cluster.pod("client-pod", 0).expect("a pod");
        for row in &TABLE {
            // One backend here and one elsewhere: the client's address is kept, or is not.
            let service = |backend: usize| {
                let number = 1 + u8::try_from(backend).expect("few backends");
                Service::new(number, [backend])
                    .with(json!({"loadBalancerSourceRanges": row.ranges}))
            };
            let services = [0, 1].map(service);
            world.serve(&services.each_ref());
            let node = world.cluster.node(0);
            let clients = [pod.site(), node.site(), world.cluster.client().site()];
            let mut expected = Vec::new();
            for (backend, service) in services.iter().enumerate() {
                expected.extend(row.expected(&world, clients, service, backend));
            }
            check_all(&expected);
        }
    }
}

impl Ranges {
    fn expected<'a>(
        &self,
        world: &World,
        clients: [&'a Site; 3],
        service: &Service,
        backend: usize,
    ) -> Vec<(Ask<'a>, Heard, String)> {
        let mut expected = Vec::new();
        for kind in Kind::ALL {
            for to in service.dialled(world, kind, 0) {
                let lets_in = if to.is_ipv4() { self.v4 } else { self.v6 };
                for (who, client) in clients.into_iter().enumerate() {
                    let is_let_in = kind != Kind::LoadBalancer || lets_in[who];
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
