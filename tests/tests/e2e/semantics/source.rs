//! Who reaches whom, and from which address (D, E): the whole table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_tests::lab::{Cluster, Place as _, Site};
use lb_tests::tool::Protocol;
use serde_json::json;

use super::world::{Ask, Heard, Kind, Service, World, check_all};

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Pod,
    Node,
    Outside,
}

/// Index of the pod on the first node, where all clients enter, and of the one on the second.
const HERE: usize = 0;
const THERE: usize = 1;

#[derive(Clone, Copy, Debug)]
struct Case {
    from: From,
    kind: Kind,
    is_local: bool,
    backend: usize,
}

impl Case {
    /// Whether the client reaches a backend of the other node, too: policies bind the cluster
    /// address for everybody (30), the others for clients outside only (31, 32).
    fn reaches(self) -> bool {
        let is_bound =
            self.is_local && (self.kind == Kind::ClusterIp || self.from == From::Outside);
        self.backend == HERE || !is_bound
    }

    fn expected(self, world: &World, client: &[IpAddr; 2], family: usize) -> Heard {
        match self.from {
            _ if self.reaches() => Heard::Answered {
                by: world.names([self.backend]),
                seen: self.seen(world, client, family),
            },
            // A process is told, a packet is dropped.
            From::Node => Heard::Unreachable,
            From::Pod | From::Outside => Heard::Silence,
        }
    }

    /// Which address the backend sees: SNAT only for a client outside whose backend is elsewhere.
    fn seen(self, world: &World, client: &[IpAddr; 2], family: usize) -> BTreeSet<IpAddr> {
        let node = world.cluster.node(0);
        let is_snat = self.from == From::Outside && self.backend == THERE;
        match self.from {
            _ if is_snat => [node.addresses()[family]].into(),
            // A process has the address that routing gives it.
            From::Node if self.backend == HERE => [node.pod_gateway()[family]].into(),
            From::Node => [node.addresses()[family]].into(),
            From::Pod | From::Outside => [client[family]].into(),
        }
    }
}

#[test]
fn s28_s30_s31_s32_s33_s35_s36_s38_who_reaches_whom_and_from_which_address() {
    let mut world = World::new(Cluster::builder().nodes(2), &[0, 1], &[]);
    let pod = world.client_pod(0);
    let policies = |is_local: bool| {
        let policy = if is_local { "Local" } else { "Cluster" };
        json!({"internalTrafficPolicy": policy, "externalTrafficPolicy": policy})
    };
    let service = |is_local: bool, backend: usize| {
        let number = 1 + u8::from(is_local) * 2 + u8::from(backend == THERE);
        Service::new(number, [backend]).with(policies(is_local))
    };
    let variants = [(false, HERE), (false, THERE), (true, HERE), (true, THERE)];
    let all = variants.map(|(is_local, backend)| service(is_local, backend));
    world.serve(&all.each_ref());
    let node = world.cluster.node(0);
    let client = world.cluster.client();
    let clients: [(From, &Site, [IpAddr; 2]); 3] = [
        (From::Pod, pod.site(), pod.addresses()),
        (From::Node, node.site(), node.addresses()),
        (From::Outside, client.site(), client.addresses()),
    ];
    let mut expected = Vec::new();
    for (from, site, addresses) in clients {
        for kind in Kind::ALL {
            for (is_local, backend) in variants {
                let case = Case {
                    from,
                    kind,
                    is_local,
                    backend,
                };
                let dialled = service(is_local, backend).dialled(&world, kind, 0);
                for (family, to) in dialled.into_iter().enumerate() {
                    let heard = case.expected(&world, &addresses, family);
                    let asked = Protocol::ALL.map(|protocol| Ask::new(site, protocol, to));
                    let what = format!("{case:?}");
                    expected.extend(asked.map(|ask| (ask, heard.clone(), what.clone())));
                }
            }
        }
    }
    check_all(&expected);
}
