//! Pods of one bridge: what netfilter does not see of one direction, it must not see of the other.

use std::net::SocketAddr;

use lb_common::{
    counter::Outcome::{Direct, NewFlow, Redirected, Replied, ToStack},
    interface::flags::{DIRECT4, DIRECT6},
};
use lb_tests::programs::{Bench, Case, Family, Pod, Program, Service, Verdict, each_case};

use crate::flows::{PORT, SNAT_PORT, check_reply, one};

/// The flag of a family, and that of the other.
fn flags(case: Case) -> [u8; 2] {
    match case.family {
        Family::V4 => [DIRECT4, DIRECT6],
        Family::V6 => [DIRECT6, DIRECT4],
    }
}

/// A packet of the client pod for Service `number` reaches `backend`, by the bridge or by the stack.
#[track_caller]
fn check(bench: &mut Bench, case: Case, number: u8, backend: SocketAddr, is: (bool, bool)) {
    let (is_new, is_direct) = is;
    let packet = case.following(case.pod_client(PORT), case.vip(number));
    let expected = packet.clone().to(backend);
    let (verdict, way) = if is_direct {
        (Verdict::Out, Direct)
    } else {
        (Verdict::Next, ToStack)
    };
    let counted = if is_new { &[NewFlow, way][..] } else { &[way] };
    bench.check(Program::PodIngress, &packet, verdict, &expected, counted);
}

#[test]
fn packets_for_a_pod_at_the_clients_bridge_stay_within_it() {
    each_case(|bench, case| {
        let [ours, others] = flags(case);
        let services = || [one(11), Service::new(2, [Pod::on(2, 13)])];
        let (local, remote) = (case.backend(1, 11), case.backend(2, 13));
        for (allowed, is_direct) in [(ours | others, true), (ours, true), (others, false)] {
            bench.clear();
            bench.allow_direct(allowed);
            bench.serve(&services());
            check(bench, case, 1, local, (true, is_direct));
            check_reply(bench, case, local, case.pod_client(PORT), case.vip(1));
            check(bench, case, 1, local, (false, is_direct));
            check(bench, case, 2, remote, (true, false));
            check(bench, case, 2, remote, (false, false));
        }
    });
}

#[test]
fn a_connection_follows_the_bridges_settings_within_a_second() {
    each_case(|bench, case| {
        let (local, [ours, _]) = (case.backend(1, 11), flags(case));
        bench.serve(&[one(11)]);
        check(bench, case, 1, local, (true, false));
        for (allowed, is_direct) in [(ours, true), (0, false), (ours, true)] {
            bench.allow_direct(allowed);
            bench.serve(&[one(11)]);
            check(bench, case, 1, local, (false, !is_direct));
            bench.age(1);
            check(bench, case, 1, local, (false, is_direct));
            check(bench, case, 1, local, (false, is_direct));
        }
    });
}

#[test]
fn a_client_that_needs_another_port_keeps_it_within_the_bridge() {
    each_case(|bench, case| {
        let (local, client) = (case.backend(1, 11), case.pod_client(PORT));
        bench.allow_direct(DIRECT4 | DIRECT6);
        bench.serve(&[one(11), Service::new(2, [Pod::on(1, 11)])]);
        check(bench, case, 1, local, (true, true));
        let there = case.following(client, case.vip(2));
        let (run, _) = bench.run_counted(Program::PodIngress, &there.bytes());
        let [seen, _] = run.ends();
        assert_ne!(seen.port(), client.port());
        bench.age(1);
        let expected = there.clone().from(seen).to(local);
        bench.check(
            Program::PodIngress,
            &there,
            Verdict::Out,
            &expected,
            &[Direct],
        );
        let back = case.answer(local, seen);
        let expected = back.clone().from(case.vip(2)).to(client);
        bench.check(
            Program::PodEgress,
            &back,
            Verdict::Next,
            &expected,
            &[Replied],
        );
    });
}

#[test]
fn a_pod_that_reaches_itself_does_so_by_its_own_veth() {
    each_case(|bench, case| {
        bench.allow_direct(DIRECT4 | DIRECT6);
        bench.serve(&[one(11)]);
        let (pod, vip) = ((case.family.pod(1, 11), SNAT_PORT).into(), case.vip(1));
        let there = case.opening(pod, vip);
        let expected = there
            .clone()
            .from((vip.ip(), SNAT_PORT))
            .to(case.backend(1, 11));
        let (expected, counted) = (expected.bounced(), &[NewFlow, Redirected]);
        bench.check(
            Program::PodIngress,
            &there,
            Verdict::Out,
            &expected,
            counted,
        );
    });
}
