//! ICMP errors about translated packets are translated back, at every hook where their flow is.

use std::net::{IpAddr, SocketAddr};

use lb_common::counter::Outcome::{Redirected, Replied, ToStack, UnknownFlow};
use lb_tests::programs::{
    Bench, Case, Family, IcmpError, Packet, Pod, Program, Service, Verdict, each_case,
};

use crate::flows::each_udp;

/// A port that a SNATed client keeps, because it lies in the range of SNAT.
const KEPT_PORT: u16 = 61_234;
const OTHER_PORT: u16 = 40_000;

/// A router between a client and a backend.
fn router(family: Family) -> IpAddr {
    family.client(200)
}

/// Every kind of error of a family.
fn errors(family: Family) -> Vec<IcmpError> {
    let of = IcmpError::too_big(family, 1280);
    vec![
        of,
        IcmpError::unreachable(family),
        IcmpError::time_exceeded(family),
    ]
}

/// Checks what becomes of every error about `sent` that `from` reports to its sender: one about
/// `expected`, from `expected_from`.
#[track_caller]
fn check(
    bench: &mut Bench,
    program: Program,
    (from, sent): (IpAddr, &Packet),
    verdict: Verdict,
    (expected_from, expected): (IpAddr, &Packet),
    counted: lb_common::counter::Outcome,
) {
    let family = if from.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    for error in errors(family) {
        for quoted in [8, 40] {
            let frame = error.about(from, sent, quoted);
            let (run, moved) = bench.run_counted(program, &frame);
            let what = format!("{program:?} on {error:?} about {sent:?}");
            assert_eq!(run.verdict, verdict, "{what}: {moved:?}");
            let routed = verdict == Verdict::Out && program != Program::PodIngress;
            let mut expected = error.about(expected_from, expected, quoted);
            if routed {
                IcmpError::route(&mut expected);
            }
            if verdict == Verdict::Out && program == Program::PodIngress {
                IcmpError::bounce(&mut expected);
            }
            assert!(
                run.frame == expected,
                "{what} became\n{:02x?}, not\n{expected:02x?}",
                run.frame
            );
            let counted = [lb_common::counter::Outcome::Seen, counted];
            let moved: Vec<_> = moved.into_iter().map(|(_, outcome, _)| outcome).collect();
            assert!(
                counted.iter().all(|outcome| moved.contains(outcome)) && moved.len() == 2,
                "{what}: {moved:?}"
            );
        }
    }
}

fn remote(case: Case) -> SocketAddr {
    case.backend(2, 13)
}

/// What a router says about a packet on its way to a backend reaches the client as said about the
/// Service; and so does what the backend's own host says.
#[test]
fn icmp_embedded_clusterip() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, vip) = (case.pod_client(OTHER_PORT), case.vip(1));
        let dialled = case.opening(client, vip);
        bench.run(Program::PodIngress, &dialled.bytes());
        let sent = dialled.clone().to(remote(case));
        let router = router(case.family);
        for (from, expected_from) in [(router, router), (remote(case).ip(), vip.ip())] {
            let told = (expected_from, &dialled);
            check(
                bench,
                Program::PodEgress,
                (from, &sent),
                Verdict::Next,
                told,
                Replied,
            );
        }
    });
}

#[test]
fn error_about_a_reply_reaches_the_backend_that_sent_it() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, vip) = (case.pod_client(OTHER_PORT), case.vip(1));
        bench.run(Program::PodIngress, &case.opening(client, vip).bytes());
        let sent = case.answer(remote(case), client);
        let seen = sent.clone().from(vip);
        let told = (client.ip(), &sent);
        check(
            bench,
            Program::PodIngress,
            (client.ip(), &seen),
            Verdict::Next,
            told,
            ToStack,
        );
    });
}

#[test]
fn client_outside_hears_of_its_packet_to_a_local_backend() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
        let (client, node_port) = (case.client(OTHER_PORT), case.node_port(1));
        let backend = case.backend(1, 11);
        let dialled = case.opening(client, node_port);
        bench.run(Program::WireIngress, &dialled.bytes());
        let sent = dialled.clone().to(backend);
        let told = (node_port.ip(), &dialled);
        check(
            bench,
            Program::WireEgress,
            (backend.ip(), &sent),
            Verdict::Next,
            told,
            Replied,
        );

        let sent = case.answer(backend, client);
        let seen = sent.clone().from(node_port);
        let router = router(case.family);
        let told = (router, &sent);
        check(
            bench,
            Program::WireIngress,
            (router, &seen),
            Verdict::Next,
            told,
            ToStack,
        );
    });
}

/// An error about a packet that the node sent from its own address, for a client outside. It comes from
/// what the client dialled: the router that says so may be on the way to the client, too, and would
/// drop what comes from its own address.
#[test]
fn icmp_error_to_snat_address() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, node_port) = (case.client(KEPT_PORT), case.node_port(1));
        let dialled = case.opening(client, node_port);
        bench.run(Program::WireIngress, &dialled.bytes());
        let sent = dialled.clone().from(case.snat(KEPT_PORT)).to(remote(case));
        let router = router(case.family);
        for from in [router, remote(case).ip()] {
            let told = (node_port.ip(), &dialled);
            check(
                bench,
                Program::WireIngress,
                (from, &sent),
                Verdict::Out,
                told,
                Redirected,
            );
        }
    });
}

/// An error about a reply of a backend elsewhere comes to it from the node's address: a router of
/// the client's network may not be known there.
#[test]
fn error_about_the_reply_of_a_remote_backend_comes_from_the_node() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, node_port) = (case.client(KEPT_PORT), case.node_port(1));
        bench.run(
            Program::WireIngress,
            &case.opening(client, node_port).bytes(),
        );
        let sent = case.answer(remote(case), case.snat(KEPT_PORT));
        let seen = case.answer(node_port, client);
        let told = (case.snat(KEPT_PORT).ip(), &sent);
        let router = router(case.family);
        check(
            bench,
            Program::WireIngress,
            (router, &seen),
            Verdict::Out,
            told,
            Redirected,
        );
    });
}

#[test]
fn pod_that_serves_itself_tells_itself_about_errors() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
        let (client, vip) = ((case.family.pod(1, 11), KEPT_PORT).into(), case.vip(1));
        let dialled = case.opening(client, vip);
        bench.run(Program::PodIngress, &dialled.bytes());
        // It serves what comes from the Service's address …
        let got = dialled
            .clone()
            .from((vip.ip(), KEPT_PORT))
            .to(case.backend(1, 11));
        let told = (vip.ip(), &dialled);
        check(
            bench,
            Program::PodIngress,
            (client.ip(), &got),
            Verdict::Out,
            told,
            Redirected,
        );
        // … and as a client, it is answered from there.
        let reply = case.answer(vip, client);
        let sent = case.answer(case.backend(1, 11), (vip.ip(), KEPT_PORT).into());
        let told = (vip.ip(), &sent);
        check(
            bench,
            Program::PodIngress,
            (client.ip(), &reply),
            Verdict::Out,
            told,
            Redirected,
        );
    });
}

#[test]
fn error_about_a_connection_to_a_service_that_there_is_not_is_dropped() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)]), Service::new(2, [])]);
        let client = case.pod_client(OTHER_PORT);
        for number in [1, 2] {
            let vip = case.vip(number);
            let reply = case.answer(vip, client);
            let told = (client.ip(), &reply);
            check(
                bench,
                Program::PodIngress,
                (client.ip(), &reply),
                Verdict::Drop,
                told,
                UnknownFlow,
            );
        }
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn errors_of_others_pass_untouched() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let sent = case.opening(case.pod_client(OTHER_PORT), remote(case));
        check_untouched(bench, case, &Program::ALL, &sent);
    });
}

/// Checks that what a router says about `sent` is left as it is.
#[track_caller]
fn check_untouched(bench: &mut Bench, case: Case, programs: &[Program], sent: &Packet) {
    for error in errors(case.family) {
        let frame = error.about(router(case.family), sent, 8);
        for program in programs {
            let run = bench.run(*program, &frame);
            assert_eq!(run.verdict, Verdict::Next, "{program:?}");
            assert!(run.frame == frame, "{program:?}");
        }
    }
}

/// Its socket would take it for what has become of its next datagram.
#[test]
fn client_whose_datagrams_go_to_another_backend_is_told_nothing_of_the_last_one() {
    each_udp(|bench, case| {
        let datagram = case.following(case.pod_client(OTHER_PORT), case.vip(1));
        for number in [13, 14] {
            bench.serve(&[Service::new(1, [Pod::on(2, number)])]);
            bench.run(Program::PodIngress, &datagram.bytes());
        }
        let sent = datagram.to(remote(case));
        check_untouched(bench, case, &[Program::PodEgress], &sent);
    });
}
