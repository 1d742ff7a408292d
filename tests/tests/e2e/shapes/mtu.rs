//! Path MTU discovery.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use lb_tests::lab::{Cluster, Fabric, Narrow, Place as _, Request, Site};
use lb_tests::tool::{ProbeEnd, ProbeOptions, Probed, Protocol, Transfer};

use super::ask;
use super::walk::{Dialled, Ground, Lab, NARROW, Walked, Who, grounds};

const MTU: u32 = 1500;
pub(super) const TEN_MEGABYTES: u64 = 10_000_000;

/// As much payload as fills a UDP packet of `mtu` bytes.
pub(super) fn filling(mtu: u32, to: IpAddr) -> usize {
    let headers = if to.is_ipv4() { 20 } else { 40 };
    mtu as usize - headers - 8
}

/// Sends a datagram as large as a packet of `mtu` bytes, with "don't fragment".
fn probe(from: &Site, to: SocketAddr, mtu: u32) -> Probed {
    let probe = ProbeOptions {
        size: filling(mtu, to.ip()),
        ..ProbeOptions::new(Protocol::Udp, to)
    };
    from.probe(&probe).expect("a probe")
}

/// A full packet of `first` bytes passes if it fits `mtu`. If not, its sender learns that, and
/// then it passes.
#[track_caller]
fn learn(walked: &Walked<'_>, to: SocketAddr, first: u32, mtu: u32) {
    let (client, what) = (walked.client(), format!("{}, {to}", walked.name));
    walked.lab.forget_paths();
    if mtu < first {
        let probed = probe(client, to, first);
        let too_big = ProbeEnd::Failed("EMSGSIZE".to_owned());
        assert_eq!(probed.end, too_big, "{what}: {probed:?}");
        assert_eq!(probed.mtu, mtu, "{what}: {probed:?}");
        // A node's own socket hears it of its own kernel, maybe.
        let info = probed.report.map(|report| report.info);
        assert_eq!(info, Some(mtu), "{what}");
    }
    let probed = probe(client, to, mtu.min(first));
    assert_eq!(probed.end, ProbeEnd::Answered, "{what}: {probed:?}");
}

/// Moves many bytes both ways, each time over an unknown path.
#[track_caller]
pub(super) fn transfer(walked: &Walked<'_>, to: SocketAddr) {
    for direction in [Transfer::Upload, Transfer::Download] {
        walked.lab.forget_paths();
        carry(walked, to, direction(TEN_MEGABYTES));
    }
}

/// Moves bytes one way.
#[track_caller]
pub(super) fn carry(walked: &Walked<'_>, to: SocketAddr, transfer: Transfer) {
    let request = Request {
        transfer: Some(transfer),
        timeout: Duration::from_secs(10),
        ..Request::new(Protocol::Tcp, to)
    };
    ask(walked.client(), &request, &walked.name);
}

/// Answers that do not fit arrive all the same: their sender learns, too. The first is lost.
#[track_caller]
fn hear_long_answers(walked: &Walked<'_>, to: SocketAddr) {
    walked.lab.forget_paths();
    let request = Request {
        count: 3,
        // Answers have more to say than that.
        size: filling(NARROW, to.ip()) - 8,
        timeout: Duration::from_millis(700),
        ..Request::new(Protocol::Udp, to)
    };
    let outcomes: Vec<_> = walked.client().start(&request).expect("a client").collect();
    let last = outcomes.last().expect("an outcome");
    assert!(last.is_ok(), "{}, {to}: {outcomes:?}", walked.name);
}

/// Lets nodes forward pieces of IPv6 packets as pieces. A bridge that calls netfilter puts them
/// together, and forgets that a router has to cut them again (so does Linux without Services).
fn leave_pieces_to_routers(lab: &Lab) {
    if Path::new("/proc/sys/net/bridge").exists() {
        for node in lab.scene.cluster.nodes() {
            let netns = node.netns();
            let set = netns.sysctl(&[("bridge/bridge-nf-call-ip6tables", "0")]);
            set.expect("a bridge that does not call netfilter");
        }
    }
}

fn discover(ground: Ground) {
    let lab = ground.build();
    if ground.narrow.is_some() {
        leave_pieces_to_routers(&lab);
    }
    let walks = lab.walks();
    for walked in walks.filter(|walked| ground.narrow.is_none() || walked.is_narrow()) {
        for to in walked.dialled() {
            transfer(&walked, to);
            learn(&walked, to, walked.first_mtu(MTU), walked.path_mtu(MTU));
            hear_long_answers(&walked, to);
        }
    }
}

#[test]
fn path_mtu_discovery_through_every_walk() {
    grounds().into_iter().for_each(discover);
}

#[test]
fn path_mtu_discovery_through_every_walk_with_a_narrow_hop_before_the_client() {
    for ground in grounds() {
        discover(ground.narrow(Narrow::Client));
    }
}

#[test]
fn path_mtu_discovery_through_every_walk_with_a_narrow_hop_before_a_node() {
    for ground in grounds() {
        discover(ground.narrow(Narrow::Node(1)));
    }
}

#[test]
fn oversize_into_vxlan_adapts() {
    // Pods believe that they may send more than the tunnel takes, and say so to their peers.
    let lab = Ground {
        name: "pods with too large an MTU",
        cluster: Cluster::builder()
            .nodes(2)
            .fabric(Fabric::Vxlan)
            .pod_mtu(MTU),
        backend: 1,
        flags: &[],
        walks: &[
            (6, Who::Outside, Dialled::NodePort(0)),
            (2, Who::Pod, Dialled::ClusterIp),
        ],
        narrow: None,
    }
    .build();
    for walked in lab.walks() {
        for to in walked.dialled() {
            transfer(&walked, to);
            learn(&walked, to, MTU, Fabric::Vxlan.mtu(MTU));
            hear_long_answers(&walked, to);
        }
    }
}
