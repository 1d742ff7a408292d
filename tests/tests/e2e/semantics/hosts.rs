//! Backends in a node's own network.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_tests::lab::{Cluster, Cni, Fabric, Place as _, Site};
use lb_tests::tool::Protocol;

use super::world::{Ask, Endpoint, Heard, Kind, POD_PORT, Service, World, check_all};

/// Indexes of the node whose frontends are dialled, and of the other one.
const HERE: usize = 0;
const THERE: usize = 1;

#[test]
fn hostnetwork_backend() {
    let kinds = [(Cni::Bridge, Fabric::Direct), (Cni::Ptp, Fabric::Vxlan)];
    for (cni, fabric) in kinds {
        let cluster = Cluster::builder().nodes(2).cni(cni).fabric(fabric);
        let mut world = World::new(cluster, &[], &[]);
        let pod = world.client_pod(HERE);
        let servers = [HERE, THERE].map(|node| world.cluster.node(node).serve(POD_PORT));
        let _servers = servers.map(|server| server.expect("a server"));
        let by = |nodes: &[usize]| {
            let endpoints = nodes.iter().copied().map(Endpoint::of_node);
            endpoints.collect::<Vec<_>>()
        };
        let [here, there, both] = [
            Service::new(1, []).endpoints(by(&[HERE])),
            Service::new(2, []).endpoints(by(&[THERE])),
            Service::new(3, []).endpoints(by(&[HERE, THERE])),
        ];
        world.serve(&[&here, &there, &both]);
        let (node, outside) = (world.cluster.node(HERE), world.cluster.client());
        let clients: [(&Site, [IpAddr; 2]); 3] = [
            (pod.site(), pod.addresses()),
            (node.site(), node.addresses()),
            (outside.site(), outside.addresses()),
        ];
        let what = format!("{cni:?}, {fabric:?}");
        let mut expected = Vec::new();
        for (client, own) in clients {
            // Beyond the node, pods are seen as the node (by the CNI), and clients outside as well.
            for (service, by, seen) in [
                (&here, &[HERE][..], Some(own)),
                (&there, &[THERE], Some(node.addresses())),
                (&both, &[HERE, THERE], None),
            ] {
                let names = by.iter().map(|&node| world.cluster.node(node).name());
                let by: BTreeSet<String> = names.map(str::to_owned).collect();
                for kind in Kind::ALL {
                    let dialled = service.dialled(&world, kind, HERE);
                    for (family, to) in dialled.into_iter().enumerate() {
                        let seen = seen.iter().map(|addresses| addresses[family]).collect();
                        let by = by.clone();
                        let heard = Heard::Answered { by, seen };
                        let asks = Protocol::ALL.map(|protocol| Ask::new(client, protocol, to));
                        expected.extend(asks.map(|ask| (ask, heard.clone(), what.clone())));
                    }
                }
            }
        }
        check_all(&expected);
    }
}
