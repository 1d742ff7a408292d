//! Earlier programs run behind these, with maps of their own: while connections are carried over.

use lb_common::{
    Tuple,
    wire::tcp::{ACK, FIN, RST},
};
use lb_tests::programs::{
    Bench, IcmpError, Packet, Pod, Program, Service, Verdict, each_case, each_case_on_the_wire,
};

use crate::flows::{OTHER_PORT, PORT, check_to, each_tcp, one};

/// It goes on as it came, and nothing is noted.
#[track_caller]
fn check_left(bench: &mut Bench, program: Program, packet: &Packet) {
    bench.check(program, packet, Verdict::Next, packet, &[]);
    assert_eq!(bench.flows(), []);
}

#[test]
fn segment_of_an_unknown_connection_is_left_to_earlier_programs() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip) = (case.pod_client(PORT), case.vip(1));
        bench.before_others(|bench| {
            for flags in [ACK, FIN | ACK, RST, RST | ACK] {
                let packet = Packet::new(case.transport, flags, client, vip);
                check_left(bench, Program::PodIngress, &packet);
            }
        });
    });
}

#[test]
fn segment_for_a_backend_of_another_node_is_left_to_those_that_know_its_port() {
    each_case_on_the_wire(|bench, case, program| {
        if !case.is_tcp() {
            return;
        }
        bench.serve(&[Service::new(1, [Pod::on(2, 11)])]);
        let next = case.following(case.client(OTHER_PORT), case.node_port(1));
        bench.before_others(|bench| check_left(bench, program, &next));
    });
}

#[test]
fn segment_for_a_service_that_nobody_serves_any_more_is_left_to_earlier_programs() {
    each_tcp(|bench, case| {
        bench.serve(&[Service::new(1, [])]);
        let next = case.following(case.pod_client(PORT), case.vip(1));
        bench.before_others(|bench| check_left(bench, Program::PodIngress, &next));
    });
}

#[test]
fn error_about_an_unknown_connection_is_left_to_earlier_programs() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        let packet = case.opening(case.vip(1), case.pod_client(PORT));
        let error =
            IcmpError::unreachable(case.family).about(case.pod_client(PORT).ip(), &packet, 8);
        bench.before_others(|bench| {
            let run = bench.run(Program::PodIngress, &error);
            assert_eq!((run.verdict, run.frame), (Verdict::Next, error));
        });
    });
}

/// Whose port earlier programs have given away goes on with them from its first packet on, should that
/// be repeated; others get other ports.
#[test]
fn repeated_first_segment_of_a_connection_is_left_to_those_that_know_its_port() {
    each_tcp(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 11)])]);
        let program = Program::WireIngress;
        let first = case.opening(case.client(OTHER_PORT), case.node_port(1));
        assert_eq!(bench.run(program, &first.bytes()).verdict, Verdict::Out);
        let [(key, known)] = bench.flows()[..] else {
            panic!("one record");
        };
        bench.reserve_ports();
        bench.before_others(|bench| {
            bench.check(program, &first, Verdict::Next, &first, &[]);
            let other = case.opening(case.client(PORT), case.node_port(1));
            assert_eq!(bench.run(program, &other.bytes()).verdict, Verdict::Out);
        });
        let reply = case.answer(case.backend(2, 11), case.snat(key.dst_port));
        bench.check(program, &reply, Verdict::Next, &reply, &[]);
        assert_eq!(bench.flows().len(), 2, "beside {known:?}");
    });
}

#[test]
fn what_begins_is_not_left_to_earlier_programs_and_goes_on_here() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        bench.before_others(|bench| {
            check_to(bench, &case.opening(client, vip), backend, true);
            check_to(bench, &case.following(client, vip), backend, false);
        });
    });
}

#[test]
fn segment_of_a_connection_that_netfilter_translates_is_left_to_it_until_the_client_begins_anew() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        let first = case.opening(client, vip);
        let tuple = Tuple {
            src: client.ip().into(),
            dst: vip.ip().into(),
            src_port: client.port(),
            dst_port: vip.port(),
            protocol: case.transport.protocol(),
        };
        bench.leave(&[tuple.pin()]);
        for flags in [ACK, FIN | ACK, RST, RST | ACK] {
            let packet = Packet::new(case.transport, flags, client, vip);
            check_left(bench, Program::PodIngress, &packet);
        }
        check_to(bench, &first, backend, true);
        check_to(bench, &case.following(client, vip), backend, false);
        // Others are not concerned.
        let other = case.following(case.pod_client(OTHER_PORT), vip);
        check_to(bench, &other, backend, true);
    });
}
