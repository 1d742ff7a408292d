//! The walks of DESIGN.md, section 3, by their numbers. Every one goes over TCP and UDP, IPv4 and
//! IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::counter::{Hook, Outcome};
use lb_tests::lab::{Cluster, Cni, Fabric, Place as _, Request};
use lb_tests::tool::Protocol;

use lb_tests::scene::{EXTERNAL_IPS, NODE_PORT, Scene, Stage, reach_all_ways};

/// A pod of the first node dials the ClusterIP; the backends see its own address.
fn pod_to_cluster_ip(scene: &Scene) {
    let client = scene.pod("client-pod", 0);
    reach_all_ways(&client, Scene::cluster_ips(), &scene.names(), |reply| {
        assert!(
            client.addresses().contains(&reply.seen_client.ip()),
            "the client's address is kept: {reply:?}"
        );
    });
}

#[test]
fn walk_1_pod_to_cluster_ip_on_the_same_bridge() {
    for host_tx_offload in [true, false] {
        pod_to_cluster_ip(&Scene::new(Stage {
            cluster: Cluster::builder().nodes(1).host_tx_offload(host_tx_offload),
            backends: &[0, 0, 0],
            flags: &[],
        }));
    }
}

#[test]
fn walk_1_pod_to_cluster_ip_on_a_routed_cni() {
    pod_to_cluster_ip(&Scene::new(Stage {
        cluster: Cluster::builder().nodes(1).cni(Cni::Ptp),
        backends: &[0, 0, 0],
        flags: &[],
    }));
}

#[test]
fn walk_2_pod_to_cluster_ip_on_another_node_directly_routed() {
    for cni in Cni::ALL {
        pod_to_cluster_ip(&Scene::new(Stage {
            cluster: Cluster::builder().nodes(2).cni(cni).host_tx_offload(false),
            backends: &[1, 1, 0],
            flags: &[],
        }));
    }
}

#[test]
fn walk_2_pod_to_cluster_ip_on_another_node_through_vxlan() {
    pod_to_cluster_ip(&Scene::new(Stage {
        cluster: Cluster::builder().nodes(2).fabric(Fabric::Vxlan),
        backends: &[1, 1, 0],
        flags: &[],
    }));
}

/// Walk 3: a pod to its own Service, and back to itself.
#[test]
fn hairpin_same_pod() {
    for cni in Cni::ALL {
        let scene = Scene::new(Stage {
            cluster: Cluster::builder().nodes(1).cni(cni).host_tx_offload(false),
            backends: &[0],
            flags: &[],
        });
        let pod = &scene.backends[0];
        let dialled = [
            Scene::cluster_ips(),
            scene.node_ports(0),
            Scene::external_ips(),
        ]
        .concat();
        for to in dialled {
            reach_all_ways(pod, [to], &scene.names(), |reply| {
                assert_eq!(
                    reply.seen_client.ip(),
                    to.ip(),
                    "a pod does not hear itself"
                );
            });
            // More than a packet takes, and more than one segment.
            let large = Request {
                hold: true,
                count: 3,
                size: 100_000,
                ..Request::new(Protocol::Tcp, to)
            };
            let replies = pod.start(&large).expect("a client");
            let servers = replies.map(|reply| reply.expect("an answer").server);
            assert_eq!(servers.collect::<Vec<_>>(), [pod.name(); 3]);
        }
    }
}

#[test]
fn walk_4_process_of_the_node_to_cluster_ip_and_node_ports() {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[0, 1],
        flags: &[],
    });
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let dialled = Scene::cluster_ips()
        .into_iter()
        .chain(loopback.map(|ip| SocketAddr::new(ip, NODE_PORT)))
        .chain(scene.node_ports(0));
    reach_all_ways(scene.cluster.node(0), dialled, &scene.names(), |reply| {
        assert!(!reply.seen_client.ip().is_loopback(), "{reply:?}");
    });
    assert!(scene.count(0, Hook::Socket, Outcome::ToStack) > 0);
}

#[test]
fn walk_4_socket_translation_leaves_pods_to_their_packets() {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(1),
        backends: &[0],
        flags: &[],
    });
    pod_to_cluster_ip(&scene);
    assert_eq!(scene.count(0, Hook::Socket, Outcome::ToStack), 0);
    assert!(scene.count(0, Hook::PodIngress, Outcome::ToStack) > 0);
}

/// The client outside dials the NodePort of the first node, whose pods serve it.
fn outside_to_local_backend(flags: &'static [&'static str], hook: Hook) {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(1).host_tx_offload(false),
        backends: &[0, 0],
        flags,
    });
    let client = scene.cluster.client();
    reach_all_ways(client, scene.node_ports(0), &scene.names(), |reply| {
        assert!(
            client.addresses().contains(&reply.seen_client.ip()),
            "the client's address is kept: {reply:?}"
        );
    });
    assert!(scene.count(0, hook, Outcome::ToStack) > 0);
    assert!(scene.count(0, Hook::WireEgress, Outcome::Replied) > 0);
}

#[test]
fn walk_5_outside_to_node_port_with_the_backend_on_this_node() {
    outside_to_local_backend(&[], Hook::Xdp);
}

#[test]
fn walk_5_outside_to_node_port_with_the_backend_on_this_node_without_xdp() {
    outside_to_local_backend(&["--xdp", "off"], Hook::WireIngress);
}

#[test]
fn walk_5_outside_to_node_port_with_the_backend_on_this_node_by_filters_of_a_qdisc() {
    outside_to_local_backend(&["--xdp", "off", "--tc", "clsact"], Hook::WireIngress);
}

/// A packet socket has the kernel copy every packet between XDP and tc, and what one tells the other
/// does not survive that.
#[test]
fn walk_5_outside_to_node_port_while_somebody_captures_packets_of_the_node() {
    for flags in [&[][..], &["--xdp", "off"]] {
        let scene = Scene::new(Stage {
            cluster: Cluster::builder().nodes(1),
            backends: &[0, 0],
            flags,
        });
        let _capture = scene.cluster.node(0).capture().expect("a capture");
        let client = scene.cluster.client();
        reach_all_ways(client, scene.node_ports(0), &scene.names(), |_| {});
        assert!(scene.count(0, Hook::WireEgress, Outcome::Replied) > 0);
    }
}

/// The client outside dials the NodePort of the first node; the backend is on the second.
fn outside_to_remote_backend(stage: Stage) -> Scene {
    let scene = Scene::new(stage);
    let client = scene.cluster.client();
    reach_all_ways(client, scene.node_ports(0), &scene.names(), |reply| {
        assert!(
            !client.addresses().contains(&reply.seen_client.ip()),
            "the reply must come back through the first node: {reply:?}"
        );
    });
    scene
}

#[test]
fn walk_6_outside_to_node_port_with_the_backend_on_another_node_is_carried_by_xdp() {
    let scene = outside_to_remote_backend(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[1, 1],
        flags: &[],
    });
    // Neighbours are known from here on: every packet is XDP's, there and back.
    let count = |hook, outcome| scene.count(0, hook, outcome);
    let tc_before = count(Hook::WireIngress, Outcome::Seen);
    let seen_before = count(Hook::Xdp, Outcome::Seen);
    let sent_before = count(Hook::Xdp, Outcome::Redirected);
    let client = scene.cluster.client();
    reach_all_ways(client, scene.node_ports(0), &scene.names(), |reply| {
        let node = scene.cluster.node(0);
        assert!(
            node.addresses().contains(&reply.seen_client.ip()),
            "{reply:?}"
        );
    });
    assert_eq!(count(Hook::WireIngress, Outcome::Seen), tc_before);
    let seen = count(Hook::Xdp, Outcome::Seen) - seen_before;
    assert_eq!(count(Hook::Xdp, Outcome::Redirected) - sent_before, seen);
    assert!(seen > 0);
}

#[test]
fn walk_6_outside_to_node_port_with_the_backend_on_another_node_without_xdp() {
    let scene = outside_to_remote_backend(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[1, 1],
        flags: &["--xdp", "off"],
    });
    assert_eq!(scene.count(0, Hook::Xdp, Outcome::Seen), 0);
    assert!(scene.count(0, Hook::WireIngress, Outcome::Redirected) > 0);
}

#[test]
fn walk_6_outside_to_node_port_with_the_backend_on_another_node_by_filters_of_a_qdisc() {
    let scene = outside_to_remote_backend(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[1, 1],
        flags: &["--xdp", "off", "--tc", "clsact"],
    });
    assert!(scene.count(0, Hook::WireIngress, Outcome::Redirected) > 0);
}

#[test]
fn walk_6_outside_to_node_port_with_the_backend_behind_a_tunnel() {
    let scene = outside_to_remote_backend(Stage {
        cluster: Cluster::builder().nodes(2).fabric(Fabric::Vxlan),
        backends: &[1, 1],
        flags: &[],
    });
    assert!(scene.count(0, Hook::Xdp, Outcome::Deferred) > 0);
    assert!(scene.count(0, Hook::WireIngress, Outcome::Redirected) > 0);
}

#[test]
fn walk_7_outside_to_an_address_that_no_device_has() {
    let scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[0, 1],
        flags: &[],
    });
    let via = scene.cluster.node(0).addresses();
    let routes: Vec<String> = EXTERNAL_IPS
        .iter()
        .zip(via)
        .map(|(vip, via)| format!("route add {vip} via {via}"))
        .collect();
    let router = scene.cluster.router();
    router.netns().ip(&routes).expect("routes to the addresses");
    let client = scene.cluster.client();
    reach_all_ways(client, Scene::external_ips(), &scene.names(), |_| ());
}

#[test]
fn walk_8_pod_to_node_ports_and_external_addresses() {
    for fabric in Fabric::ALL {
        let scene = Scene::new(Stage {
            cluster: Cluster::builder().nodes(2).fabric(fabric),
            backends: &[0, 1],
            flags: &[],
        });
        let client = scene.pod("client-pod", 0);
        let short_circuit = scene.node_ports(0).into_iter().chain(Scene::external_ips());
        reach_all_ways(&client, short_circuit, &scene.names(), |reply| {
            assert!(
                client.addresses().contains(&reply.seen_client.ip()),
                "{reply:?}"
            );
        });
        reach_all_ways(&client, scene.node_ports(1), &scene.names(), |_| ());
    }
}
