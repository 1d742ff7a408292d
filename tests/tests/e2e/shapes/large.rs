//! Packets larger than usual: on cables that take them, and in the stack before they are cut.

use lb_common::counter::{Hook, Outcome};
use lb_tests::lab::{Node, Place as _};
use lb_tests::tool::{ProbeEnd, ProbeOptions, Protocol, Transfer};
use serde_json::Value;

use super::mtu::{TEN_MEGABYTES, carry, filling, transfer};
use super::walk::{Who, grounds};

const JUMBO: u32 = 9000;

/// The mode in which XDP runs on a node's uplink, as the kernel numbers them.
fn xdp_mode(node: &Node) -> Option<u64> {
    let mut ip = node.netns().command("ip");
    let words = ["-j", "link", "show", node.uplink()];
    let output = ip.args(words).output().expect("a device");
    let devices: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list");
    devices[0]["xdp"]["mode"].as_u64()
}

#[test]
fn jumbo_frames() {
    const DRIVER: u64 = 1;
    for ground in grounds() {
        let lab = ground.on(|cluster| cluster.mtu(JUMBO)).build();
        let mode = xdp_mode(lab.scene.cluster.node(0));
        assert_eq!(
            mode,
            ground.flags.is_empty().then_some(DRIVER),
            "{}",
            ground.name
        );
        for walked in lab.walks() {
            for to in walked.dialled() {
                let probe = ProbeOptions {
                    size: filling(walked.path_mtu(JUMBO), to.ip()),
                    ..ProbeOptions::new(Protocol::Udp, to)
                };
                let probed = walked.client().probe(&probe).expect("a probe");
                let name = &walked.name;
                assert_eq!(probed.end, ProbeEnd::Answered, "{name}, {to}: {probed:?}");
                transfer(&walked, to);
            }
        }
    }
}

#[test]
fn gso() {
    for mut ground in grounds() {
        // XDP on a veth spoils what has no checksum yet.
        ground.flags = &["--xdp", "off"];
        let lab = ground.on(|cluster| cluster.uplink_tx_offload(true)).build();
        for walked in lab.walks() {
            let hook = match walked.who {
                Who::Outside => Hook::WireIngress,
                Who::Pod | Who::Itself => Hook::PodIngress,
                // Translated before there are packets.
                Who::Node => continue,
            };
            for to in walked.dialled() {
                let before = lab.scene.count(0, hook, Outcome::Seen);
                carry(&walked, to, Transfer::Upload(TEN_MEGABYTES));
                let packets = lab.scene.count(0, hook, Outcome::Seen) - before;
                carry(&walked, to, Transfer::Download(TEN_MEGABYTES));
                // In packets of 1500 bytes it would be 7,000 of them; half as many acknowledgements
                // may be among them, where these come by the same hook.
                assert!(packets < 6_000, "{}, {to}: {packets} packets", walked.name);
            }
        }
    }
}
