//! Packets that go by the mark of their connection, and those that ask its record.

use lb_common::{
    counter::Outcome::{Replied, ToStack},
    wire::tcp::{ACK, FIN, RST, SYN},
};
use lb_tests::programs::{Bench, Case, Packet, Pod, Program, Service, Verdict, each_case};

use crate::flows::{PORT, check_reply, check_to, each_tcp, each_udp};

/// A Service with one backend, on the other node.
fn one(number: u8) -> Service {
    Service::new(1, [Pod::on(2, number)])
}

/// A segment of the client's, or of its backend's; or a datagram, which has no flags.
#[derive(Clone, Copy, Debug)]
enum Segment {
    Client(u8),
    Backend(u8),
}

use Segment::{Backend, Client};

/// Sends a segment of the pod's connection with the first Service and its pod 11.
#[track_caller]
fn send(bench: &mut Bench, case: Case, segment: Segment) {
    let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(2, 11));
    let (program, [src, dst], flags, counted) = match segment {
        Client(flags) => (Program::PodIngress, [client, vip], flags, ToStack),
        Backend(flags) => (Program::PodEgress, [backend, client], flags, Replied),
    };
    let packet = Packet::new(case.transport, flags, src, dst);
    bench.run_checked(program, &packet, Verdict::Next, &[counted]);
}

/// Whether the client's next segment makes a record, where there is none.
fn asks_for_a_record(bench: &mut Bench, case: Case) -> bool {
    bench.forget_all_but_marks();
    let next = case.following(case.pod_client(PORT), case.vip(1));
    let run = bench.run(Program::PodIngress, &next.bytes());
    assert_eq!(run.verdict, Verdict::Next);
    !bench.flows().is_empty()
}

/// Establishes a connection, and lets it go on.
fn establish(bench: &mut Bench, case: Case) {
    bench.forget_connections();
    let syn = case.opening(case.pod_client(PORT), case.vip(1));
    check_to(bench, &syn, case.backend(2, 11), true);
    for segment in [Backend(SYN | ACK), Client(ACK), Client(ACK)] {
        send(bench, case, segment);
    }
}

/// Lets an established connection consist of `segments`; whether its next one asks for a record.
fn asks_after(bench: &mut Bench, case: Case, segments: &[Segment]) -> bool {
    establish(bench, case);
    for segment in segments {
        send(bench, case, *segment);
    }
    asks_for_a_record(bench, case)
}

/// Whether [`asks_after`] says no. A mark may end at any time, and the next one then holds for seconds: of three tries, one
/// at most meets that.
fn goes_by_a_mark_after(bench: &mut Bench, case: Case, segments: &[Segment]) -> bool {
    (0..3).any(|_| !asks_after(bench, case, segments))
}

#[test]
fn packets_of_a_connection_that_goes_on_need_no_record_for_a_moment() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        for segments in [
            &[][..],
            &[Client(ACK), Backend(ACK), Client(ACK)],
            &[Backend(FIN | ACK), Client(ACK)],
        ] {
            assert!(goes_by_a_mark_after(bench, case, segments), "{segments:?}");
            bench.forget_connections();
        }
    });
}

#[test]
fn record_is_asked_where_there_is_no_mark() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        establish(bench, case);
        bench.forget_marks();
        assert!(asks_for_a_record(bench, case));
    });
}

#[test]
fn record_is_asked_after_each_segment_that_may_change_what_the_next_one_does_to_it() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        for segments in [
            &[Client(SYN)][..],
            &[Client(RST)],
            &[Client(RST | ACK)],
            &[Backend(RST)],
            &[Backend(RST | ACK)],
            &[Client(FIN | ACK)],
            &[Client(FIN | ACK), Backend(FIN | ACK), Client(ACK)],
            &[Backend(FIN | ACK), Client(FIN | ACK), Client(ACK)],
        ] {
            assert!(asks_after(bench, case, segments), "{segments:?}");
        }
        // It forgets the connection.
        establish(bench, case);
        let direct = case.opening(case.pod_client(PORT), case.backend(2, 11));
        bench.check(Program::PodIngress, &direct, Verdict::Next, &direct, &[]);
        assert_eq!(bench.flows(), []);
        assert!(asks_for_a_record(bench, case));
        // And the end itself is noted.
        establish(bench, case);
        bench.forget_all_but_marks();
        let (client, vip) = (case.pod_client(PORT), case.vip(1));
        let fin = Packet::new(case.transport, FIN | ACK, client, vip);
        check_to(bench, &fin, case.backend(2, 11), true);
    });
}

/// Opens a connection of the pod with pod 11 of a node, and lets its client send `next` twice; whether the one after
/// that asks for a record.
#[track_caller]
fn asks_after_two(bench: &mut Bench, case: Case, node: u8, next: &Packet) -> bool {
    let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(node, 11));
    bench.serve(&[Service::new(1, [Pod::on(node, 11)])]);
    check_to(bench, &case.opening(client, vip), backend, true);
    check_reply(bench, case, backend, client, vip);
    check_to(bench, next, backend, false);
    check_to(bench, next, backend, false);
    asks_for_a_record(bench, case)
}

#[test]
fn connection_that_no_client_has_confirmed_leaves_no_mark() {
    each_tcp(|bench, case| {
        let next = case.following(case.pod_client(PORT), case.vip(1));
        let blind = next.acknowledging(0);
        assert!(asks_after_two(bench, case, 2, &blind));
    });
}

/// A flood displaces its record.
#[test]
fn datagrams_that_nobody_answers_leave_no_mark() {
    each_udp(|bench, case| {
        bench.serve(&[one(11)]);
        let first = case.opening(case.pod_client(PORT), case.vip(1));
        for is_new in [true, false, false] {
            check_to(bench, &first, case.backend(2, 11), is_new);
        }
        assert!(asks_for_a_record(bench, case));
    });
}

/// Whether they meet at a bridge may change at any time.
#[test]
fn connection_of_two_pods_of_the_node_leaves_no_mark() {
    each_case(|bench, case| {
        let next = case.following(case.pod_client(PORT), case.vip(1));
        assert!(asks_after_two(bench, case, 1, &next));
    });
}

/// A mark is of a connection with the backend that the table names.
#[test]
fn mark_of_a_connection_with_one_backend_lets_nobody_go_to_another_one() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        establish(bench, case);
        bench.forget_all_but_marks();
        bench.serve(&[one(12)]);
        let next = case.following(case.pod_client(PORT), case.vip(1));
        check_to(bench, &next, case.backend(2, 12), true);
    });
}

/// The backend was away for a moment, and the client is with another one since.
#[test]
fn datagrams_do_not_return_to_a_backend_by_the_mark_that_they_had_there() {
    each_udp(|bench, case| {
        bench.serve(&[one(11)]);
        establish(bench, case);
        let next = case.following(case.pod_client(PORT), case.vip(1));
        for number in [12, 11] {
            bench.serve(&[one(number)]);
            check_to(bench, &next, case.backend(2, number), true);
        }
    });
}
