//! Packets that nobody ought to send, and connections whose backend is gone.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    DatapathConfig, config,
    counter::Outcome::{BackendGone, Deferred, Martian, NewFlow, Redirected, ToStack},
    wire::tcp::{ACK, FIN, RST},
};
use lb_tests::programs::{
    Answer, Bench, Case, Family, Packet, Pod, Program, Service, Verdict, each_case,
    each_case_on_the_wire, on_own_bench,
};

use crate::flows::{OTHER_PORT, PORT, check_reply, check_to, one};

/// Addresses that no packet of a wire may come from.
fn martians(family: Family) -> &'static [&'static str] {
    match family {
        Family::V4 => &[
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "239.255.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ],
        Family::V6 => &["::", "::1", "ff02::1", "ff0e::5"],
    }
}

fn at(addr: &str, port: u16) -> SocketAddr {
    let addr: IpAddr = addr.parse().expect("an address");
    (addr, port).into()
}

#[test]
fn a_packet_from_nobody_in_particular_does_not_reach_a_service() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[
            Service::new(1, [Pod::on(1, 11)]),
            Service::new(2, [Pod::on(2, 13)]),
        ]);
        for martian in martians(case.family) {
            for number in [1, 2] {
                for dst in [case.node_port(number), case.vip(number)] {
                    let packet = case.opening(at(martian, PORT), dst);
                    bench.check(program, &packet, Verdict::Drop, &packet, &[Martian]);
                }
            }
        }
        assert_eq!(bench.flows(), []);
        // Packets for others are theirs; so is what pods send to the pods of their link.
        for martian in martians(case.family)
            .iter()
            .filter(|addr| !at(addr, 1).ip().is_loopback())
        {
            let packet = case.opening(at(martian, PORT), case.backend(1, 11));
            bench.check(program, &packet, Verdict::Next, &packet, &[]);
        }
    });
}

#[test]
fn neighbours_on_the_link_are_clients() {
    each_case_on_the_wire(|bench, case, program| {
        let neighbour = match case.family {
            Family::V4 => at("169.254.3.4", PORT),
            Family::V6 => at("fe80::1234", PORT),
        };
        bench.serve(&[one(11)]);
        let packet = case.opening(neighbour, case.node_port(1));
        let expected = packet.clone().to(case.backend(1, 11));
        bench.check(
            program,
            &packet,
            Verdict::Next,
            &expected,
            &[NewFlow, ToStack],
        );
    });
}

#[test]
fn a_packet_from_a_service_or_the_node_itself_opens_nothing() {
    each_case_on_the_wire(|bench, case, program| {
        let services = [
            Service::new(1, [Pod::on(1, 11)]),
            Service::new(2, [Pod::on(2, 13)]),
        ];
        bench.serve(&services.map(Service::external));
        let node = |port| (case.family.node(1), port).into();
        for from in [
            case.vip(2),
            case.vip(1),
            case.external(2),
            case.node_port(2),
            node(PORT),
        ] {
            for dst in [
                case.node_port(1),
                case.node_port(2),
                case.external(1),
                case.vip(2),
            ] {
                let packet = case.opening(from, dst);
                bench.check(program, &packet, Verdict::Drop, &packet, &[Martian]);
            }
        }
        assert_eq!(bench.flows(), []);
        // Of a pod it is no wonder: it dials itself, or its node.
        let packet = case.opening(node(PORT), case.vip(1));
        let expected = packet.clone().to(case.backend(1, 11));
        let counted = &[NewFlow, ToStack];
        bench.check(
            Program::PodIngress,
            &packet,
            Verdict::Next,
            &expected,
            counted,
        );
    });
}

/// Load balancers that are the nodes themselves give Services the nodes' addresses.
#[test]
fn another_host_that_has_a_services_external_address_is_a_client() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[one(11).external(), Service::new(2, [Pod::on(2, 13)])]);
        let other = (case.family.external(1), PORT).into();
        let packet = case.opening(other, case.node_port(1));
        let expected = packet.clone().to(case.backend(1, 11));
        bench.check(
            program,
            &packet,
            Verdict::Next,
            &expected,
            &[NewFlow, ToStack],
        );
        let packet = case.opening(other, case.node_port(2));
        bench.run_checked(program, &packet, Verdict::Out, &[NewFlow, Redirected]);
    });
}

#[test]
fn the_kernel_answers_for_the_nodes_own_addresses() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        let nobodys_port = (case.family.node(1), 80).into();
        for packet in [
            case.opening(case.client(PORT), nobodys_port),
            case.following(case.client(PORT), nobodys_port),
        ] {
            for program in [Program::Xdp, Program::WireIngress, Program::PodIngress] {
                bench.check(program, &packet, Verdict::Next, &packet, &[]);
            }
        }
    });
}

/// Runs `test` for every case with programs that reset connections whose backend is gone.
fn each_case_with_resets(name: &str, test: impl Fn(&mut Bench, Case) + Sync + Send) {
    let config = DatapathConfig {
        flags: config::flags::RESET_VANISHED,
        ..DatapathConfig::DEFAULT
    };
    on_own_bench(name, config, |bench| {
        for case in Case::all() {
            bench.clear();
            test(bench, case);
        }
    });
}

#[test]
fn s58_a_connection_whose_backend_is_gone_is_reset_if_asked_for() {
    each_case_with_resets("resets", |bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, old) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        check_to(bench, &case.opening(client, vip), old, true);
        check_reply(bench, case, old, client, vip);
        // One that terminates serves what it has.
        bench.serve(&[Service::new(
            1,
            [Pod::on(1, 11).terminating(), Pod::on(1, 12)],
        )]);
        check_to(bench, &case.following(client, vip), old, false);

        for pods in [vec![Pod::on(1, 12)], vec![Pod::on(1, 13)], vec![]] {
            let is_served = !pods.is_empty();
            bench.serve(&[Service::new(1, pods)]);
            let next = case.following(client, vip);
            if case.is_tcp() {
                for _ in 0..2 {
                    let run =
                        bench.run_checked(Program::PodIngress, &next, Verdict::Out, &[BackendGone]);
                    assert_eq!(run.answer(), Answer::refusal(case, client, vip));
                }
                // A RST is not answered.
                let reset = Packet::new(case.transport, RST, client, vip);
                let counted = &[BackendGone];
                bench.check(Program::PodIngress, &reset, Verdict::Drop, &reset, counted);
            } else if is_served {
                let (run, _) = bench.run_counted(Program::PodIngress, &next.bytes());
                assert_eq!(run.verdict, Verdict::Next, "a datagram goes anywhere");
            }
        }
    });
}

#[test]
fn s58_a_new_connection_on_the_ports_of_one_that_was_reset_gets_another_backend() {
    each_case_with_resets("reset-again", |bench, case| {
        if !case.is_tcp() {
            return;
        }
        bench.serve(&[one(11)]);
        let (client, vip, old) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        check_to(bench, &case.opening(client, vip), old, true);
        check_reply(bench, case, old, client, vip);
        bench.serve(&[one(12)]);
        let fin = Packet::new(case.transport, FIN | ACK, client, vip);
        bench.run_checked(Program::PodIngress, &fin, Verdict::Out, &[BackendGone]);
        let new = case.backend(1, 12);
        check_to(bench, &case.opening(client, vip), new, true);
        check_to(bench, &case.following(client, vip), new, false);
        check_to(
            bench,
            &case.opening(case.pod_client(OTHER_PORT), vip),
            new,
            true,
        );
    });
}

#[test]
fn s58_a_client_outside_is_reset_by_the_address_that_it_dialled() {
    each_case_with_resets("resets-outside", |bench, case| {
        if !case.is_tcp() {
            return;
        }
        for (gone, left) in [
            (Pod::on(1, 11), Pod::on(2, 13)),
            (Pod::on(2, 13), Pod::on(1, 11)),
        ] {
            bench.clear();
            bench.serve(&[Service::new(1, [gone])]);
            let (client, node_port) = (case.client(PORT), case.node_port(1));
            bench.run(
                Program::WireIngress,
                &case.opening(client, node_port).bytes(),
            );
            bench.serve(&[Service::new(1, [left])]);
            let next = case.following(client, node_port);
            bench.check(Program::Xdp, &next, Verdict::Next, &next, &[Deferred]);
            let counted = &[BackendGone];
            let run = bench.run_checked(Program::WireIngress, &next, Verdict::Out, counted);
            assert_eq!(run.answer(), Answer::refusal(case, client, node_port));
        }
    });
}
