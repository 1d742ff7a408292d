//! Where flows are in one array: what becomes of them when it is full.

use lb_common::counter::Outcome;
use lb_tests::programs::{Bench, Case, Pod, Program, Service, Verdict, on_bench_with_table};

/// So few that all are soon full.
const BUCKETS: u32 = 4;
/// Records of a bucket.
const WAYS: usize = 8;
/// More than there is room for.
const CLIENTS: u16 = 200;

/// The outcome of the first packet of a pod's connection to the Service.
fn open(bench: &mut Bench, case: Case, port: u16) -> Verdict {
    let first = case.opening(case.pod_client(port), case.vip(1));
    bench.run(Program::PodIngress, &first.bytes()).verdict
}

/// Opens a connection and goes on with it, if there is room.
fn establish(bench: &mut Bench, case: Case, port: u16) -> bool {
    if open(bench, case, port) != Verdict::Next {
        return false;
    }
    let record = |bench: &Bench| {
        let flows = bench.flows().into_iter();
        let mut of_port = flows.filter(|(_, flow)| flow.client_port == port);
        of_port.next().map(|(key, _)| key)
    };
    let key = record(bench).expect("a record of what was let through");
    let answer = case.answer(
        (case.family.pod(1, 11), key.src_port).into(),
        (case.family.pod(1, 99), key.dst_port).into(),
    );
    bench.run_checked(
        Program::PodEgress,
        &answer,
        Verdict::Next,
        &[Outcome::Replied],
    );
    let next = case.following(case.pod_client(port), case.vip(1));
    bench.run_checked(
        Program::PodIngress,
        &next,
        Verdict::Next,
        &[Outcome::ToStack],
    );
    true
}

#[test]
fn flood_displaces_flows_that_open_and_none_that_goes_on() {
    on_bench_with_table("table", BUCKETS, |bench| {
        for case in Case::all() {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
            let established: Vec<_> = (1..=CLIENTS)
                .filter(|port| establish(bench, case, 10_000 + port))
                .collect();
            let room = BUCKETS as usize * WAYS;
            assert_eq!(bench.kept().len(), established.len());
            assert!(
                established.len() > room / 2 && established.len() <= room,
                "{} of {room}",
                established.len()
            );

            let before = records(bench);
            for port in 0..2000 {
                let _ = open(bench, case, 20_000 + port);
            }
            let after = records(bench);
            assert_eq!(before, after, "{case:?}");

            // Whose record goes makes room.
            let first = case.opening(
                case.pod_client(10_000 + established[0]),
                case.backend(1, 11),
            );
            bench.run(Program::PodIngress, &first.bytes());
            assert_eq!(records(bench).len(), established.len() - 1);
        }
    });
}

/// A flow that nobody answers stays as long as its client goes on, and others are there to go first.
#[test]
fn flow_in_use_outlives_those_that_are_not() {
    const IN_USE: u16 = 4;
    on_bench_with_table("in-use", BUCKETS, |bench| {
        for case in Case::all() {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
            for port in 0..CLIENTS {
                open(bench, case, 10_000 + port);
            }
            assert_eq!(bench.flows().len(), BUCKETS as usize * WAYS, "it is full");
            let mut ports: Vec<_> = clients(bench).collect();
            ports.sort_unstable();
            ports.truncate(IN_USE.into());
            bench.age(60);
            for &port in &ports {
                open(bench, case, port);
            }
            for port in 0..IN_USE {
                open(bench, case, 20_000 + port);
            }
            let now: Vec<_> = clients(bench).collect();
            let gone: Vec<_> = ports.iter().filter(|port| !now.contains(port)).collect();
            assert!(gone.is_empty(), "{case:?}: {gone:?} of {ports:?} are gone");
        }
    });
}

/// Ports of the clients that have a record.
fn clients(bench: &Bench) -> impl Iterator<Item = u16> + use<> {
    bench.flows().into_iter().map(|(_, flow)| flow.client_port)
}

/// Keys of the records that nothing displaces.
fn records(bench: &Bench) -> Vec<lb_common::FlowKey> {
    let mut keys: Vec<_> = bench.kept().into_iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys
}
