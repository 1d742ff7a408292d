//! Connections whose replies could not be told apart, and records that make room for others.

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::{
    Phase,
    counter::Outcome::{NewFlow, Redirected, Replied, ToStack},
    wire::tcp::{ACK, FIN, RST},
};
use lb_tests::programs::{
    Bench, Case, Packet, Pod, Program, Service, Verdict, each_case, each_case_on_the_wire,
};

use crate::flows::{PORT, SNAT_PORT, check_reply, check_to, dial, each_tcp, one, phase, three};

#[test]
fn one_client_port_to_two_services_of_the_same_pods_gets_replies_that_can_be_told_apart() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, three()), Service::new(2, three())]);
        let (first, second) = (case.vip(1), case.vip(2));
        // The ports at which both Services choose the same pod.
        let mut conflicts = 0;
        for port in 40_000..40_032 {
            let client = case.pod_client(port);
            let chosen = dial(bench, case, port, true);
            let pins = bench.pins().len();
            let packet = case.opening(client, second);
            let counted = [NewFlow, ToStack];
            let run = bench.run_checked(Program::PodIngress, &packet, Verdict::Next, &counted);
            // Another backend, or as a last resort another port.
            let [seen, other] = run.ends();
            assert_ne!((client, chosen), (seen, other));
            conflicts += bench.pins().len() - pins;

            for _ in 0..2 {
                check_to(bench, &case.following(client, first), chosen, false);
                let next = case.following(client, second);
                let expected = next.clone().from(seen).to(other);
                bench.check(
                    Program::PodIngress,
                    &next,
                    Verdict::Next,
                    &expected,
                    &[ToStack],
                );
                check_reply(bench, case, chosen, client, first);
                let reply = case.answer(other, seen);
                let expected = reply.clone().from(second).to(client);
                bench.check(
                    Program::PodEgress,
                    &reply,
                    Verdict::Next,
                    &expected,
                    &[Replied],
                );
            }
        }
        assert!((3..=24).contains(&conflicts), "{conflicts} conflicts of 32");
    });
}

#[test]
fn one_client_port_to_two_services_of_one_remote_pod_gets_two_source_ports() {
    each_case_on_the_wire(|bench, case, program| {
        let pod = || [Pod::on(2, 13)];
        bench.serve(&[Service::new(1, pod()), Service::new(2, pod())]);
        let (client, backend) = (case.client(SNAT_PORT), case.backend(2, 13));
        let mut sources = Vec::new();
        for number in [1, 2] {
            let packet = case.opening(client, case.node_port(number));
            let run = bench.run_checked(program, &packet, Verdict::Out, &[NewFlow, Redirected]);
            let [source, dst] = run.ends();
            assert_eq!((source.ip(), dst), (case.family.node(1), backend));
            assert!(bench.config().is_snat_port(source.port()), "{source}");
            sources.push((number, source));
        }
        assert_eq!(sources[0].1.port(), SNAT_PORT);
        assert_ne!(sources[0].1, sources[1].1);
        for (number, source) in sources {
            let next = case.following(client, case.node_port(number));
            let run = bench.run_checked(program, &next, Verdict::Out, &[Redirected]);
            assert_eq!(run.ends(), [source, backend]);
            let reply = case.answer(backend, source);
            let run = bench.run_checked(program, &reply, Verdict::Out, &[Redirected]);
            assert_eq!(run.ends(), [case.node_port(number), client]);
        }
    });
}

#[test]
fn two_clients_with_one_port_get_two_source_ports() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let sources: BTreeSet<_> = (1..=20)
            .map(|number| {
                let client = (case.family.client(number), SNAT_PORT).into();
                let packet = case.opening(client, case.node_port(1));
                let counted = [NewFlow, Redirected];
                let run = bench.run_checked(program, &packet, Verdict::Out, &counted);
                let [source, _] = run.ends();
                source
            })
            .collect();
        assert_eq!(sources.len(), 20);
    });
}

/// Opens a connection from the same port to a second Service with the same backend; its port, as
/// the backend sees it, is another one.
fn open_second(bench: &mut Bench, case: Case, client: SocketAddr) -> SocketAddr {
    let backend = case.backend(1, 11);
    let second = case.opening(client, case.vip(2));
    let counted = &[NewFlow, ToStack];
    let run = bench.run_checked(Program::PodIngress, &second, Verdict::Next, counted);
    let [seen, to] = run.ends();
    assert_eq!((seen.ip(), to), (client.ip(), backend));
    assert!(bench.config().is_snat_port(seen.port()), "{seen}");
    assert_eq!(run.frame, second.from(seen).to(backend).bytes());
    seen
}

#[test]
fn one_client_port_two_vips_one_backend() {
    each_case(|bench, case| {
        bench.serve(&[one(11), Service::new(2, [Pod::on(1, 11)])]);
        let (client, backend) = (case.pod_client(PORT), case.backend(1, 11));
        check_to(bench, &case.opening(client, case.vip(1)), backend, true);
        let seen = open_second(bench, case, client);
        let next = case.following(client, case.vip(2));
        let expected = next.clone().from(seen).to(backend);
        bench.check(
            Program::PodIngress,
            &next,
            Verdict::Next,
            &expected,
            &[ToStack],
        );
        let reply = case.answer(backend, seen);
        let expected = reply.clone().from(case.vip(2)).to(client);
        bench.check(
            Program::PodEgress,
            &reply,
            Verdict::Next,
            &expected,
            &[Replied],
        );
        check_reply(bench, case, backend, client, case.vip(1));
    });
}

/// SYNs from nobody are answered by the backend, and would hold a port each for two minutes.
#[test]
fn flows_that_nobody_confirms_do_not_hold_all_ports_of_snat() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (node_port, backend) = (case.node_port(1), case.backend(2, 13));
        // A few are confirmed.
        let confirmed: Vec<_> = (40_000..40_020)
            .map(|port| {
                let client = case.client(port);
                let run = bench.run(program, &case.opening(client, node_port).bytes());
                let [source, _] = run.ends();
                bench.run(program, &case.answer(backend, source).bytes());
                let next = case.following(client, node_port);
                bench.run_checked(program, &next, Verdict::Out, &[Redirected]);
                (next, [source, backend])
            })
            .collect();
        let ports = bench.config().snat_port_first..=bench.config().snat_port_last;
        for spoofed in 0..2 * ports.len() as u16 {
            let client = (case.family.client(spoofed), 10_000).into();
            bench.run(program, &case.opening(client, node_port).bytes());
        }
        let taken = bench.flows().len();
        assert!(taken > ports.len() * 4 / 5, "{taken} of {}", ports.len());
        bench.age(1);
        // However many there are, a new client finds a port, and those that are confirmed keep theirs.
        for port in 50_000..50_200 {
            let packet = case.opening(case.client(port), node_port);
            bench.run_checked(program, &packet, Verdict::Out, &[NewFlow, Redirected]);
        }
        assert!(bench.flows().len() <= ports.len());
        for (next, ends) in confirmed {
            let run = bench.run_checked(program, &next, Verdict::Out, &[Redirected]);
            assert_eq!(run.ends(), ends);
        }
    });
}

#[test]
fn record_that_has_expired_makes_room_for_another_client() {
    each_case(|bench, case| {
        bench.serve(&[one(11), Service::new(2, [Pod::on(1, 11)])]);
        let (client, backend) = (case.pod_client(PORT), case.backend(1, 11));
        check_to(bench, &case.opening(client, case.vip(1)), backend, true);
        bench.age(Phase::Opening.lifetime_s(case.transport.protocol()) + 1);
        check_to(bench, &case.opening(client, case.vip(2)), backend, true);
        check_reply(bench, case, backend, client, case.vip(2));
    });
}

#[test]
fn record_of_a_closed_connection_makes_room_for_another_client_at_once() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11), Service::new(2, [Pod::on(1, 11)])]);
        let (client, backend) = (case.pod_client(PORT), case.backend(1, 11));
        let segment = |flags, src, dst| Packet::new(case.transport, flags, src, dst);
        check_to(bench, &case.opening(client, case.vip(1)), backend, true);
        check_reply(bench, case, backend, client, case.vip(1));
        check_to(
            bench,
            &segment(FIN | ACK, client, case.vip(1)),
            backend,
            false,
        );
        assert_eq!(phase(bench), Phase::Closing);
        bench.run(
            Program::PodEgress,
            &segment(FIN | ACK, backend, client).bytes(),
        );
        assert_eq!(phase(bench), Phase::Closed);
        check_to(bench, &case.opening(client, case.vip(2)), backend, true);
        check_reply(bench, case, backend, client, case.vip(2));
    });
}

#[test]
fn record_of_a_connection_with_a_reset_is_kept_for_a_while() {
    each_tcp(|bench, case| {
        bench.serve(&[1, 2, 3].map(|number| Service::new(number, [Pod::on(1, 11)])));
        let (client, backend) = (case.pod_client(PORT), case.backend(1, 11));
        let reset = Packet::new(case.transport, RST, client, case.vip(1));
        check_to(bench, &case.opening(client, case.vip(1)), backend, true);
        check_reply(bench, case, backend, client, case.vip(1));
        check_to(bench, &reset, backend, false);
        assert_eq!(phase(bench), Phase::Reset);
        open_second(bench, case, client);
        // Whoever goes on did not accept it.
        check_to(bench, &case.following(client, case.vip(1)), backend, false);
        assert_eq!(phase(bench), Phase::Established);
        check_to(bench, &reset, backend, false);
        bench.age(Phase::Reset.lifetime_s(case.transport.protocol()) + 1);
        check_to(bench, &case.opening(client, case.vip(3)), backend, true);
    });
}
