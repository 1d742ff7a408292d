use lb_common::{backend::sets, protocol};
use proptest::prelude::*;

use super::*;
use crate::{
    desired::{
        FrontendSpec, Members, Port,
        fixture::{compile, endpoint, histories, ip, model, name, node, port, service},
    },
    model::Endpoint,
};

/// A Service port without the numbers that it has been given.
#[derive(Debug, PartialEq)]
struct Named {
    frontends: BTreeMap<FrontendKey, FrontendSpec>,
    /// Address, port, state, sets, whether it is here.
    backends: BTreeSet<(Addr, u16, u8, u8, u8)>,
    cluster: BTreeSet<Addr>,
    local: BTreeSet<Addr>,
    source_ranges: BTreeSet<(u32, Addr)>,
}

fn named(tables: &Tables) -> BTreeMap<PortName, Named> {
    let of = |(id, port): (&u32, &Port)| {
        let addrs = |members: &Members| {
            let backends = members.iter().map(|member| port.backends[&member.index()]);
            backends.map(|backend| backend.addr).collect()
        };
        let backends = port.backends.values().map(|b| {
            assert_eq!(b.service, *id);
            (b.addr, b.port, b.state, b.sets, b.local)
        });
        let ranges = port.source_ranges.iter().map(|range| {
            assert_eq!(range.service, *id);
            (range.prefix_len, range.addr)
        });
        let named = Named {
            frontends: port.frontends.clone().into_iter().collect(),
            backends: backends.collect(),
            cluster: addrs(&port.cluster),
            local: addrs(&port.local),
            source_ranges: ranges.collect(),
        };
        (PortName::clone(&port.name), named)
    };
    tables.ports.iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn s63_tables_do_not_depend_on_their_history(history in histories()) {
        let mut compiler = Compiler::new(Ids::new(1024));
        for (model, node) in &history {
            let before = compiler.tables().clone();
            let changes = compiler.update(model, node);
            let tables = compiler.tables();
            let (fresh, rejections) = compile(model, node);
            prop_assert_eq!(named(tables), named(&fresh));
            prop_assert_eq!(&tables.vips, &fresh.vips);
            prop_assert_eq!(&tables.service_nets, &fresh.service_nets);
            prop_assert_eq!(&tables.kept, &BTreeSet::new());
            let ours: BTreeSet<_> = compiler.rejections().cloned().collect();
            prop_assert_eq!(ours, rejections.into_iter().collect::<BTreeSet<_>>());
            // What has changed is told.
            let ids = before.ports.keys().chain(tables.ports.keys()).copied();
            let different = ids.filter(|id| before.ports.get(id) != tables.ports.get(id));
            prop_assert_eq!(changes.ports, different.collect::<BTreeSet<_>>());
            let addrs = before.vips.keys().chain(tables.vips.keys()).copied();
            let mut different = addrs.filter(|a| before.vips.get(a) != tables.vips.get(a));
            prop_assert!(different.all(|addr| changes.vips.contains(&addr)));
        }
    }

    #[test]
    fn s20_no_frontend_is_two_ports_and_every_backend_is_in_its_sets(history in histories()) {
        let mut compiler = Compiler::new(Ids::new(1024));
        for (model, node) in &history {
            compiler.update(model, node);
            let mut seen = BTreeSet::new();
            for port in compiler.tables().ports.values() {
                for key in port.frontends.keys() {
                    prop_assert!(seen.insert(*key), "{key:?} twice");
                }
                for (set, bit) in [(&port.cluster, sets::CLUSTER), (&port.local, sets::LOCAL)] {
                    let members: BTreeSet<u32> = set.iter().map(|m| m.index()).collect();
                    let say_so = port.backends.iter().filter(|(_, b)| b.sets & bit != 0);
                    prop_assert_eq!(members, say_so.map(|(index, _)| *index).collect());
                }
                prop_assert!(port.backends.values().all(|b| b.is_active() == (b.sets != 0)));
            }
        }
    }
}

#[test]
fn s12_equal_objects_change_nothing() {
    let build = || model([("web", service(), vec![endpoint("10.244.2.1")])]);
    let mut compiler = Compiler::new(Ids::new(64));
    let first = compiler.update(&build(), &node());
    assert_eq!((first.ports.len(), first.vips.len()), (1, 3));
    assert_eq!(compiler.update(&build(), &node()), Changes::default());
}

#[test]
fn s63_a_changed_service_compiles_no_other() {
    let web = |addr: &str| ("web", service(), vec![endpoint(addr)]);
    let other = || {
        let mut other = service();
        other.cluster_ips = vec![ip("10.96.0.2")];
        ("other", other, vec![endpoint("10.244.2.9")])
    };
    let mut compiler = Compiler::new(Ids::new(64));
    compiler.update(&model([web("10.244.2.1"), other()]), &node());
    let changes = compiler.update(&model([web("10.244.2.2"), other()]), &node());
    let names = changes
        .ports
        .iter()
        .map(|id| &compiler.tables().ports[id].name.service);
    assert_eq!(names.collect::<Vec<_>>(), [&name("web")]);
}

#[test]
fn s63_a_frontend_that_comes_free_goes_to_the_next_who_wants_it() {
    let wanting = |cluster_ip: &str| {
        let mut service = service();
        service.cluster_ips = vec![ip(cluster_ip)];
        service.external_ips = vec![ip("203.0.113.2")];
        service
    };
    let first = || ("a", wanting("10.96.0.1"), vec![]);
    let second = || ("b", wanting("10.96.0.2"), vec![]);
    let mut compiler = Compiler::new(Ids::new(64));
    compiler.update(&model([first(), second()]), &node());
    assert_eq!(compiler.rejections().count(), 1);
    compiler.update(&model([second()]), &node());
    assert_eq!(compiler.rejections().count(), 0);
    let key = FrontendKey::new(ip("203.0.113.2").into(), 80, protocol::TCP);
    let mut ports = compiler.tables().ports.values();
    assert!(ports.any(|port| port.frontends.contains_key(&key)));
    compiler.update(&model([first(), second()]), &node());
    let told: Vec<_> = compiler.rejections().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["Service default/b: 203.0.113.2:80/TCP is taken by default/a"]
    );
}

#[test]
fn s18_another_zone_compiles_everything() {
    let hinted = |addr: &str, zone: &str| {
        let mut endpoint = endpoint(addr);
        endpoint.for_zones = [zone].into_iter().collect();
        endpoint
    };
    let endpoints = vec![hinted("10.244.2.1", "a"), hinted("10.244.2.2", "b")];
    let model = model([("web", service(), endpoints)]);
    let mut compiler = Compiler::new(Ids::new(64));
    let mut chosen = |zone: &str| {
        let zone = Some(zone.to_owned());
        compiler.update(&model, &NodeView { zone, ..node() });
        let named = named(compiler.tables());
        named.into_values().next().unwrap().cluster
    };
    assert_eq!(chosen("a"), [ip("10.244.2.1").into()].into());
    assert_eq!(chosen("b"), [ip("10.244.2.2").into()].into());
}

#[test]
fn s59_a_port_that_returns_finds_its_backends_numbers() {
    let with = |protocols: &[u8]| {
        let mut service = service();
        service.ports = protocols.iter().map(|protocol| port(*protocol)).collect();
        model([("web", service, vec![endpoint("10.244.2.1")])])
    };
    let mut compiler = Compiler::new(Ids::new(64));
    compiler.update(&with(&[protocol::TCP, protocol::UDP]), &node());
    let before = compiler.tables().clone();
    compiler.update(&with(&[protocol::TCP]), &node());
    assert_eq!(compiler.tables().ports.len(), 1);
    let (id, port) = compiler.tables().ports.iter().next().unwrap();
    assert_eq!(before.ports.get(id), Some(port));
}

#[test]
fn s21_the_nodes_own_addresses_are_noted_as_its_own_while_they_are() {
    let mut service = service();
    service.external_ips = vec![ip("203.0.113.2")];
    let model = model([("web", service, vec![endpoint("10.244.2.1")])]);
    let mut compiler = Compiler::new(Ids::new(64));
    let mut flags = |node_port_addresses: &[&str]| {
        let node = NodeView {
            node_port_addresses: node_port_addresses.iter().map(|addr| ip(addr)).collect(),
            ..node()
        };
        let changes = compiler.update(&model, &node);
        let flags = |addr| {
            let vip = compiler.tables().vips.get(&Addr::from(ip(addr)));
            vip.map(|vip| vip.flags)
        };
        let flags = ["192.168.0.7", "203.0.113.2"].map(flags);
        (flags, changes.vips.len())
    };
    let (own, served) = (Some(vip::flags::NODE), Some(vip::flags::SERVED));
    assert_eq!(flags(&["192.168.0.7"]), ([own, served], 3));
    assert_eq!(flags(&["192.168.0.8"]), ([None, served], 2));
    // An external address that is the node's own is the node's own.
    assert_eq!(flags(&["203.0.113.2"]), ([None, own], 2));
    assert_eq!(flags(&["192.168.0.7"]), ([own, served], 2));
}

/// Who may write a slice may name any address; a Service's would lead back here.
#[test]
fn an_endpoint_that_is_a_service_is_rejected_while_it_is() {
    let nobodys = |addr: &str| Endpoint {
        node: None,
        ..endpoint(addr)
    };
    let endpoints = || {
        let addrs = ["10.96.0.2", "203.0.113.2", "203.0.113.3", "10.244.2.1"];
        addrs.map(nobodys).into()
    };
    let web = || ("web", service(), endpoints());
    let other = |number| {
        let mut other = service();
        other.cluster_ips = vec![ip("10.96.0.2")];
        other.external_ips = ["203.0.113.2", "203.0.113.3"].map(ip).into();
        other.ports[0].port = number;
        ("other", other, vec![])
    };
    let mut compiler = Compiler::new(Ids::new(64));
    let mut check = |services: Vec<_>, expected: &[&str]| {
        compiler.update(&model(services), &node());
        let named = named(compiler.tables());
        let web = named
            .into_iter()
            .find(|(key, _)| key.service == name("web"));
        let cluster = web.expect("it is served").1.cluster;
        let expected: BTreeSet<Addr> = expected.iter().map(|addr| ip(addr).into()).collect();
        assert_eq!(cluster, expected);
        compiler
            .rejections()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let all = ["10.96.0.2", "203.0.113.2", "203.0.113.3", "10.244.2.1"];
    assert_eq!(check(vec![web()], &all), [""; 0]);
    let told = [
        "Service default/web: endpoint 10.96.0.2:8000: an address of default/other",
        "Service default/web: endpoint 203.0.113.2:8000: an address of default/other",
        "Service default/web: endpoint 203.0.113.3:8000: an address of default/other",
    ];
    assert_eq!(check(vec![web(), other(8000)], &["10.244.2.1"]), told);
    // At another port an external address is anybody's.
    let rest = ["203.0.113.2", "203.0.113.3", "10.244.2.1"];
    assert_eq!(check(vec![web(), other(80)], &rest), told[..1]);
    assert_eq!(check(vec![web()], &all), [""; 0]);
}

/// A load balancer may give a Service the nodes' own addresses, where its pods listen.
#[test]
fn an_endpoint_of_a_node_may_have_a_services_external_address() {
    let mut service = service();
    service.load_balancer_ips = vec![ip("203.0.113.2")];
    service.ports[0].port = 8000;
    let model = model([("web", service, vec![endpoint("203.0.113.2")])]);
    let (tables, rejections) = compile(&model, &node());
    assert_eq!(rejections, []);
    let port = tables.ports.values().next().expect("it is served");
    assert_eq!(port.cluster.len(), 1);
}
