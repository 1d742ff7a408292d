use lb_common::vip;

use super::*;
use crate::desired::{
    Tables,
    fixture::{CLUSTER_IP, desired, endpoint, frontend, ip, node, port, service},
};

const VIP: &str = "203.0.113.1";
const EXTERNAL: &str = "203.0.113.2";
const NODE_ADDRESS: &str = "192.168.0.1";

/// A Service of every kind of frontend that takes connections from `ranges` only.
fn limited(ranges: &[&str], node: &NodeView) -> Tables {
    let mut service = service();
    service.load_balancer_ips = vec![ip(VIP)];
    service.external_ips = vec![ip(EXTERNAL)];
    service.ports[0].node_port = 30_080;
    service.source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    let (tables, rejections) = desired(service, [endpoint("10.244.2.1")], node);
    assert_eq!(rejections, []);
    tables
}

/// Which of the frontends filter.
fn filtered(tables: &Tables) -> Vec<&'static str> {
    [
        (CLUSTER_IP, 80),
        (VIP, 80),
        (EXTERNAL, 80),
        (NODE_ADDRESS, 30_080),
    ]
    .into_iter()
    .filter(|(addr, number)| {
        let (_, spec) = frontend(tables, addr, *number);
        spec.flags & flags::SOURCE_RANGES != 0
    })
    .map(|(addr, _)| addr)
    .collect()
}

fn is_admitted(tables: &Tables, client: &str) -> bool {
    let (port, _) = frontend(tables, VIP, 80);
    let client = u128::from_be_bytes(Addr::from(ip(client)).octets);
    port.source_ranges.iter().any(|range| {
        let network = u128::from_be_bytes(range.addr.octets);
        let host_bits = 160 - range.prefix_len;
        (network ^ client).checked_shr(host_bits).unwrap_or(0) == 0
    })
}

#[test]
fn s46_source_ranges_hold_for_load_balancer_addresses_only() {
    let tables = limited(&["198.51.100.0/24", "192.0.2.7/32"], &node());
    assert_eq!(filtered(&tables), [VIP]);
    assert!(is_admitted(&tables, "198.51.100.9"));
    assert!(is_admitted(&tables, "192.0.2.7"));
    assert!(!is_admitted(&tables, "192.0.2.8"));
}

#[test]
fn s46_source_ranges_hold_for_all_external_frontends_on_request() {
    let node = NodeView {
        source_ranges_everywhere: true,
        ..node()
    };
    let tables = limited(&["198.51.100.0/24"], &node);
    assert_eq!(filtered(&tables), [VIP, EXTERNAL, NODE_ADDRESS]);
}

#[test]
fn s46_a_range_of_everybody_or_of_the_other_family_filters_nobody() {
    for ranges in [
        &["198.51.100.0/24", "0.0.0.0/0"][..],
        &["2001:db8::/32"],
        &[],
    ] {
        let tables = limited(ranges, &node());
        assert_eq!(filtered(&tables), [""; 0], "{ranges:?}");
        let (port, _) = frontend(&tables, VIP, 80);
        assert!(port.source_ranges.is_empty(), "{ranges:?}");
    }
    let tables = limited(&["198.51.100.0/24", "2001:db8::/32", "::/0"], &node());
    assert_eq!(filtered(&tables), [VIP]);
    assert!(!is_admitted(&tables, "192.0.2.8"));
}

#[test]
fn s46_host_bits_of_a_range_do_not_count() {
    let tables = limited(&["198.51.100.77/24"], &node());
    assert!(is_admitted(&tables, "198.51.100.9"));
}

#[test]
fn s46_an_address_that_is_external_and_balanced_keeps_its_source_ranges() {
    let mut service = service();
    service.load_balancer_ips = vec![ip(VIP)];
    service.external_ips = vec![ip(VIP)];
    service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let (tables, _) = desired(service, [endpoint("10.244.2.1")], &node());
    let (_, spec) = frontend(&tables, VIP, 80);
    assert_ne!(spec.flags & flags::SOURCE_RANGES, 0);
}

#[test]
fn s46_source_ranges_of_ipv6_filter_ipv6() {
    let mut service = service();
    service.cluster_ips = vec![ip("fd00:10:96::1")];
    service.load_balancer_ips = vec![ip("2001:db8::1")];
    service.source_ranges = vec!["2001:db8:1::/48".parse().unwrap()];
    let (tables, _) = desired(service, [endpoint("fd00:10:244::1")], &node());
    let (port, _) = frontend(&tables, "2001:db8::1", 80);
    let lengths: Vec<_> = port.source_ranges.iter().map(|r| r.prefix_len).collect();
    assert_eq!(lengths, [32 + 48]);
}

#[test]
fn s47_the_node_is_denied_unless_a_range_holds_its_address() {
    let denied = |tables: &Tables| {
        let (_, spec) = frontend(tables, VIP, 80);
        spec.flags & flags::NODE_DENIED != 0
    };
    assert!(denied(&limited(&["198.51.100.0/24"], &node())));
    let tables = limited(&["198.51.100.0/24", "192.168.0.0/16"], &node());
    assert!(!denied(&tables));
    // The address of the node's pod network is none that it is known by.
    assert!(denied(&limited(&["10.244.1.0/24"], &node())));
}

#[test]
fn s47_where_the_node_is_admitted_so_is_the_vip_itself() {
    let tables = limited(&["192.168.0.0/16"], &node());
    assert!(is_admitted(&tables, VIP));
    assert!(!is_admitted(&tables, EXTERNAL));
    let tables = limited(&["198.51.100.0/24"], &node());
    assert!(!is_admitted(&tables, VIP));
}

#[test]
fn s46_ranges_are_those_of_their_port_alone() {
    let mut service = service();
    service.load_balancer_ips = vec![ip(VIP)];
    service.ports.push(port(lb_common::protocol::UDP));
    service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let (tables, _) = desired(service, [endpoint("10.244.2.1")], &node());
    assert_eq!(tables.ports.len(), 2);
    for (id, port) in &tables.ports {
        let ids: BTreeSet<u32> = port.source_ranges.iter().map(|r| r.service).collect();
        assert_eq!(ids, [*id].into());
    }
    assert!(tables.vips[&ip(VIP).into()].has(vip::flags::SERVED));
}

#[test]
fn s48_clients_are_filtered_whether_or_not_there_are_endpoints() {
    let mut service = service();
    service.load_balancer_ips = vec![ip(VIP)];
    service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let (tables, _) = desired(service, [], &node());
    let (port, spec) = frontend(&tables, VIP, 80);
    assert_eq!(spec.flags & flags::HAS_ENDPOINTS, 0);
    assert_ne!(spec.flags & flags::SOURCE_RANGES, 0);
    assert_eq!(port.source_ranges.len(), 1);
}
