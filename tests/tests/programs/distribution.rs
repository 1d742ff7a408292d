//! New connections spread evenly over the backends of a Service.

use std::collections::BTreeMap;

use lb_tests::programs::{Bench, Case, Family, Pod, Program, Service, Verdict, each_case};

const CONNECTIONS: u16 = 30_000;
/// Those of them that are remembered at the same time.
const SOME: usize = 1000;

/// Deals out [`CONNECTIONS`] new connections of `clients` clients, who use as many consecutive
/// source ports each, and checks that every one of `backends` gets its share to within 5 %.
#[track_caller]
fn check_shares(bench: &mut Bench, case: Case, clients: u16, backends: u8) {
    let pods = (1..=backends).map(|number| Pod::on(1, number));
    bench.serve(&[Service::new(1, pods)]);
    bench.forget_connections();
    let (mut shares, mut opened) = (BTreeMap::new(), 0);
    for client in 0..clients {
        let ports = 32_768..32_768 + CONNECTIONS / clients;
        for client in ports.map(|port| (case.family.client(client), port).into()) {
            let packet = case.opening(client, case.node_port(1));
            let run = bench.run(Program::Xdp, &packet.bytes());
            assert_eq!(run.verdict, Verdict::Next);
            let [_, backend] = run.ends();
            *shares.entry(backend).or_insert(0_u32) += 1;
            opened += 1;
            // So few at once that none displaces another one.
            if opened % SOME == 0 {
                assert_eq!(bench.flows().len(), SOME);
                bench.forget_connections();
            }
        }
    }
    assert_eq!(opened, usize::from(CONNECTIONS));
    assert_eq!(shares.len(), usize::from(backends));
    // In whole numbers: 285 of 300 is within 5 %.
    let (all, backends) = (u32::from(CONNECTIONS), u32::from(backends));
    for (backend, share) in shares {
        assert!(
            (share * backends).abs_diff(all) * 100 <= 5 * all,
            "{case:?}, {clients} clients, {backends} backends: {share} for {backend}"
        );
    }
}

/// Two clients that connect again and again, as load generators and proxies do: each takes one
/// source port after the other.
///
/// A hundred backends get 300 connections each, of which chance alone would make a standard
/// deviation of 5.8 %, and 15 to 20 % for the one that is worst off:
/// `docs/decisions/0003-distribution.md` has the figures.
#[test]
fn s19_every_backend_gets_its_share_of_busy_clients_connections() {
    each_case(|bench, case| {
        for backends in [3, 10, 100] {
            check_shares(bench, case, 2, backends);
        }
    });
}

/// Every connection is of a client of its own, all from the same port: here chance reigns.
#[test]
fn s19_every_backend_gets_its_share_of_many_clients() {
    each_case(|bench, case| {
        // Neither the family nor the protocol has a way of its own here: two of four will do.
        if case.is_tcp() != (case.family == Family::V4) {
            return;
        }
        for backends in [3, 10] {
            check_shares(bench, case, CONNECTIONS, backends);
        }
    });
}
