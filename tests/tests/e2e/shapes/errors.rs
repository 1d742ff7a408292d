//! ICMP errors about translated packets.

use std::net::{IpAddr, SocketAddr};

use lb_tests::lab::{Cluster, ClusterBuilder, Cni, Fabric, Narrow, Place as _, Site};
use lb_tests::tool::{ProbeEnd, ProbeOptions, Probed, Protocol, Report};

use super::mtu::filling;
use super::walk::{Dialled, Ground, NARROW, Who};

/// The router in front of nodes.
const ROUTER: [&str; 2] = ["192.168.77.1", "fd00:77::1"];

fn probe(from: &Site, to: SocketAddr, size: usize) -> Probed {
    let probe = ProbeOptions {
        size,
        ..ProbeOptions::new(Protocol::Udp, to)
    };
    from.probe(&probe).expect("a probe")
}

fn inside(cluster: ClusterBuilder, backend: usize) -> Ground {
    Ground {
        name: "from inside",
        cluster,
        backend,
        flags: &[],
        walks: &[(2, Who::Pod, Dialled::ClusterIp)],
        narrow: None,
    }
}

fn outside(cluster: ClusterBuilder, backend: usize, flags: &'static [&'static str]) -> Ground {
    Ground {
        name: "from outside",
        flags,
        walks: &[(6, Who::Outside, Dialled::NodePort(0))],
        ..inside(cluster, backend)
    }
}

/// "Fragmentation needed" and "packet too big".
fn too_big(from: IpAddr) -> Report {
    let (kind, code) = if from.is_ipv4() { (3, 4) } else { (2, 0) };
    Report {
        from,
        kind,
        code,
        info: NARROW,
    }
}

/// "Port unreachable".
fn closed(from: IpAddr) -> Report {
    let (kind, code) = if from.is_ipv4() { (3, 3) } else { (1, 4) };
    Report {
        from,
        kind,
        code,
        info: 0,
    }
}

/// The client hears of a closed port as one of what it has dialled: its socket takes no error
/// about anything else.
#[track_caller]
fn hears_of_closed_port(ground: Ground) {
    let mut lab = ground.build();
    for walked in lab.walks() {
        for to in walked.dialled() {
            assert_eq!(probe(walked.client(), to, 16).end, ProbeEnd::Answered);
        }
    }
    lab.scene.stop_serving();
    for walked in lab.walks() {
        for to in walked.dialled() {
            let probed = probe(walked.client(), to, 200);
            let refused = ProbeEnd::Failed("ECONNREFUSED".to_owned());
            assert_eq!(probed.end, refused, "{to}, {ground:?}: {probed:?}");
            assert_eq!(probed.report, Some(closed(to.ip())), "{to}, {ground:?}");
        }
    }
}

/// The client hears of a narrow hop beyond the node as one on the way to what it has dialled.
#[track_caller]
fn hears_of_narrow_hop(ground: Ground) {
    let lab = ground.narrow(Narrow::Node(1)).build();
    for walked in lab.walks() {
        for to in walked.dialled() {
            let probed = probe(walked.client(), to, filling(1500, to.ip()));
            let report = probed.report.clone();
            let report = report.unwrap_or_else(|| panic!("{to}, {ground:?}: {probed:?}"));
            // The router does not take its own address for the source of a packet that it forwards.
            let known = [router(to), to.ip()].contains(&report.from);
            assert!(known, "{to}, {ground:?}: {report:?}");
            assert_eq!(report, too_big(report.from), "{to}, {ground:?}");
            assert_eq!(probed.mtu, NARROW, "{to}, {ground:?}: {probed:?}");
            let probed = probe(walked.client(), to, filling(NARROW, to.ip()));
            assert_eq!(probed.end, ProbeEnd::Answered, "{to}: {probed:?}");
        }
    }
}

/// The router's address in the family of what is dialled.
fn router(to: SocketAddr) -> IpAddr {
    let address = ROUTER[usize::from(to.is_ipv6())];
    address.parse().expect("an address")
}

#[test]
fn icmp_frag_needed_reaches_client_as_vip() {
    for cni in Cni::ALL {
        let cluster = Cluster::builder().nodes(2).cni(cni).host_tx_offload(false);
        hears_of_narrow_hop(inside(cluster, 1));
    }
}

#[test]
fn icmp_embedded_clusterip() {
    for cni in Cni::ALL {
        let cluster = Cluster::builder().nodes(2).cni(cni).host_tx_offload(false);
        hears_of_closed_port(inside(cluster, 0));
        hears_of_closed_port(inside(cluster, 1));
        // A hairpin: it is told of its own closed port.
        hears_of_closed_port(Ground {
            walks: &[(3, Who::Itself, Dialled::ClusterIp)],
            ..inside(cluster, 0)
        });
    }
    let vxlan = Cluster::builder().nodes(2).fabric(Fabric::Vxlan);
    hears_of_closed_port(inside(vxlan, 1));
}

#[test]
fn icmp_error_to_snat_address() {
    let direct = Cluster::builder().nodes(2);
    for flags in [&[][..], &["--xdp", "off"]] {
        hears_of_closed_port(outside(direct, 1, flags));
        hears_of_narrow_hop(outside(direct, 1, flags));
    }
    let vxlan = direct.fabric(Fabric::Vxlan);
    hears_of_closed_port(outside(vxlan, 1, &[]));
}

#[test]
fn closed_port_behind_a_node_port_of_this_node_is_heard_of_outside() {
    let cluster = Cluster::builder().nodes(1);
    for flags in [&[][..], &["--xdp", "off"]] {
        hears_of_closed_port(outside(cluster, 0, flags));
    }
}
