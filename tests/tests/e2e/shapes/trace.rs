//! What a traceroute shows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_tests::lab::{Place as _, Site};
use lb_tests::tool::{ProbeEnd, ProbeOptions, Protocol};
use serde_json::Value;

use super::walk::{Lab, Walked, grounds};

/// More routers than there are in a lab.
const MAX_TTL: u8 = 8;

/// The addresses of a place's devices.
fn addresses(place: &Site) -> Vec<IpAddr> {
    let mut ip = place.netns().command("ip");
    let output = ip.args(["-j", "address"]).output().expect("addresses");
    let devices: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list");
    let infos = devices
        .iter()
        .filter_map(|device| device["addr_info"].as_array())
        .flatten();
    let texts = infos.filter_map(|info| info["local"].as_str());
    texts
        .map(|text| text.parse().expect("an address"))
        .collect()
}

/// The addresses of all that forwards packets.
fn routers(lab: &Lab) -> BTreeSet<IpAddr> {
    let cluster = &lab.scene.cluster;
    let nodes = cluster.nodes().iter().map(|node| node.site());
    let forwarders = nodes.chain([cluster.router().site()]);
    forwarders.flat_map(addresses).collect()
}

/// Whether a packet that may pass so many routers reaches the Service. If not, a router says so,
/// or whatever is dialled.
#[track_caller]
fn reaches(walked: &Walked<'_>, probe: &ProbeOptions, routers: &BTreeSet<IpAddr>) -> bool {
    let what = format!("{}, {probe:?}", walked.name);
    let probed = walked.client().probe(probe).expect("a probe");
    match (&probed.end, &probed.report) {
        (ProbeEnd::Answered, _) => true,
        (ProbeEnd::Failed(_), Some(report)) => {
            let exceeded = if probe.to.is_ipv4() { 11 } else { 3 };
            assert_eq!(report.kind, exceeded, "{what}: {probed:?}");
            let is_known = routers.contains(&report.from) || report.from == probe.to.ip();
            assert!(is_known, "{what}: {probed:?}");
            false
        }
        _ => panic!("{what}: {probed:?}"),
    }
}

#[test]
fn traceroute_to_a_vip_makes_sense() {
    for ground in grounds() {
        let lab = ground.build();
        let routers = routers(&lab);
        for walked in lab.walks() {
            for to in walked.dialled() {
                for protocol in Protocol::ALL {
                    let probe = |ttl| ProbeOptions {
                        ttl,
                        ..ProbeOptions::new(protocol, to)
                    };
                    let mut ttls = 1..=MAX_TTL;
                    let reached = ttls.any(|ttl| reaches(&walked, &probe(ttl), &routers));
                    assert!(reached, "{}, {protocol:?}: not with {MAX_TTL}", walked.name);
                }
            }
        }
    }
}
