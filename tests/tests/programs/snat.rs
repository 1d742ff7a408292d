//! Ports of SNAT: how many there are, and of which address.

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::{
    DatapathConfig,
    counter::Outcome::{NewFlow, NoSnatPort, Redirected, Seen},
};
use lb_tests::programs::{
    Bench, Case, Family, GATEWAY_MAC, NODE2_MAC, Pod, Program, Service, UPLINK_MAC, Verdict,
    on_bench, on_own_bench,
};

/// Ports of the range that the nodes' own addresses share with other senders.
const RANGE: usize = 65_535 - 61_000 + 1;

/// Opens a connection of client `number` from outside to a Service, and goes on once it is answered;
/// where the backend sees it from, if there was a port.
fn dial(bench: &mut Bench, case: Case, number: u16, service: u8) -> Option<SocketAddr> {
    let client = (case.family.client(number), 1000 + number % 50_000).into();
    let node_port = case.node_port(service);
    let packet = case.opening(client, node_port);
    let (run, moved) = bench.run_counted(Program::Xdp, &packet.bytes());
    match run.verdict {
        Verdict::Out => {
            let [source, backend] = run.ends();
            bench.run(Program::Xdp, &case.answer(backend, source).bytes());
            bench.run(Program::Xdp, &case.following(client, node_port).bytes());
            Some(source)
        }
        Verdict::Drop => {
            let reasons = moved.iter().map(|(_, outcome, _)| *outcome);
            assert!(reasons.eq([Seen, NoSnatPort]), "{moved:?}");
            None
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ports_run_out_for_a_backend_only_when_nearly_all_are_in_use() {
    on_bench(|bench| {
        for case in Case::all().filter(|case| case.is_tcp()) {
            bench.clear();
            bench.serve(&[
                Service::new(1, [Pod::on(2, 13)]),
                Service::new(2, [Pod::on(2, 14)]),
            ]);
            let mut sources = BTreeSet::new();
            let mut first_failure = None;
            for number in 1..=2 * RANGE as u16 {
                match dial(bench, case, number, 1) {
                    Some(source) => assert!(sources.insert(source), "{source} twice"),
                    None => {
                        first_failure.get_or_insert(sources.len());
                    }
                }
            }
            let first_failure = first_failure.expect("there are not so many ports");
            assert!(first_failure > RANGE * 9 / 10, "{first_failure} of {RANGE}");
            assert!(
                sources.len() > RANGE * 98 / 100,
                "{} of {RANGE}",
                sources.len()
            );
            assert!(
                sources
                    .iter()
                    .all(|source| bench.config().is_snat_port(source.port()))
            );
            // Another backend has all of its own.
            for number in 1..=1000 {
                assert!(dial(bench, case, number, 2).is_some(), "client {number}");
            }
        }
    });
}

/// Runs `test` for every case with programs that SNAT from an address of its own: the node's, since
/// the bench has no other.
fn each_case_with_an_address(name: &str, test: impl Fn(&mut Bench, Case) + Sync) {
    let own = Family::ALL.map(|family| family.node(1).into());
    let config = own
        .into_iter()
        .fold(DatapathConfig::DEFAULT, DatapathConfig::with_snat_address);
    on_own_bench(name, config, |bench| {
        for case in Case::all() {
            bench.clear();
            test(bench, case);
        }
    });
}

#[test]
fn an_address_of_its_own_lets_clients_keep_their_ports() {
    each_case_with_an_address("own-address", |bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let backend = case.backend(2, 13);
        for port in [1024, 40_000, 61_234, 65_535] {
            let (client, node_port) = (case.client(port), case.node_port(1));
            let there = case.opening(client, node_port);
            let expected = there.clone().from(case.snat(port)).to(backend).routed();
            let expected = expected.macs(NODE2_MAC, UPLINK_MAC);
            let counted = &[NewFlow, Redirected];
            bench.check(Program::Xdp, &there, Verdict::Out, &expected, counted);
            let back = case.answer(backend, case.snat(port));
            let expected = back.clone().from(node_port).to(client).routed();
            let expected = expected.macs(GATEWAY_MAC, UPLINK_MAC);
            for program in Program::WIRE {
                bench.check(program, &back, Verdict::Out, &expected, &[Redirected]);
            }
        }
        // A port that only privileged processes have is not taken.
        let there = case.opening(case.client(1023), case.node_port(1));
        let run = bench.run_checked(Program::Xdp, &there, Verdict::Out, &[NewFlow, Redirected]);
        assert!(run.ends()[0].port() >= 1024);
        // Nor is a pod's own connection given another port than before.
        let config = *bench.config();
        assert_eq!(
            config.ports(case.family.pod(1, 1).into(), false).first,
            61_000
        );
    });
}

#[test]
fn replies_to_the_nodes_own_sockets_pass_whatever_their_port() {
    each_case_with_an_address("own-sockets", |bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let there = case.opening(case.client(40_000), case.node_port(1));
        bench.run_checked(Program::Xdp, &there, Verdict::Out, &[NewFlow, Redirected]);
        for (src, dst) in [
            // Another port than the connection's, another backend, another address of the node.
            (case.backend(2, 13), case.snat(40_001)),
            (case.backend(2, 14), case.snat(40_000)),
            (case.backend(2, 13), (case.family.tunnel(), 40_000).into()),
        ] {
            let reply = case.answer(src, dst);
            for program in [Program::Xdp, Program::WireIngress, Program::Tunnel] {
                bench.check(program, &reply, Verdict::Next, &reply, &[]);
            }
        }
    });
}

/// Lets clients from nobody take all ports, until one has that of `taken`.
fn flood_until_taken(bench: &mut Bench, case: Case, taken: SocketAddr) {
    let node_port = case.node_port(1);
    for number in 100..100 + 8 * RANGE as u16 {
        let client = (case.family.client(number), 1000 + number % 50_000).into();
        let run = bench.run(Program::Xdp, &case.opening(client, node_port).bytes());
        if run.verdict == Verdict::Out && run.ends()[0] == taken {
            return;
        }
        if number % 2000 == 0 {
            bench.age(1);
        }
    }
    panic!("nobody takes {taken}");
}

/// A flood of SYNs takes ports from connections whose clients have not gone on yet. One that does go on
/// knows of no other port, nor does its backend.
#[test]
fn connection_that_goes_on_takes_its_port_back_from_one_that_has_not() {
    on_bench(|bench| {
        for (case, program) in Case::all()
            .filter(|case| case.is_tcp())
            .flat_map(|case| [(case, Program::Xdp), (case, Program::WireIngress)])
        {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
            let (client, node_port) = (case.client(40_000), case.node_port(1));
            let run = bench.run(program, &case.opening(client, node_port).bytes());
            let [source, backend] = run.ends();
            bench.run(program, &case.answer(backend, source).bytes());
            bench.age(1);
            flood_until_taken(bench, case, source);

            // Who has it now may go on as well, for a moment.
            let third = case.following(client, node_port);
            let (run, _) = bench.run_counted(program, &third.bytes());
            assert_eq!(run.verdict, Verdict::Drop, "{case:?}");
            bench.age(1);
            let run = bench.run(program, &third.bytes());
            assert_eq!(run.verdict, Verdict::Out, "{case:?}");
            assert_eq!(run.ends(), [source, backend], "{case:?}");
        }
    });
}

/// Opens a connection of a client from outside that nobody else is; where the backend sees it from.
fn open(bench: &mut Bench, case: Case, program: Program, number: u16) -> SocketAddr {
    let client = (case.family.client(number), 1000).into();
    let packet = case.opening(client, case.node_port(1));
    let run = bench.run(program, &packet.bytes());
    assert_eq!(run.verdict, Verdict::Out, "{case:?} {client}");
    run.ends()[0]
}

/// How long it takes others depends on how many there are, and on nobody's luck. Where it took too long
/// all the same, the pin says whose the port was: nobody waits until the other one has had time to go on.
#[test]
fn connection_has_as_long_as_all_others_to_go_on_and_takes_its_port_back_if_it_is_late() {
    const PORTS: u16 = 64;
    let config = DatapathConfig {
        snat_port_first: u16::MAX - PORTS + 1,
        snat_port_last: u16::MAX,
        ..DatapathConfig::DEFAULT
    };
    on_own_bench("late", config, |bench| {
        for (case, program) in Case::all()
            .filter(|case| case.is_tcp())
            .flat_map(|case| [(case, Program::Xdp), (case, Program::WireIngress)])
        {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
            let mut others = 1..;
            let mut other = |bench: &mut Bench| {
                let number = others.next().expect("clients");
                open(bench, case, program, number)
            };
            while bench.flows().len() < PORTS.into() {
                bench.age(1);
                other(bench);
            }
            bench.age(1);
            let (client, node_port) = (case.client(40_000), case.node_port(1));
            let opening = case.opening(client, node_port);
            let [source, backend] = bench.run(program, &opening.bytes()).ends();
            bench.run(program, &case.answer(backend, source).bytes());
            bench.age(1);
            for _ in 0..PORTS / 2 {
                assert_ne!(other(bench), source, "{case:?}");
            }
            let is_taken = (0..2 * PORTS).any(|_| {
                bench.age(1);
                other(bench) == source
            });
            assert!(is_taken, "{case:?}");

            let run = bench.run(program, &case.following(client, node_port).bytes());
            assert_eq!(run.verdict, Verdict::Out, "{case:?}");
            assert_eq!(run.ends(), [source, backend], "{case:?}");
        }
    });
}
