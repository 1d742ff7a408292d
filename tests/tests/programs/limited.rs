//! ICMP errors, of which there may be only so many a second.

use std::{thread, time::Instant};

use lb_common::{
    DatapathConfig,
    counter::Outcome::{Rejected, Seen, TooBig, Untold},
};
use lb_tests::programs::{Bench, Case, Pod, Program, Service, Transport, Verdict, on_own_bench};

const LIMIT: u32 = 2;
const PACKETS: u64 = 1000;
const PORT: u16 = 40_000;

/// How many of many packets to a Service that nobody serves were answered.
fn answered(bench: &mut Bench, case: Case) -> u64 {
    let packet = case.opening(case.client(PORT), case.node_port(1)).bytes();
    let mut answered = 0;
    for _ in 0..PACKETS {
        let (run, moved) = bench.run_counted(Program::WireIngress, &packet);
        let outcomes: Vec<_> = moved.iter().map(|(_, outcome, _)| *outcome).collect();
        match run.verdict {
            Verdict::Out => {
                assert_eq!(outcomes, [Seen, Rejected]);
                answered += 1;
            }
            other => {
                assert_eq!(
                    (other, &outcomes[..]),
                    (Verdict::Drop, &[Seen, Rejected, Untold][..])
                );
            }
        }
    }
    answered
}

#[test]
fn icmp_errors_are_limited_but_no_resets_and_none_by_which_senders_learn_a_size() {
    let config = DatapathConfig {
        icmp_errors_per_second: LIMIT,
        ..DatapathConfig::DEFAULT
    };
    on_own_bench("limited", config, |bench| {
        bench.serve(&[Service::new(1, []), Service::new(2, [Pod::on(2, 13)])]);
        let processors = thread::available_parallelism().expect("processors").get() as u64;
        for case in Case::all() {
            let begin = Instant::now();
            let answered = answered(bench, case);
            if case.transport == Transport::Tcp {
                assert_eq!(answered, PACKETS, "{case:?}");
                continue;
            }
            // Each processor may begin a second of its own.
            let seconds = begin.elapsed().as_secs() + 2;
            let most = u64::from(LIMIT) * processors * seconds;
            assert!(answered <= most, "{answered} of {PACKETS}, {case:?}");
            let large = case
                .opening(case.client(PORT), case.node_port(2))
                .payload(1600);
            bench.run(Program::WireIngress, &large.bytes());
            for _ in 0..LIMIT + 1 {
                bench.run_checked(Program::WireIngress, &large, Verdict::Out, &[TooBig]);
            }
        }
    });
}
