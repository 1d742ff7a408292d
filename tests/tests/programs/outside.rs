//! A client outside of the cluster dials a NodePort.

use lb_common::{
    Hop,
    counter::Outcome::{
        self, Deferred, NewFlow, Redirected, Rejected, Replied, ToStack, TooBig, TtlExceeded,
        Unroutable,
    },
    wire::tcp::{ACK, FIN},
};
use lb_tests::programs::{
    Answer, Bench, Case, Family, GATEWAY_MAC, NODE2_MAC, Packet, Pod, Program, Service, Transport,
    UPLINK_MAC, Verdict, each_case, each_case_on_the_wire, on_bench,
};

/// A port that a SNATed client keeps, because it lies in the range of SNAT.
const KEPT_PORT: u16 = 61_234;
/// A port that it does not keep.
const OTHER_PORT: u16 = 40_000;

/// What leaves by the uplink towards the neighbour `mac`, if the routing table was asked for it: XDP writes the Ethernet
/// header itself, tc leaves it to the kernel.
fn sent(program: Program, packet: Packet, mac: [u8; 6]) -> Packet {
    let packet = packet.routed();
    match program {
        Program::Xdp => packet.macs(mac, UPLINK_MAC),
        _ => packet,
    }
}

/// The same with a later packet: both write the header.
fn sent_again(packet: Packet, mac: [u8; 6]) -> Packet {
    packet.routed().macs(mac, UPLINK_MAC)
}

#[test]
fn local_backend_gets_the_packet_by_the_stack_with_the_clients_address() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
        let (client, node_port) = (case.client(OTHER_PORT), case.node_port(1));
        let backend = case.backend(1, 11);

        let first = case.opening(client, node_port);
        let expected = first.clone().to(backend);
        bench.check(
            program,
            &first,
            Verdict::Next,
            &expected,
            &[NewFlow, ToStack],
        );

        let reply = case.answer(backend, client);
        let expected = reply.clone().from(node_port);
        bench.check(
            Program::WireEgress,
            &reply,
            Verdict::Next,
            &expected,
            &[Replied],
        );

        let next = case.following(client, node_port);
        let expected = next.clone().to(backend);
        bench.check(program, &next, Verdict::Next, &expected, &[ToStack]);
    });
}

#[test]
fn remote_backend_gets_the_packet_at_once_from_the_nodes_address() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, node_port) = (case.client(KEPT_PORT), case.node_port(1));
        let (backend, snat) = (case.backend(2, 13), case.snat(KEPT_PORT));
        let translated = |packet: &Packet| packet.clone().from(snat).to(backend);

        let first = case.opening(client, node_port);
        let expected = sent(program, translated(&first), NODE2_MAC);
        bench.check(
            program,
            &first,
            Verdict::Out,
            &expected,
            &[NewFlow, Redirected],
        );

        let reply = case.answer(backend, snat);
        let expected = reply.clone().from(node_port).to(client);
        let expected = sent(program, expected, GATEWAY_MAC);
        bench.check(program, &reply, Verdict::Out, &expected, &[Redirected]);

        for flags in [ACK, FIN | ACK, ACK] {
            let next = Packet::new(case.transport, flags, client, node_port);
            let expected = sent_again(translated(&next), NODE2_MAC);
            bench.check(program, &next, Verdict::Out, &expected, &[Redirected]);
        }
        // tc lets the kernel see now and then that the neighbour is in use.
        bench.age(1);
        let next = case.following(client, node_port);
        let expected = sent(program, translated(&next), NODE2_MAC);
        bench.check(program, &next, Verdict::Out, &expected, &[Redirected]);
    });
}

type Sent = fn(Packet, [u8; 6]) -> Packet;

#[test]
fn xdp_and_tc_go_on_with_each_others_connections() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, node_port) = (case.client(KEPT_PORT), case.node_port(1));
        let (backend, snat) = (case.backend(2, 13), case.snat(KEPT_PORT));
        for (program, sent, counted) in [
            (
                Program::WireIngress,
                (|packet, mac| sent(Program::WireIngress, packet, mac)) as Sent,
                &[NewFlow, Redirected][..],
            ),
            (Program::Xdp, sent_again, &[Redirected]),
            (Program::WireIngress, sent_again, &[Redirected]),
        ] {
            let packet = case.following(client, node_port);
            let expected = sent(packet.clone().from(snat).to(backend), NODE2_MAC);
            bench.check(program, &packet, Verdict::Out, &expected, counted);
            let reply = case.answer(backend, snat);
            let expected = sent(reply.clone().from(node_port).to(client), GATEWAY_MAC);
            bench.check(program, &reply, Verdict::Out, &expected, &[Redirected]);
        }
    });
}

#[test]
fn snat_takes_a_port_of_its_range_and_keeps_it() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, node_port) = (case.client(OTHER_PORT), case.node_port(1));
        let backend = case.backend(2, 13);

        let first = case.opening(client, node_port);
        let run = bench.run_checked(program, &first, Verdict::Out, &[NewFlow, Redirected]);
        let [snat, dst] = run.ends();
        assert_eq!((snat.ip(), dst), (case.family.node(1), backend));
        assert!(bench.config().is_snat_port(snat.port()), "{snat}");
        let expected = sent(program, first.from(snat).to(backend), NODE2_MAC);
        assert_eq!(run.frame, expected.bytes());

        let next = case.following(client, node_port);
        let expected = sent_again(next.clone().from(snat).to(backend), NODE2_MAC);
        bench.check(program, &next, Verdict::Out, &expected, &[Redirected]);

        let reply = case.answer(backend, snat);
        let expected = reply.clone().from(node_port).to(client);
        let expected = sent(program, expected, GATEWAY_MAC);
        bench.check(program, &reply, Verdict::Out, &expected, &[Redirected]);
    });
}

#[test]
fn reply_to_an_address_that_was_no_source_of_it_passes_untouched() {
    each_case_on_the_wire(|bench, case, program| {
        open_remote(bench, case, program);
        let stranger = (case.family.node(2), KEPT_PORT).into();
        let reply = case.answer(case.backend(2, 13), stranger);
        bench.check(program, &reply, Verdict::Next, &reply, &[]);
    });
}

pub(crate) fn open_remote(bench: &mut Bench, case: Case, program: Program) {
    bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
    let first = case.opening(case.client(KEPT_PORT), case.node_port(1));
    bench.run_checked(program, &first, Verdict::Out, &[NewFlow, Redirected]);
}

#[test]
fn udp_checksum_that_is_none_stays_none() {
    on_bench(|bench| {
        let case = Case {
            family: Family::V4,
            transport: Transport::Udp,
        };
        bench.serve(&[
            Service::new(1, [Pod::on(1, 11)]),
            Service::new(2, [Pod::on(2, 13)]),
        ]);
        let client = case.client(KEPT_PORT);
        let packet = case.opening(client, case.node_port(1)).without_checksum();
        let counts = [[NewFlow, ToStack], [ToStack; 2]];
        for (program, counted) in Program::WIRE.into_iter().zip(counts) {
            let expected = packet.clone().to(case.backend(1, 11));
            bench.check(program, &packet, Verdict::Next, &expected, &counted);
        }
        let reply = case.answer(case.backend(1, 11), client).without_checksum();
        let expected = reply.clone().from(case.node_port(1));
        bench.check(
            Program::WireEgress,
            &reply,
            Verdict::Next,
            &expected,
            &[Replied],
        );

        let packet = case.opening(client, case.node_port(2)).without_checksum();
        let counts = [[NewFlow, Redirected], [Redirected; 2]];
        for (program, counted) in Program::WIRE.into_iter().zip(counts) {
            let expected = packet
                .clone()
                .from(case.snat(KEPT_PORT))
                .to(case.backend(2, 13));
            let expected = sent_again(expected, NODE2_MAC);
            bench.check(program, &packet, Verdict::Out, &expected, &counted);
        }
    });
}

/// Runs XDP, which leaves it to tc, and then tc, on a packet whose sender is told something. The
/// first of its flow, then another one.
#[track_caller]
fn check_told(bench: &mut Bench, packets: [Packet; 2], outcome: Outcome, answer: Answer) {
    let [first, next] = packets;
    for (packet, counted) in [(first, &[NewFlow, Deferred][..]), (next, &[Deferred])] {
        bench.check(Program::Xdp, &packet, Verdict::Next, &packet, counted);
        let run = bench.run_checked(Program::WireIngress, &packet, Verdict::Out, &[outcome]);
        assert_eq!(run.answer(), answer);
    }
}

#[test]
fn sender_of_a_packet_at_the_end_of_its_life_is_told_by_the_address_that_it_dialled() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, node_port) = (case.client(KEPT_PORT), case.node_port(1));
        let packets = [
            case.opening(client, node_port).ttl(1),
            case.following(client, node_port).ttl(1),
        ];
        let answer = Answer::TimeExceeded {
            from: node_port.ip(),
            to: client.ip(),
            about: [client.port(), node_port.port()],
        };
        check_told(bench, packets, TtlExceeded, answer);
    });
}

#[test]
fn sender_of_a_packet_too_large_for_the_way_is_told_what_would_fit() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, node_port) = (case.client(KEPT_PORT), case.node_port(1));
        let packets = [
            case.opening(client, node_port).payload(1600),
            case.following(client, node_port).payload(1600),
        ];
        let answer = Answer::TooBig {
            from: node_port.ip(),
            to: client.ip(),
            about: [client.port(), node_port.port()],
            size: 1500,
        };
        check_told(bench, packets, TooBig, answer);
    });
}

#[test]
fn packet_that_just_fits_is_sent_at_once() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let packet = case.opening(case.client(KEPT_PORT), case.node_port(1));
        let headers = packet.clone().payload(0).bytes().len() - 14;
        let packet = packet.payload(1500 - headers);
        let expected = packet
            .clone()
            .from(case.snat(KEPT_PORT))
            .to(case.backend(2, 13));
        let expected = sent(program, expected, NODE2_MAC);
        bench.check(
            program,
            &packet,
            Verdict::Out,
            &expected,
            &[NewFlow, Redirected],
        );
    });
}

#[test]
fn xdp_leaves_a_packet_untouched_whose_neighbour_is_unknown_and_tc_sends_it() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(3, 13)])]);
        let packet = case.opening(case.client(KEPT_PORT), case.node_port(1));
        bench.check(Program::Xdp, &packet, Verdict::Next, &packet, &[Deferred]);
        assert_eq!(bench.flows(), [], "what is not served is no connection");
        let expected = packet
            .clone()
            .from(case.snat(KEPT_PORT))
            .to(case.backend(3, 13))
            .routed();
        bench.check(
            Program::WireIngress,
            &packet,
            Verdict::Out,
            &expected,
            &[NewFlow, Redirected],
        );
        let next = case.following(case.client(KEPT_PORT), case.node_port(1));
        bench.check(Program::Xdp, &next, Verdict::Next, &next, &[Deferred]);
    });
}

/// The route has changed to a neighbour that nobody has asked for yet: XDP must not go on with the
/// old one, and tc must be the one that asks, which makes the kernel resolve it.
#[test]
fn connection_leaves_a_next_hop_that_is_not_the_routes_any_more() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(3, 13)])]);
        let (client, node_port) = (case.client(KEPT_PORT), case.node_port(1));
        let backend = case.backend(3, 13);
        bench.run(
            Program::WireIngress,
            &case.opening(client, node_port).bytes(),
        );
        let uplink = bench.flows()[0].1.forward.ifindex;
        bench.remember_hop(Hop::neighbour(uplink, &NODE2_MAC, &UPLINK_MAC));

        let packet = case.following(client, node_port);
        let expected = packet.clone().from(case.snat(KEPT_PORT)).to(backend);
        let to_old = sent(Program::Xdp, expected.clone(), NODE2_MAC);
        bench.check(Program::Xdp, &packet, Verdict::Out, &to_old, &[Redirected]);
        bench.age(1);
        bench.check(Program::Xdp, &packet, Verdict::Next, &packet, &[Deferred]);
        let by_tc = sent(Program::WireIngress, expected, NODE2_MAC);
        bench.check(
            Program::WireIngress,
            &packet,
            Verdict::Out,
            &by_tc,
            &[Redirected],
        );
    });
}

#[test]
fn backend_behind_the_tunnel_is_served_by_tc_from_the_tunnels_address() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(4, 13)])]);
        let (client, node_port) = (case.client(KEPT_PORT), case.node_port(1));
        let backend = case.backend(4, 13);
        let snat = (case.family.tunnel(), KEPT_PORT).into();

        let first = case.opening(client, node_port);
        bench.check(Program::Xdp, &first, Verdict::Next, &first, &[Deferred]);
        let expected = first.clone().from(snat).to(backend).routed();
        bench.check(
            Program::WireIngress,
            &first,
            Verdict::Out,
            &expected,
            &[NewFlow, Redirected],
        );

        let reply = case.answer(backend, snat);
        let expected = reply.clone().from(node_port).to(client).routed();
        bench.check(
            Program::Tunnel,
            &reply,
            Verdict::Out,
            &expected,
            &[Redirected],
        );
    });
}

#[test]
fn backend_that_cannot_be_reached_costs_the_packet() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(5, 13)])]);
        let packet = case.opening(case.client(KEPT_PORT), case.node_port(1));
        bench.check(Program::Xdp, &packet, Verdict::Next, &packet, &[Deferred]);
        bench.check(
            Program::WireIngress,
            &packet,
            Verdict::Drop,
            &packet,
            &[Unroutable],
        );
    });
}

#[test]
fn s41_service_without_endpoints_answers_that_nobody_listens() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [])]);
        let packet = case.opening(case.client(OTHER_PORT), case.node_port(1));
        bench.check(Program::Xdp, &packet, Verdict::Next, &packet, &[Deferred]);
        for (program, dst) in [
            (Program::WireIngress, case.node_port(1)),
            (Program::PodIngress, case.node_port(1)),
            (Program::PodIngress, case.vip(1)),
        ] {
            let client = case.client(OTHER_PORT);
            let packet = case.opening(client, dst);
            let run = bench.run_checked(program, &packet, Verdict::Out, &[Rejected]);
            assert_eq!(run.answer(), Answer::refusal(case, client, dst));
        }
    });
}

/// A packet socket that somebody listens at has the kernel copy the packet, without what XDP says about
/// it: tc takes it for one that dials the backend itself.
#[test]
fn flow_that_xdp_has_opened_goes_on_where_tc_is_not_told_of_it() {
    each_case(|bench, case| {
        bench.put_xdp_first();
        bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
        let (client, node_port) = (case.client(OTHER_PORT), case.node_port(1));
        let backend = case.backend(1, 11);
        let first = case.opening(client, node_port);
        bench.run_checked(Program::Xdp, &first, Verdict::Next, &[NewFlow, ToStack]);
        let untold = first.to(backend);
        bench.check(Program::WireIngress, &untold, Verdict::Next, &untold, &[]);
        let reply = case.answer(backend, client);
        let masked = reply.clone().from(node_port);
        bench.check(
            Program::WireEgress,
            &reply,
            Verdict::Next,
            &masked,
            &[Replied],
        );
    });
}
