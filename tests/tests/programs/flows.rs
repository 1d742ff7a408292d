//! What becomes of a connection while tables, clients and backends change.

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::{
    Addr, Phase,
    counter::Outcome::{NewFlow, Redirected, Replied, ToStack},
    wire::tcp::{ACK, FIN, RST, SYN},
};
use lb_tests::programs::{
    Bench, Case, Family, Packet, Pod, Program, Service, Verdict, each_case, each_case_on_the_wire,
};

/// A port in the range of SNAT.
pub(crate) const SNAT_PORT: u16 = 61_234;
pub(crate) const PORT: u16 = 40_000;
pub(crate) const OTHER_PORT: u16 = 40_001;

/// Pods 11, 12 and 13 of this node.
pub(crate) fn three() -> [Pod; 3] {
    [Pod::on(1, 11), Pod::on(1, 12), Pod::on(1, 13)]
}

pub(crate) fn one(number: u8) -> Service {
    Service::new(1, [Pod::on(1, number)])
}

/// Dials as a pod, and checks who gets it.
#[track_caller]
pub(crate) fn check_to(bench: &mut Bench, packet: &Packet, backend: SocketAddr, is_new: bool) {
    let expected = packet.clone().to(backend);
    let counted = if is_new {
        &[NewFlow, ToStack][..]
    } else {
        &[ToStack]
    };
    bench.check(
        Program::PodIngress,
        packet,
        Verdict::Next,
        &expected,
        counted,
    );
}

/// The reply of `backend` reaches the pod as the reply of `vip`.
#[track_caller]
pub(crate) fn check_reply(
    bench: &mut Bench,
    case: Case,
    backend: SocketAddr,
    client: SocketAddr,
    vip: SocketAddr,
) {
    let reply = case.answer(backend, client);
    let expected = reply.clone().from(vip);
    bench.check(
        Program::PodEgress,
        &reply,
        Verdict::Next,
        &expected,
        &[Replied],
    );
}

#[test]
fn client_that_dials_again_on_an_old_connections_ports_starts_afresh() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        check_to(bench, &case.opening(client, vip), backend, true);
        check_reply(bench, case, backend, client, vip);
        for end in [FIN | ACK, RST] {
            let packet = Packet::new(case.transport, end, client, vip);
            check_to(bench, &packet, backend, false);
            assert!(phase(bench) >= Phase::Closing);
            check_to(bench, &case.opening(client, vip), backend, false);
            assert_eq!(phase(bench), Phase::Opening);
            check_reply(bench, case, backend, client, vip);
            assert_eq!(phase(bench), Phase::Established);
        }
    });
}

/// Runs `test` for TCP in both families.
pub(crate) fn each_tcp(test: impl Fn(&mut Bench, Case) + Sync) {
    each_case(|bench, case| {
        if case.is_tcp() {
            test(bench, case);
        }
    });
}

/// Runs `test` for UDP in both families.
pub(crate) fn each_udp(test: impl Fn(&mut Bench, Case) + Sync) {
    each_case(|bench, case| {
        if !case.is_tcp() {
            test(bench, case);
        }
    });
}

/// The phase of the only connection to the first Service.
#[track_caller]
pub(crate) fn phase(bench: &Bench) -> Phase {
    let vips = Family::ALL.map(|family| family.vip(1).into());
    let flows: Vec<_> = bench
        .flows()
        .into_iter()
        .filter(|(_, flow)| vips.contains(&flow.frontend))
        .collect();
    let [(_, flow)] = flows[..] else {
        panic!("one connection: {flows:?}");
    };
    flow.phase()
}

#[test]
fn evicted_record_is_recreated_on_the_same_backend() {
    each_case(|bench, case| {
        let service = Service::new(1, (1..=10).map(|number| Pod::on(1, number)));
        bench.serve(&[service]);
        let ports = 40_000..40_050;
        let first: Vec<_> = ports
            .clone()
            .map(|port| dial(bench, case, port, true))
            .collect();
        bench.forget_connections();
        let later: Vec<_> = ports.map(|port| dial(bench, case, port, false)).collect();
        assert_eq!(first, later);
        assert!(first.iter().collect::<BTreeSet<_>>().len() > 5, "{first:?}");
        // It is as good as any: it stays once it is confirmed.
        let (client, vip) = (case.pod_client(40_000), case.vip(1));
        assert_eq!(bench.kept(), []);
        let reply = Packet::new(case.transport, ACK, first[0], client);
        bench.run_checked(Program::PodEgress, &reply, Verdict::Next, &[Replied]);
        check_to(bench, &case.following(client, vip), first[0], false);
        assert_eq!(bench.kept().len(), 1);
    });
}

/// The backend must see the same port, too.
#[test]
fn evicted_record_of_a_connection_with_snat_is_recreated_on_the_same_port() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[Service::new(1, (1..=10).map(|number| Pod::on(2, number)))]);
        for port in 40_000..40_020 {
            let [first, later] = [true, false].map(|is_first| {
                let (client, node_port) = (case.client(port), case.node_port(1));
                let packet = if is_first {
                    case.opening(client, node_port)
                } else {
                    case.following(client, node_port)
                };
                let counted = [NewFlow, Redirected];
                let run = bench.run_checked(program, &packet, Verdict::Out, &counted);
                bench.forget_records();
                run.ends()
            });
            assert_eq!(first, later);
        }
    });
}

/// Opens a connection to Service 1, by its first or by a later packet; to whom it goes.
#[track_caller]
pub(crate) fn dial(bench: &mut Bench, case: Case, port: u16, is_first: bool) -> SocketAddr {
    let (client, vip) = (case.pod_client(port), case.vip(1));
    let packet = if is_first {
        case.opening(client, vip)
    } else {
        case.following(client, vip)
    };
    let run = bench.run_checked(
        Program::PodIngress,
        &packet,
        Verdict::Next,
        &[NewFlow, ToStack],
    );
    let [src, dst] = run.ends();
    assert_eq!(src, client);
    dst
}

#[test]
fn flow_survives_ten_table_changes() {
    each_tcp(|bench, case| {
        let pods = |numbers: std::ops::RangeInclusive<u8>| {
            Service::new(1, numbers.map(|number| Pod::on(1, number)))
        };
        bench.serve(&[pods(1..=10)]);
        let connections: Vec<_> = (40_000..40_100)
            .map(|port| (port, dial(bench, case, port, true)))
            .collect();
        // Every other one is confirmed, and has its record elsewhere.
        for (port, backend) in connections.iter().step_by(2) {
            let (client, vip) = (case.pod_client(*port), case.vip(1));
            check_reply(bench, case, *backend, client, vip);
            check_to(bench, &case.following(client, vip), *backend, false);
        }
        assert_eq!(bench.kept().len(), 50);
        // Tables know their predecessor. After two changes it takes the pin of the first.
        let changes = [
            4..=13,
            7..=16,
            1..=10,
            11..=20,
            5..=14,
            20..=21,
            1..=1,
            2..=30,
            9..=12,
            1..=10,
        ];
        for numbers in changes {
            bench.serve(&[pods(numbers)]);
            bench.age(1);
            for (port, backend) in &connections {
                let packet = case.following(case.pod_client(*port), case.vip(1));
                check_to(bench, &packet, *backend, false);
            }
        }
        let moved = bench.pins().len();
        assert!((1..=100).contains(&moved), "{moved} pins");
    });
}

/// One that says nothing between the changes is in no table any more, but in the map of flows: the
/// agent pins it.
#[test]
fn idle_flow_survives_ten_table_changes() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        check_to(bench, &case.opening(client, vip), backend, true);
        check_reply(bench, case, backend, client, vip);
        check_to(bench, &case.following(client, vip), backend, false);
        for number in 12..22 {
            bench.serve(&[one(number)]);
        }
        check_to(bench, &case.following(client, vip), backend, false);
        check_reply(bench, case, backend, client, vip);
    });
}

/// An element of the table of backends is somebody else's after a while. A reference to its former
/// owner, of a record or a pin, does not mean the new one.
#[test]
fn backend_id_recycle_no_misdelivery() {
    each_case(|bench, case| {
        let both = |second| [one(11), Service::new(2, second)];
        bench.serve(&both(vec![]));
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        check_to(bench, &case.opening(client, vip), backend, true);
        check_reply(bench, case, backend, client, vip);
        check_to(bench, &case.following(client, vip), backend, false);
        let [(_, flow)] = bench.flows()[..] else {
            panic!("one connection: {:?}", bench.flows());
        };
        let recycled = |bench: &mut Bench| bench.backend(flow.backend.index());
        // The pod is replaced, and so are those of the other Service, until its element is taken.
        let mut node = 2;
        while recycled(bench).is(flow.backend) {
            assert!(node < 255, "there are not that many elements");
            let others: Vec<_> = (1..=50).map(|number| Pod::on(node, number)).collect();
            bench.serve(&[one(12), Service::new(2, others)]);
            node += 1;
        }
        let taken = recycled(bench);
        assert!(taken.addr != flow_addr(backend), "{taken:?}");
        // Its client is one of the Service that it dials, as if its record had been forgotten.
        let next = case.following(client, vip);
        for is_new in [true, false] {
            check_to(bench, &next, case.backend(1, 12), is_new);
        }
        // Nor does a later client get there by the old slot.
        let other = case.opening(case.pod_client(OTHER_PORT), vip);
        check_to(bench, &other, case.backend(1, 12), true);
    });
}

fn flow_addr(backend: SocketAddr) -> Addr {
    backend.ip().into()
}

#[test]
fn connection_of_a_slots_former_owner_is_pinned_and_new_ones_go_to_the_new_owner() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip) = (case.pod_client(PORT), case.vip(1));
        let (old, new) = (case.backend(1, 11), case.backend(1, 12));
        check_to(bench, &case.opening(client, vip), old, true);
        check_reply(bench, case, old, client, vip);

        bench.serve(&[one(12)]);
        check_to(bench, &case.following(client, vip), old, false);
        // At once: the slot forgets its former owner with the next change.
        let [(key, pin)] = bench.kept_pins()[..] else {
            panic!("one pin: {:?}", bench.kept_pins());
        };
        assert_eq!(
            (key.src.to_ip(), key.src_port, pin.source_port),
            (client.ip(), PORT, PORT)
        );
        check_to(
            bench,
            &case.opening(case.pod_client(OTHER_PORT), vip),
            new,
            true,
        );

        // The predecessor of the next table is the new owner.
        bench.serve(&[one(13)]);
        check_to(bench, &case.following(client, vip), old, false);
        check_reply(bench, case, old, client, vip);
        // A new connection on the same ports is not bound by the old one.
        check_to(bench, &case.opening(client, vip), case.backend(1, 13), true);
    });
}

#[test]
fn repeated_syn_stays_with_the_backend_that_has_the_first() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip) = (case.pod_client(PORT), case.vip(1));
        let syn = case.opening(client, vip);
        check_to(bench, &syn, case.backend(1, 11), true);
        let both = Service::new(1, [Pod::on(1, 11).terminating(), Pod::on(1, 12)]);
        bench.serve(&[both]);
        check_to(bench, &syn, case.backend(1, 11), false);
        // One that is gone will not answer any more.
        bench.serve(&[one(12)]);
        check_to(bench, &syn, case.backend(1, 12), true);
    });
}

#[test]
fn terminating_backend_keeps_its_connections_and_gets_no_new_ones() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip) = (case.pod_client(PORT), case.vip(1));
        check_to(bench, &case.opening(client, vip), case.backend(1, 11), true);
        bench.serve(&[Service::new(
            1,
            [Pod::on(1, 11).terminating(), Pod::on(1, 12)],
        )]);
        check_to(
            bench,
            &case.following(client, vip),
            case.backend(1, 11),
            false,
        );
        let other = case.opening(case.pod_client(OTHER_PORT), vip);
        check_to(bench, &other, case.backend(1, 12), true);
    });
}

/// Whoever knows a connection's ports can send a SYN, and must not end it by that.
#[test]
fn forged_syn_leaves_a_connection_with_its_terminating_backend() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        let syn = case.opening(client, vip);
        check_to(bench, &syn, backend, true);
        check_reply(bench, case, backend, client, vip);
        let both = Service::new(1, [Pod::on(1, 11).terminating(), Pod::on(1, 12)]);
        bench.serve(&[both]);
        // Its TCP asks the client whether that is true.
        check_to(bench, &syn, backend, false);
        check_to(bench, &case.following(client, vip), backend, false);
        check_reply(bench, case, backend, client, vip);
        // It is: the client denies the old connection, and tries again.
        let denial = Packet::new(case.transport, RST, client, vip);
        check_to(bench, &denial, backend, false);
        check_to(bench, &syn, case.backend(1, 12), true);
    });
}

#[test]
fn connection_that_has_expired_is_a_new_one() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        let lifetime = Phase::Opening.lifetime_s(case.transport.protocol());
        check_to(bench, &case.opening(client, vip), backend, true);
        bench.age(lifetime - 1);
        check_to(bench, &case.opening(client, vip), backend, false);
        bench.age(lifetime + 1);
        check_to(bench, &case.opening(client, vip), backend, true);
        assert_eq!(phase(bench), Phase::Opening);
    });
}

/// The node's connection tracking may call a segment invalid; that does not unmask its sender.
#[test]
fn s45_a_segment_that_fits_no_window_still_comes_from_the_frontend() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        check_to(bench, &case.opening(client, vip), backend, true);
        for flags in [
            SYN | ACK,
            ACK,
            RST,
            FIN | ACK,
            0,
            SYN | FIN | RST,
            RST | ACK,
        ] {
            let reply = Packet::new(case.transport, flags, backend, client);
            let masked = reply.clone().from(vip);
            bench.check(
                Program::PodEgress,
                &reply,
                Verdict::Next,
                &masked,
                &[Replied],
            );
        }
    });
}

/// A client that has dialled a Service dials the pod behind it directly, with the same port: the
/// replies are the pod's own.
#[test]
fn reused_five_tuple_direct_after_vip() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        let backend = case.backend(1, 11);
        let inside = (
            case.pod_client(PORT),
            case.vip(1),
            Program::PodIngress,
            Program::PodEgress,
        );
        let outside = |there| {
            let (client, node_port) = (case.client(PORT), case.node_port(1));
            (client, node_port, there, Program::WireEgress)
        };
        let [tc, xdp] = [Program::WireIngress, Program::Xdp].map(outside);
        for (client, dialled, there, back) in [inside, tc, xdp] {
            let first = case.opening(client, dialled);
            bench.run_checked(there, &first, Verdict::Next, &[NewFlow, ToStack]);
            let reply = case.answer(backend, client);
            let masked = reply.clone().from(dialled);
            bench.check(back, &reply, Verdict::Next, &masked, &[Replied]);

            // In the midst of a connection nothing is known of a new one.
            if case.is_tcp() {
                let stray = case.following(client, backend);
                bench.check(there, &stray, Verdict::Next, &stray, &[]);
                bench.check(back, &reply, Verdict::Next, &masked, &[Replied]);
            }
            let direct = case.opening(client, backend);
            bench.check(there, &direct, Verdict::Next, &direct, &[]);
            bench.check(back, &reply, Verdict::Next, &reply, &[]);
        }
        assert_eq!(bench.flows(), []);
    });
}
