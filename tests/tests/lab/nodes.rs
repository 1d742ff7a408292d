//! What a node is like: its devices, its settings, and where its processes run.

use lb_tests::lab::{Cluster, Cni, Fabric, Netns, Place as _};

use super::{cluster, network_file};

/// Whether a device computes checksums, as `ethtool` says it.
fn tx_offload(netns: &Netns, device: &str) -> String {
    let output = netns
        .command("ethtool")
        .args(["-k", device])
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("tx-checksumming: "))
        .unwrap();
    line.to_owned()
}

#[test]
fn tx_offload_is_off_where_it_was_asked_to_be() {
    for host_tx_offload in [true, false] {
        let options = Cluster::builder().nodes(1).host_tx_offload(host_tx_offload);
        let cluster = options.build().unwrap();
        let pod = cluster.pod("a", 0).unwrap();
        let node = cluster.node(0);
        let (switch, peer) = node.uplink_peer();
        assert_eq!(tx_offload(switch, peer), "off");
        assert_eq!(tx_offload(node.netns(), node.uplink()), "on");
        let expected = if host_tx_offload { "on" } else { "off" };
        assert_eq!(tx_offload(node.netns(), pod.host_veth()), expected);
    }
}

#[test]
fn pods_leave_room_for_the_tunnel_header() {
    for (cni, fabric) in Cni::ALL
        .into_iter()
        .flat_map(|cni| Fabric::ALL.map(|f| (cni, f)))
    {
        let cluster = cluster(cni, fabric);
        let pod = cluster.pod("a", 0).unwrap();
        let mtu = |netns: &Netns, device| {
            let output = netns
                .command("ip")
                .args(["-o", "link", "show", device])
                .output()
                .unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            let mut words = output.split(' ').skip_while(|word| *word != "mtu");
            words.nth(1).unwrap().parse::<u32>().unwrap()
        };
        let expected = if fabric == Fabric::Vxlan { 1450 } else { 1500 };
        assert_eq!(mtu(pod.netns(), "eth0"), expected);
        assert_eq!(mtu(cluster.node(0).netns(), pod.host_veth()), expected);
        assert_eq!(mtu(cluster.node(0).netns(), "eth0"), 1500);
    }
}

#[test]
fn nodes_filter_strictly_by_reverse_path() {
    let cluster = cluster(Cni::Ptp, Fabric::Vxlan);
    let pod = cluster.pod("a", 0).unwrap();
    for device in ["all", "eth0", "vxlan0", pod.host_veth()] {
        let path = format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
        assert_eq!(
            network_file(cluster.node(0).netns(), &path),
            "1\n",
            "{device}"
        );
    }
}

#[test]
fn node_processes_are_in_the_nodes_cgroup_and_see_bpffs() {
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let node = cluster.node(0);
    let script = format!(
        "cat /proc/self/cgroup && ls -d {}",
        node.pin_dir().display()
    );
    let output = node
        .command("sh")
        .unwrap()
        .args(["-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.contains(&format!("0::/{}/node1\n", cluster.name())),
        "{output}"
    );
    let pod = cluster.pod("a", 0).unwrap();
    assert!(pod.cgroup().starts_with(node.cgroup()));
}

#[test]
fn pods_have_the_addresses_that_they_were_given() {
    let wanted = ["10.244.1.77", "fd00:10:244:1::77"].map(|ip| ip.parse().unwrap());
    for cni in Cni::ALL {
        let cluster = Cluster::builder().nodes(1).cni(cni).build().unwrap();
        let pod = cluster.pod_at("a", 0, wanted).unwrap();
        assert_eq!(pod.addresses(), wanted);
        assert!(cluster.pod_at("b", 0, wanted).is_err(), "it is taken");
    }
}
