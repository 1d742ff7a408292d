//! Whom a connection gets where the table alone does not say: by affinity, by chance, by SCTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytemuck::Zeroable as _;
use lb_common::{
    PinKey,
    counter::Outcome::{NewFlow, Redirected, Replied, ToStack},
    flow::opening_pins::WAYS,
    protocol,
};
use lb_tests::programs::{
    BACKEND_PORT, Bench, Case, Family, NODE2_MAC, Packet, Pod, Program, Service, Transport,
    UPLINK_MAC, Verdict, each_case, each_case_on_the_wire, on_bench,
};

use crate::flows::{check_reply, check_to, each_tcp, each_udp, three};

/// Opens a connection of a pod, and says who gets it.
#[track_caller]
fn open(bench: &mut Bench, case: Case, port: u16) -> SocketAddr {
    let packet = case.opening(case.pod_client(port), case.vip(1));
    let counted = &[NewFlow, ToStack];
    let run = bench.run_checked(Program::PodIngress, &packet, Verdict::Next, counted);
    let [_, backend] = run.ends();
    backend
}

#[test]
fn s49_every_connection_of_a_client_gets_one_backend_and_stays_there() {
    each_case(|bench, case| {
        let service = || Service::new(1, three()).with_affinity(600);
        bench.serve(&[service()]);
        let first = open(bench, case, 40_000);
        for port in 40_001..40_030 {
            assert_eq!(open(bench, case, port), first);
        }
        // Without the affinity, the connections are where they are.
        bench.serve(&[Service::new(1, three())]);
        for port in 40_000..40_030 {
            let client = case.pod_client(port);
            check_to(bench, &case.following(client, case.vip(1)), first, false);
            check_reply(bench, case, first, client, case.vip(1));
        }
        bench.serve(&[service()]);
        assert_eq!(open(bench, case, 40_031), first);
    });
}

#[test]
fn s49_a_client_outside_is_bound_over_xdp_and_tc_alike_but_not_beyond_its_policy() {
    each_case_on_the_wire(|bench, case, program| {
        let pods = || [Pod::on(1, 11), Pod::on(2, 13), Pod::on(2, 14)];
        bench.serve(&[Service::new(1, pods()).with_affinity(600)]);
        let backend_of = |bench: &mut Bench, program, port| {
            let packet = case.opening(case.client(port), case.node_port(1));
            let (run, _) = bench.run_counted(program, &packet.bytes());
            let [_, backend] = run.ends();
            backend
        };
        // One at the other hook has met the same client before.
        let other = match program {
            Program::Xdp => Program::WireIngress,
            _ => Program::Xdp,
        };
        let first = backend_of(bench, other, 40_000);
        for port in 40_001..40_010 {
            assert_eq!(backend_of(bench, program, port), first);
        }
        bench.serve(&[Service::new(1, pods()).with_affinity(600).local()]);
        let local = case.backend(1, 11);
        for port in 40_010..40_020 {
            assert_eq!(backend_of(bench, program, port), local);
        }
    });
}

#[test]
fn s19_random_backends_get_their_share_and_keep_their_connections() {
    const CONNECTIONS: u16 = 300;
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, three()).by_chance()]);
        let ports = 40_000..40_000 + CONNECTIONS;
        let chosen: Vec<SocketAddr> = ports.clone().map(|port| open(bench, case, port)).collect();
        let mut shares = BTreeMap::new();
        for backend in &chosen {
            *shares.entry(*backend).or_insert(0) += 1;
        }
        // Five standard deviations of 8 each.
        let is_fair = |share: &i32| (60..=140).contains(share);
        assert!(
            shares.len() == 3 && shares.values().all(is_fair),
            "{shares:?}"
        );
        for (port, backend) in ports.zip(chosen) {
            let client = case.pod_client(port);
            check_to(bench, &case.following(client, case.vip(1)), backend, false);
        }
    });
}

#[test]
fn s19_a_repeated_syn_stays_with_the_random_backend_that_has_answered_it() {
    each_tcp(|bench, case| {
        bench.serve(&[Service::new(1, three()).by_chance()]);
        for port in 40_000..40_020 {
            let (client, vip) = (case.pod_client(port), case.vip(1));
            let backend = open(bench, case, port);
            // The answer gets lost beyond us.
            check_reply(bench, case, backend, client, vip);
            check_to(bench, &case.opening(client, vip), backend, false);
        }
    });
}

#[test]
fn s58_a_pinned_connection_whose_record_is_forgotten_goes_on_where_it_was() {
    each_tcp(|bench, case| {
        bench.serve(&[
            Service::new(1, three()).by_chance(),
            Service::new(2, [Pod::on(1, 11)]),
            Service::new(3, [Pod::on(1, 11)]),
        ]);
        let backends: Vec<_> = (40_000..40_020)
            .map(|port| open(bench, case, port))
            .collect();
        // And one whose port is not its own.
        let client = case.pod_client(41_000);
        let first = case.opening(client, case.vip(2));
        check_to(bench, &first, case.backend(1, 11), true);
        let second = case.opening(client, case.vip(3));
        let counted = &[NewFlow, ToStack];
        let run = bench.run_checked(Program::PodIngress, &second, Verdict::Next, counted);
        let [seen, _] = run.ends();
        assert_ne!(seen, client);

        bench.forget_records();
        for (port, backend) in (40_000..).zip(backends) {
            let next = case.following(case.pod_client(port), case.vip(1));
            check_to(bench, &next, backend, true);
            check_to(bench, &next, backend, false);
        }
        let next = case.following(client, case.vip(3));
        let expected = next.clone().from(seen).to(case.backend(1, 11));
        bench.check(
            Program::PodIngress,
            &next,
            Verdict::Next,
            &expected,
            counted,
        );
    });
}

/// Ports from which a client's pins have one place: of all places that with the most.
fn neighbours(bench: &Bench, case: Case) -> Vec<u16> {
    let (client, vip) = (case.pod_client(0), case.vip(1));
    let place = |src_port| {
        bench.place_of_pin(&PinKey {
            src: client.ip().into(),
            dst: vip.ip().into(),
            src_port,
            dst_port: vip.port(),
            protocol: protocol::UDP,
            ..PinKey::zeroed()
        })
    };
    let mut ports: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for port in 1024..=u16::MAX {
        let place = place(port);
        ports.entry(place.bucket).or_default().push(port);
    }
    let most = ports.into_values().max_by_key(Vec::len);
    most.expect("ports")
}

/// Nobody confirms what only a client sends, so its pin stays among those that newcomers displace.
#[test]
fn pin_of_datagrams_that_nobody_answers_stays_as_long_as_they_come() {
    each_udp(|bench, case| {
        let mut ports = neighbours(bench, case).into_iter();
        let mut next = || ports.next().expect("a port");
        // One that is not with the slot's owner, where it would be found without its pin.
        let (first, backend) = loop {
            let port = next();
            bench.serve(&[Service::new(1, three())]);
            let owner = open(bench, case, port);
            bench.clear();
            bench.serve(&[Service::new(1, three()).by_chance()]);
            let backend = open(bench, case, port);
            if backend != owner {
                break (port, backend);
            }
        };
        let datagram = case.following(case.pod_client(first), case.vip(1));
        for _ in 0..2 * WAYS {
            open(bench, case, next());
            bench.age(1);
            check_to(bench, &datagram, backend, false);
        }
    });
}

/// `PINS` makes room for others. The pin of the time before the connection was confirmed is there still.
#[test]
fn pin_of_a_confirmed_connection_that_was_forgotten_is_noted_again() {
    each_tcp(|bench, case| {
        bench.serve(&[Service::new(1, three()).by_chance()]);
        let backends: Vec<_> = (40_000..40_020)
            .map(|port| open(bench, case, port))
            .collect();
        let go_on = |bench: &mut Bench| {
            for (port, backend) in (40_000..).zip(&backends) {
                let (client, vip) = (case.pod_client(port), case.vip(1));
                check_reply(bench, case, *backend, client, vip);
                check_to(bench, &case.following(client, vip), *backend, false);
            }
        };
        go_on(bench);
        assert_eq!(bench.kept_pins().len(), backends.len());
        bench.forget_kept_pins();
        bench.age(1);
        go_on(bench);
        // Those that are with their slot's owner need none.
        assert_ne!(bench.kept_pins(), []);
    });
}

/// Makes a datagram a packet of SCTP, whose ports are in the same place. Nothing behind them is read.
fn sctp(packet: &Packet) -> Vec<u8> {
    let mut frame = packet.bytes();
    let (at, is_v4) = if frame[12..14] == [8, 0] {
        (23, true)
    } else {
        (20, false)
    };
    frame[at] = protocol::SCTP;
    if is_v4 {
        // The header's checksum covers the protocol: a plain sum, with its carry.
        let field = u16::from_be_bytes([frame[24], frame[25]]);
        let sum = u32::from(!field) + u32::from(protocol::SCTP - protocol::UDP);
        let sum = (sum & 0xffff) + (sum >> 16);
        let field = !u16::try_from(sum).expect("folded");
        frame[24..26].copy_from_slice(&field.to_be_bytes());
    }
    // Tag and checksum of SCTP: words that no address changes.
    let l4 = if is_v4 { 34 } else { 54 };
    frame[l4 + 4..l4 + 8].copy_from_slice(&[1, 2, 3, 4]);
    frame
}

#[test]
fn s20_sctp_is_carried_by_addresses_alone() {
    on_bench(|bench| {
        for family in Family::ALL {
            bench.forget_connections();
            let case = Case {
                family,
                transport: Transport::Udp,
            };
            bench.serve(&[Service::new(1, [Pod::on(1, 11)]).sctp()]);
            let (client, vip) = (
                case.pod_client(40_000),
                (family.vip(1), BACKEND_PORT).into(),
            );
            let there = case.opening(client, vip);
            let (run, moved) = bench.run_counted(Program::PodIngress, &sctp(&there));
            assert_eq!(run.verdict, Verdict::Next, "{moved:?}");
            assert_eq!(run.frame, sctp(&there.to(case.backend(1, 11))));
            let back = case.answer(case.backend(1, 11), client);
            let (run, moved) = bench.run_counted(Program::PodEgress, &sctp(&back));
            assert!(
                moved.iter().any(|(_, outcome, _)| *outcome == Replied),
                "{moved:?}"
            );
            assert_eq!(run.frame, sctp(&back.from(vip)));

            // From outside to another node: SNAT keeps the port, too.
            bench.serve(&[Service::new(1, [Pod::on(2, 13)]).sctp()]);
            let client = case.client(40_000);
            let there = case.opening(client, vip);
            let (run, moved) = bench.run_counted(Program::Xdp, &sctp(&there));
            assert!(
                moved.iter().any(|(_, outcome, _)| *outcome == Redirected),
                "{moved:?}"
            );
            let backend = case.backend(2, 13);
            let expected = there.from(case.snat(40_000)).to(backend).routed();
            assert_eq!(run.frame, sctp(&expected.macs(NODE2_MAC, UPLINK_MAC)));
            let back = case.answer(backend, case.snat(40_000));
            let (run, _) = bench.run_counted(Program::WireIngress, &sctp(&back));
            assert_eq!(run.verdict, Verdict::Out);
            assert_eq!(run.frame, sctp(&back.from(vip).to(client).routed()));
        }
    });
}
