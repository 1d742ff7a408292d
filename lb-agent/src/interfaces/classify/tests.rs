use super::*;

fn link(index: u32, name: &str, kind: Kind) -> Link {
    Link {
        index,
        name: name.into(),
        kind,
        ethernet: name != "lo",
        link_netnsid: None,
        master: None,
        filters: [true; 2],
        addresses: Vec::new(),
    }
}

fn away(link: Link) -> Link {
    Link {
        link_netnsid: Some(0),
        ..link
    }
}

fn address(ip: &str, prefix_len: u8) -> AddressFacts {
    AddressFacts {
        ip: ip.parse().unwrap(),
        prefix_len,
        global: true,
        usable: true,
        secondary: false,
        permanent: true,
    }
}

/// Tables whose default routes lead to these devices.
fn routing(default_routes: &[u32]) -> Routing {
    Routing {
        default_routes: default_routes.iter().copied().collect(),
        by_destination: [false; 2],
    }
}

#[track_caller]
fn check_roles(default_routes: &[u32], overrides: &Overrides, expected: &[(&str, Option<Role>)]) {
    let links = [
        link(1, "lo", Kind::Other),
        link(2, "eth0", Kind::Other),
        away(link(3, "eth1", Kind::Veth)),
        link(4, "cni0", Kind::Other),
        away(link(5, "veth5", Kind::Veth)),
        link(6, "veth6", Kind::Veth),
        link(7, "flannel.1", Kind::Overlay),
        Link {
            ethernet: false,
            ..link(8, "wg0", Kind::Other)
        },
    ];
    let state = classify(&links, &routing(default_routes), overrides);
    let found: Vec<_> = state
        .devices
        .values()
        .map(|d| (d.name.as_str(), d.role))
        .filter(|(_, role)| role.is_some())
        .collect();
    assert_eq!(found, expected);
}

const POD: Option<Role> = Some(Role::Pod);
const UPLINK: Option<Role> = Some(Role::Uplink);
const TUNNEL: Option<Role> = Some(Role::Tunnel);

#[test]
fn s40_pods_are_known_by_their_devices_and_uplinks_by_the_default_route() {
    let expected = [
        ("eth0", UPLINK),
        ("eth1", POD),
        ("veth5", POD),
        ("flannel.1", TUNNEL),
    ];
    check_roles(&[2], &Overrides::default(), &expected);
}

#[test]
fn veth_of_the_default_route_is_an_uplink_and_no_pod() {
    let expected = [("eth1", UPLINK), ("veth5", POD), ("flannel.1", TUNNEL)];
    check_roles(&[3], &Overrides::default(), &expected);
}

#[test]
fn both_families_may_have_different_uplinks() {
    let expected = [
        ("eth0", UPLINK),
        ("eth1", UPLINK),
        ("veth5", POD),
        ("flannel.1", TUNNEL),
    ];
    check_roles(&[2, 3], &Overrides::default(), &expected);
}

#[test]
fn default_route_through_a_device_without_ethernet_header_makes_no_uplink() {
    let expected = [("eth1", POD), ("veth5", POD), ("flannel.1", TUNNEL)];
    check_roles(&[8], &Overrides::default(), &expected);
}

#[test]
fn vlan_of_the_default_route_is_an_uplink_and_its_parent_is_none() {
    let links = [
        link(2, "eth0", Kind::Other),
        Link {
            addresses: vec![address("192.0.2.1", 24)],
            // Its parent may be in another network namespace.
            ..away(link(3, "eth0.100", Kind::Vlan))
        },
        away(link(4, "eth0.200", Kind::Vlan)),
    ];
    let state = classify(&links, &routing(&[3]), &Overrides::default());
    let found: Vec<_> = state.devices.values().map(|d| (d.role, d.vlan)).collect();
    assert_eq!(found, [(None, false), (UPLINK, true), (None, true)]);
    assert_eq!(state.node_addresses, ["192.0.2.1".parse().unwrap()].into());
}

#[test]
fn vlan_and_its_parent_may_both_be_uplinks() {
    let links = [
        link(2, "eth0", Kind::Other),
        link(3, "eth0.100", Kind::Vlan),
    ];
    let named = Overrides {
        uplinks: vec!["eth0".into(), "eth0.100".into()],
        ..Overrides::default()
    };
    let by_routes = classify(&links, &routing(&[2, 3]), &Overrides::default());
    let by_name = classify(&links, &routing(&[]), &named);
    for state in [by_routes, by_name] {
        assert_eq!(state.with_role(Role::Uplink).collect::<Vec<_>>(), [2, 3]);
    }
}

#[test]
fn named_uplink_ends_the_search_for_uplinks_only() {
    let overrides = Overrides {
        uplinks: vec!["cni0".into()],
        ..Overrides::default()
    };
    let expected = [
        ("eth1", POD),
        ("cni0", UPLINK),
        ("veth5", POD),
        ("flannel.1", TUNNEL),
    ];
    check_roles(&[2], &overrides, &expected);
}

#[test]
fn named_uplink_is_no_pod_although_its_peer_is_elsewhere() {
    let overrides = Overrides {
        uplinks: vec!["eth1".into()],
        ..Overrides::default()
    };
    check_roles(
        &[],
        &overrides,
        &[("eth1", UPLINK), ("veth5", POD), ("flannel.1", TUNNEL)],
    );
}

#[test]
fn named_tunnels_and_pod_prefixes_replace_the_search() {
    let overrides = Overrides {
        tunnels: vec!["eth0".into()],
        pod_prefixes: vec!["veth".into()],
        ..Overrides::default()
    };
    let expected = [("eth0", TUNNEL), ("veth5", POD), ("veth6", POD)];
    check_roles(&[], &overrides, &expected);
}

#[track_caller]
fn check_primary(addresses: &[AddressFacts], v4: Option<&str>, v6: Option<&str>) {
    let uplink = Link {
        addresses: addresses.to_vec(),
        ..link(2, "eth0", Kind::Other)
    };
    let state = classify(&[uplink], &routing(&[2]), &Overrides::default());
    let addr =
        |ip: Option<&str>| ip.map_or(Addr::UNSPECIFIED, |ip| ip.parse::<IpAddr>().unwrap().into());
    let expected = Interface {
        snat4: addr(v4),
        snat6: addr(v6),
        role: Role::Uplink as u8,
        ..Interface::default()
    };
    assert_eq!(state.interfaces()[&2], expected);
    let known = [v4, v6].into_iter().flatten().map(|ip| ip.parse().unwrap());
    assert_eq!(state.node_addresses, known.collect());
}

#[test]
fn first_v4_and_oldest_v6_address_are_primary() {
    let addresses = [
        address("192.0.2.1", 24),
        address("192.0.2.2", 24),
        address("2001:db8::2", 64),
        address("2001:db8::1", 64),
    ];
    check_primary(&addresses, Some("192.0.2.1"), Some("2001:db8::1"));
}

#[test]
fn device_without_addresses_has_unspecified_ones() {
    check_primary(&[], None, None);
}

#[test]
fn link_local_tentative_and_secondary_addresses_are_not_used() {
    let addresses = [
        AddressFacts {
            global: false,
            ..address("169.254.1.1", 16)
        },
        AddressFacts {
            secondary: true,
            ..address("192.0.2.2", 24)
        },
        AddressFacts {
            usable: false,
            ..address("2001:db8::1", 64)
        },
        AddressFacts {
            global: false,
            ..address("fe80::1", 64)
        },
    ];
    check_primary(&addresses, None, None);
}

#[test]
fn single_addresses_and_leases_are_second_choice() {
    let lease = AddressFacts {
        permanent: false,
        ..address("192.0.2.9", 24)
    };
    let vip = address("192.0.2.100", 32);
    let own = address("192.0.2.1", 24);
    check_primary(&[vip, lease, own], Some("192.0.2.1"), None);
    check_primary(&[vip, lease], Some("192.0.2.9"), None);
    check_primary(&[vip], Some("192.0.2.100"), None);
    let addresses = [address("2001:db8::1", 64), address("2001:db8::64", 128)];
    check_primary(&addresses, None, Some("2001:db8::1"));
}

#[test]
fn only_uplinks_and_tunnels_are_known_to_the_programs() {
    let tunnel = Link {
        addresses: vec![address("10.244.0.0", 32)],
        ..link(7, "flannel.1", Kind::Overlay)
    };
    let links = [tunnel, away(link(5, "veth5", Kind::Veth))];
    let state = classify(&links, &routing(&[]), &Overrides::default());
    let interfaces = state.interfaces();
    assert_eq!(interfaces.keys().copied().collect::<Vec<_>>(), [7]);
    assert_eq!(interfaces[&7].role, Role::Tunnel as u8);
    assert_eq!(
        interfaces[&7].snat4,
        "10.244.0.0".parse::<IpAddr>().unwrap().into()
    );
    assert!(state.node_addresses.is_empty());
}

#[test]
fn networks_of_bridges_are_pods_unless_the_bridge_is_an_uplink() {
    let bridge = |index, name, ip| Link {
        addresses: vec![address(ip, 24)],
        ..link(index, name, Kind::Bridge)
    };
    let links = [
        bridge(2, "cni0", "10.244.1.1"),
        bridge(3, "br0", "192.168.0.7"),
        Link {
            addresses: vec![address("10.0.0.7", 24)],
            ..link(4, "eth1", Kind::Other)
        },
    ];
    let state = classify(&links, &routing(&[3]), &Overrides::default());
    assert_eq!(
        state.pod_networks,
        ["10.244.1.0/24".parse().unwrap()].into()
    );
}

#[test]
fn bridge_with_a_port_to_elsewhere_is_no_network_of_pods() {
    let bridge = Link {
        addresses: vec![address("10.244.1.1", 24)],
        ..link(4, "cni0", Kind::Bridge)
    };
    let port = |link: Link| Link {
        master: Some(4),
        ..link
    };
    let pod = port(Link {
        link_netnsid: Some(0),
        ..link(5, "veth5", Kind::Veth)
    });
    let networks = |links: &[Link]| {
        let state = classify(links, &routing(&[1]), &Overrides::default());
        state.pod_networks.len()
    };
    assert_eq!(networks(&[bridge.clone(), pod.clone()]), 1);
    for other in [
        link(6, "eth1", Kind::Other),
        link(7, "vxlan1", Kind::Overlay),
    ] {
        assert_eq!(networks(&[bridge.clone(), pod.clone(), port(other)]), 0);
    }
}

#[test]
fn link_local_address_of_a_pods_device_changes_nothing() {
    let with = |addresses: &[(&str, u8)]| {
        let addresses = addresses
            .iter()
            .map(|(ip, len)| address(ip, *len))
            .collect();
        let links = [Link {
            addresses,
            ..link(5, "veth5", Kind::Veth)
        }];
        classify(&links, &routing(&[1]), &Overrides::default()).local_addresses
    };
    assert_eq!(with(&[("fe80::5", 64)]), with(&[]));
}

#[test]
fn s21_every_address_of_every_device_is_local_but_those_of_a_link() {
    let links = [
        Link {
            addresses: vec![address("127.0.0.1", 8)],
            ..link(1, "lo", Kind::Other)
        },
        Link {
            addresses: vec![
                address("192.0.2.1", 24),
                AddressFacts {
                    global: false,
                    ..address("fe80::1", 64)
                },
            ],
            ..link(2, "eth0", Kind::Other)
        },
    ];
    let state = classify(&links, &routing(&[2]), &Overrides::default());
    let expected = ["127.0.0.1", "192.0.2.1"];
    assert_eq!(
        state.local_addresses,
        expected.map(|ip| ip.parse().unwrap()).into()
    );
    assert_eq!(state.node_addresses, ["192.0.2.1".parse().unwrap()].into());
}

#[test]
fn pods_of_a_bridge_that_netfilter_does_not_see_may_go_by_it() {
    let flags_of = |filters, master| {
        let port = |index, name: &str| Link {
            master,
            ..away(link(index, name, Kind::Veth))
        };
        let bridge = Link {
            filters,
            ..link(4, "cni0", Kind::Bridge)
        };
        let links = [bridge, port(5, "veth5"), link(6, "bond0", Kind::Other)];
        let state = classify(&links, &routing(&[]), &Overrides::default());
        let of_pod = state.interfaces().get(&5).copied();
        of_pod.map(|i| (i.bridge, i.flags, i.role, i.snat4 == Addr::UNSPECIFIED))
    };
    let pod = |flags| Some((4, flags, Role::Pod as u8, true));
    assert_eq!(
        flags_of([false, false], Some(4)),
        pod(flags::DIRECT4 | flags::DIRECT6)
    );
    assert_eq!(flags_of([false, true], Some(4)), pod(flags::DIRECT4));
    assert_eq!(flags_of([true, false], Some(4)), pod(flags::DIRECT6));
    assert_eq!(flags_of([true, true], Some(4)), None);
    assert_eq!(flags_of([false, false], Some(6)), None);
    assert_eq!(flags_of([false, false], None), None);
}

#[test]
fn devices_towards_the_network_say_what_their_routes_depend_on() {
    let links = [
        link(2, "eth0", Kind::Other),
        link(3, "flannel.1", Kind::Overlay),
    ];
    for (by_destination, flags) in [
        ([false, false], 0),
        ([true, false], flags::BY_DESTINATION4),
        ([false, true], flags::BY_DESTINATION6),
    ] {
        let routing = Routing {
            by_destination,
            ..routing(&[2])
        };
        let interfaces = classify(&links, &routing, &Overrides::default()).interfaces();
        assert_eq!([2, 3].map(|index| interfaces[&index].flags), [flags; 2]);
    }
}
