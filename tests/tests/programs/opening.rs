//! What becomes of connections that open when there is no room for more.

use lb_common::flow::opening::WAYS;
use lb_tests::programs::{Bench, Case, Pod, Program, Service, Verdict, on_bench_with_opening};

/// So few that all are soon full.
const BUCKETS: u32 = 4;
/// All records.
const ROOM: usize = BUCKETS as usize * WAYS;
/// More than there is room for.
const CLIENTS: u16 = 200;
/// Many more.
const FLOOD: u16 = 2000;

/// The outcome of the first packet of a pod's connection to the Service.
fn open(bench: &mut Bench, case: Case, port: u16) -> Verdict {
    let first = case.opening(case.pod_client(port), case.vip(1));
    bench.run(Program::PodIngress, &first.bytes()).verdict
}

/// Ports of the clients that have a record.
fn clients(bench: &Bench) -> Vec<u16> {
    let flows = bench.flows().into_iter();
    let mut ports: Vec<_> = flows.map(|(_, flow)| flow.client_port).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn newcomers_displace_those_who_came_first() {
    on_bench_with_opening("newcomers", BUCKETS, |bench| {
        for case in Case::all() {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
            for port in 20_000..20_000 + FLOOD {
                assert_eq!(open(bench, case, port), Verdict::Next, "{case:?}");
                // Whoever has come a tick later has come later.
                bench.age_opening(1);
            }
            let there = clients(bench);
            assert_eq!(there.len(), ROOM, "{case:?}");
            // Chance fills a bucket with eight newer ones before long.
            let oldest = 20_000 + FLOOD - 8 * ROOM as u16;
            assert!(there[0] > oldest, "{case:?}: {there:?}");
            assert_eq!(there[ROOM - 1], 20_000 + FLOOD - 1);
        }
    });
}

/// A flow that nobody answers stays as long as its client goes on, and others are there to go first.
#[test]
fn flow_in_use_outlives_those_that_are_not() {
    const IN_USE: usize = 4;
    on_bench_with_opening("in-use", BUCKETS, |bench| {
        for case in Case::all() {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
            for port in 0..CLIENTS {
                open(bench, case, 10_000 + port);
            }
            let mut in_use = clients(bench);
            assert_eq!(in_use.len(), ROOM, "it is full");
            in_use.truncate(IN_USE);
            // A moment later, and all of them are as old.
            bench.age_opening(10);
            for &port in &in_use {
                open(bench, case, port);
            }
            for port in 0..IN_USE as u16 {
                assert_eq!(open(bench, case, 20_000 + port), Verdict::Next);
            }
            let now = clients(bench);
            let newcomers = now.iter().filter(|port| **port >= 20_000).count();
            assert_eq!(
                (newcomers, now.len()),
                (IN_USE, ROOM),
                "others went for them"
            );
            let gone: Vec<_> = in_use.iter().filter(|port| !now.contains(port)).collect();
            assert!(gone.is_empty(), "{case:?}: {gone:?} of {in_use:?} are gone");
        }
    });
}
