//! Walks of DESIGN.md, section 3.

use lb_tests::lab::{Cluster, Place as _};
use lb_tests::tool::Protocol;

use crate::scene::{Scene, Stage, reach_all};

fn pod_to_cluster_ip(scene: &Scene, node: usize) {
    let client = scene.cluster.pod("client-pod", node).expect("a pod");
    let wanted = scene.names();
    for to in Scene::cluster_ips() {
        for protocol in Protocol::ALL {
            reach_all(&client, protocol, to, &wanted, |reply| {
                assert!(
                    client.addresses().contains(&reply.seen_client.ip()),
                    "{reply:?}"
                );
            });
        }
    }
}

#[test]
fn walk_1_pod_to_cluster_ip_on_the_same_bridge() {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(1),
        backends: &[0, 0, 0],
        flags: &[],
    });
    pod_to_cluster_ip(&scene, 0);
}
