//! Nodes whose uplinks are VLANs.

use lb_common::counter::{Hook, Outcome};
use lb_tests::lab::{Cluster, Tag};

use lb_tests::scene::{Scene, Stage, reach_all_ways};

const SIMPLE: &[Tag] = &[Tag::customer(100)];
/// A provider's tag around the customer's ("QinQ").
const DOUBLE: &[Tag] = &[Tag::service(200), Tag::customer(100)];

/// Both nodes' ports are dialled from outside; a pod of the first node dials the ClusterIP.
fn dial(tags: &'static [Tag], flags: &'static [&'static str]) -> Scene {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2).vlan(tags),
        backends: &[0],
        flags,
    });
    let client = scene.cluster.client();
    let names = scene.names();
    reach_all_ways(client, scene.node_ports(0), &names, |reply| {
        assert!(
            client.addresses().contains(&reply.seen_client.ip()),
            "the client's address is kept: {reply:?}"
        );
    });
    reach_all_ways(client, scene.node_ports(1), &names, |reply| {
        let node = scene.cluster.node(1);
        assert!(
            node.addresses().contains(&reply.seen_client.ip()),
            "the reply must come back through the second node: {reply:?}"
        );
    });
    let pod = scene.pod("client-pod", 1);
    reach_all_ways(&pod, Scene::cluster_ips(), &names, |_| ());
    assert!(scene.count(1, Hook::WireIngress, Outcome::Redirected) > 0 || flags.is_empty());
    scene
}

#[test]
fn vlan_tagged_nodeport() {
    for tags in [SIMPLE, DOUBLE] {
        dial(tags, &["--xdp", "off"]);
        dial(tags, &["--xdp", "generic"]);
    }
}

#[test]
fn vlan_tagged_nodeport_whose_network_card_is_an_uplink_too() {
    for xdp in ["off", "native"] {
        let flags: &[&str] = match xdp {
            "off" => &["--xdp", "off", "--uplink", "eth0", "--uplink", "eth0.100"],
            _ => &[
                "--xdp", "native", "--uplink", "eth0", "--uplink", "eth0.100",
            ],
        };
        dial(SIMPLE, flags);
    }
}
