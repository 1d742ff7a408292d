//! An address that only SNAT sends from.

use std::io;
use std::net::{IpAddr, SocketAddr};

use lb_tests::dial::{any, connect};
use lb_tests::lab::{Fabric, Place as _};
use lb_tests::scene::{PORT, Scene, reach_all_ways};

/// Behind a tunnel, strict reverse path filters want an address of the node's pod network.
#[test]
fn snat_address_of_the_pod_network_serves_behind_a_tunnel() {
    for xdp in ["native", "off"] {
        let own = ["10.244.1.250", "fd00:10:244:1::fa"];
        let flags: &'static [&'static str] = match xdp {
            "off" => &[
                "--snat-address",
                "10.244.1.250,fd00:10:244:1::fa",
                "--xdp",
                "off",
            ],
            _ => &["--snat-address", "10.244.1.250,fd00:10:244:1::fa"],
        };
        let scene = Scene::sending_from(Fabric::Vxlan, flags, "lo", own);
        let own = own.map(|addr| addr.parse::<IpAddr>().expect("an address"));
        let client = scene.cluster.client();
        reach_all_ways(client, scene.node_ports(0), &scene.names(), |reply| {
            assert!(own.contains(&reply.seen_client.ip()), "{reply:?}");
        });
    }
}

/// The node's own processes go on sending from the devices' addresses, and from this one, too.
#[test]
fn snat_address_leaves_the_nodes_own_connections_alone() {
    let own = ["192.168.77.211", "fd00:77::d3"];
    let flags = &["--snat-address", "192.168.77.211,fd00:77::d3"];
    let scene = Scene::sending_from(Fabric::Direct, flags, "eth0", own);
    let client = scene.cluster.client();
    reach_all_ways(client, scene.node_ports(0), &scene.names(), |_| ());
    let (node, names) = (scene.cluster.node(0), scene.names());
    let addresses = node.addresses();
    let dialled = Scene::cluster_ips().into_iter().chain(scene.node_ports(0));
    reach_all_ways(node, dialled, &names, |reply| {
        assert!(addresses.contains(&reply.seen_client.ip()), "{reply:?}");
    });
    // To the pod itself, from either address.
    let pod = &scene.backends[0];
    for (addr, own) in pod.addresses().into_iter().zip(own) {
        let to = SocketAddr::new(addr, PORT);
        let own: IpAddr = own.parse().expect("an address");
        let work = || -> io::Result<()> {
            connect((own, 0).into(), to)?;
            connect(any(to, 0), to)?;
            Ok(())
        };
        node.netns()
            .run(work)
            .expect("the node")
            .expect("connections");
    }
}
