//! Which connections are kept where no flood displaces them.

use std::net::SocketAddr;

use lb_common::{
    Phase,
    counter::Outcome::{Replied, TableFull, ToStack},
    flow::Mark,
    wire::tcp::{ACK, FIN, RST, SYN},
};
use lb_tests::programs::{
    Bench, Case, FLOWS_MAX, Packet, Pod, Program, SEQUENCE, Service, Verdict, each_case,
};

use crate::flows::{PORT, check_reply, check_to, each_tcp, each_udp, one, phase};

/// A segment of a connection; of both numbers, only the difference to what is usual.
#[derive(Clone, Copy, Debug)]
enum Segment {
    /// Of the client: flags, and what it acknowledges beside the backend's SYN.
    Client(u8, i32),
    /// Of the backend: flags, and how far it is beyond its SYN.
    Backend(u8, i32),
}

use Segment::{Backend, Client};

/// Lets a connection consist of these segments; whether it is kept then.
#[track_caller]
fn check(what: &str, segments: &[Segment], is_kept: bool) {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        for (at, segment) in segments.iter().enumerate() {
            let (program, packet) = match *segment {
                Client(flags, off) => {
                    let packet = Packet::new(case.transport, flags, client, vip);
                    let ack = (SEQUENCE + 1).wrapping_add_signed(off);
                    (Program::PodIngress, packet.acknowledging(ack))
                }
                Backend(flags, off) => {
                    let packet = Packet::new(case.transport, flags, backend, client);
                    let sequence = SEQUENCE.wrapping_add_signed(off);
                    (Program::PodEgress, packet.sequence(sequence))
                }
            };
            let run = bench.run(program, &packet.bytes());
            assert_eq!(run.verdict, Verdict::Next);
            let kept = bench.kept().len();
            let is_last = at + 1 == segments.len();
            let expected = usize::from(is_kept && is_last);
            assert_eq!(kept, expected, "{what}: {case:?} after {segment:?}");
        }
        assert_eq!(bench.flows().len(), 1, "{what}: one record");
    });
}

const FAR: i32 = 1 << 20;

#[test]
fn connection_is_kept_once_its_client_acknowledges_what_the_backend_has_sent() {
    let opening = [Client(SYN, 0), Backend(SYN | ACK, 0)];
    let check_after_opening = |what, segments: &[Segment], is_kept| {
        check(what, &[&opening[..], segments].concat(), is_kept);
    };
    check_after_opening("the third packet", &[Client(ACK, 0)], true);
    check_after_opening("with data", &[Client(ACK | FIN, 0)], true);
    let lost = [Backend(SYN | ACK, 0), Client(SYN, 0), Backend(SYN | ACK, 0)];
    check_after_opening("a handshake that is repeated", &lost, false);
    let late = [Backend(ACK, 1), Backend(ACK, 3000), Client(ACK, 0)];
    check_after_opening("data before the third packet", &late, true);

    let unknown = [Client(ACK, 5000), Backend(ACK, 5001), Client(ACK, 5000)];
    check("a forgotten one that is taken up again", &unknown, true);
    let download = [
        Client(ACK, 5000),
        Backend(ACK, 5001 + FAR),
        Client(ACK, 5000),
    ];
    check("with much in flight", &download, true);
    let upload = [Client(ACK, 5000), Backend(ACK, 5), Client(ACK, 5000)];
    check("with an answer that came late", &upload, true);
}

#[test]
fn neither_spoofed_nor_blind_packets_make_a_connection_that_is_kept() {
    let opening = [Client(SYN, 0), Backend(SYN | ACK, 0)];
    let check = |what, segments: &[Segment]| check(what, segments, false);
    check("a SYN that is answered", &opening);
    check(
        "SYNs",
        &[&opening[..], &[Client(SYN, 0), Client(SYN, 0)]].concat(),
    );
    for off in [-1, 1, FAR, -FAR, i32::MAX, i32::MIN] {
        let blind = [&opening[..], &[Client(ACK, off), Client(FIN | ACK, off)]].concat();
        check("a blind ACK", &blind);
    }
    for flags in [0, RST, RST | ACK, FIN] {
        check("no ACK", &[&opening[..], &[Client(flags, 0)]].concat());
    }
    check(
        "no answer",
        &[Client(SYN, 0), Client(ACK, 0), Client(ACK, 0)],
    );
    // It has the number of the segment that it refuses: the sender knows it.
    let refused = [
        Client(ACK, 0),
        Backend(RST, 1),
        Client(ACK, 0),
        Backend(RST, 1),
        Client(ACK, 0),
    ];
    check("ACKs that are refused", &refused);
    let far = [Client(ACK, 0), Backend(ACK, 2 + FAR), Client(ACK, 0)];
    check("an ACK that does not fit", &far);
}

#[test]
fn question_with_one_answer_is_not_kept_and_a_conversation_is() {
    each_udp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        check_to(bench, &case.opening(client, vip), backend, true);
        check_to(bench, &case.opening(client, vip), backend, false);
        check_reply(bench, case, backend, client, vip);
        check_reply(bench, case, backend, client, vip);
        assert_eq!(bench.kept(), []);
        check_to(bench, &case.opening(client, vip), backend, false);
        assert_eq!(bench.kept().len(), 1);
        check_reply(bench, case, backend, client, vip);
        check_to(bench, &case.opening(client, vip), backend, false);
        assert_eq!(bench.flows().len(), 1);
    });
}

/// Opens a connection of the pod's port, up to its second packet, which finds room or does not.
#[track_caller]
fn establish(bench: &mut Bench, case: Case, port: u16, has_room: bool) {
    let (client, vip, backend) = (case.pod_client(port), case.vip(1), case.backend(1, 11));
    check_to(bench, &case.opening(client, vip), backend, true);
    check_reply(bench, case, backend, client, vip);
    go_on(bench, case, port, has_room);
}

#[track_caller]
fn go_on(bench: &mut Bench, case: Case, port: u16, has_room: bool) {
    let next = case.following(case.pod_client(port), case.vip(1));
    let expected = next.clone().to(case.backend(1, 11));
    let counted: &[_] = if has_room {
        &[ToStack]
    } else {
        &[ToStack, TableFull]
    };
    let program = Program::PodIngress;
    bench.check(program, &next, Verdict::Next, &expected, counted);
}

#[test]
fn full_table_serves_new_connections_and_keeps_the_old_ones() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        let first = 10_000;
        let max = u16::try_from(FLOWS_MAX).expect("a small table");
        for port in first..first + max {
            establish(bench, case, port, true);
        }
        let mut kept = bench.kept();
        // One too many is served all the same, and it is not tried again at once.
        establish(bench, case, PORT, false);
        for _ in 0..3 {
            go_on(bench, case, PORT, true);
            let (client, backend) = (case.pod_client(PORT), case.backend(1, 11));
            check_reply(bench, case, backend, client, case.vip(1));
        }
        let mut now = bench.kept();
        for records in [&mut kept, &mut now] {
            records.sort_unstable_by_key(|(key, _)| *key);
        }
        assert_eq!(kept, now, "nobody else's record is touched");

        bench.age(2);
        go_on(bench, case, PORT, false);
        // A connection ends, and its record is removed.
        let direct = case.opening(case.pod_client(first), case.backend(1, 11));
        bench.check(Program::PodIngress, &direct, Verdict::Next, &direct, &[]);
        assert_eq!(bench.kept().len() as u32, FLOWS_MAX - 1);
        bench.age(2);
        go_on(bench, case, PORT, true);
        assert_eq!(bench.kept().len() as u32, FLOWS_MAX);
    });
}

/// Sends a segment of one side, whichever it is.
#[track_caller]
fn send(bench: &mut Bench, case: Case, flags: u8, ends: [SocketAddr; 2]) {
    let [src, dst] = ends;
    let packet = Packet::new(case.transport, flags, src, dst);
    let (program, counted) = if dst == case.vip(1) {
        (Program::PodIngress, ToStack)
    } else {
        (Program::PodEgress, Replied)
    };
    bench.run_checked(program, &packet, Verdict::Next, &[counted]);
}

/// Programs do not follow windows: every RST may be one that nobody accepts.
#[test]
fn rst_out_of_window_ignored() {
    each_tcp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        establish(bench, case, PORT, true);
        let (there, back) = ([client, vip], [backend, client]);
        for forged in [there, back] {
            for (next, program_flags) in [(there, ACK), (back, ACK), (back, FIN | ACK)] {
                send(bench, case, RST, forged);
                assert_eq!(phase(bench), Phase::Reset);
                // Idle for longer than keepalives are apart.
                bench.age(100);
                send(bench, case, program_flags, next);
                assert!(phase(bench) < Phase::Reset, "the peers go on");
                assert!(lives_for(bench) >= 3600);
            }
        }
        assert_eq!(bench.kept().len(), 1, "one record throughout");
    });
}

/// How long the only connection may be idle, in ticks.
fn lives_for(bench: &Bench) -> u64 {
    let [(_, flow)] = bench.flows()[..] else {
        panic!("one connection: {:?}", bench.flows());
    };
    flow.expires_tick - flow.seen_tick
}

#[test]
fn reply_revives_a_record_that_has_expired() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip, backend) = (case.pod_client(PORT), case.vip(1), case.backend(1, 11));
        establish(bench, case, PORT, true);
        let protocol = case.transport.protocol();
        let lifetime = Phase::Established.lifetime_s(protocol) * bench.config().ticks_per_second;
        let marked = if case.is_tcp() { 0 } else { Mark::LASTS };
        bench.expire();
        check_reply(bench, case, backend, client, vip);
        assert_eq!(lives_for(bench), u64::from(lifetime) + marked);
        check_to(bench, &case.following(client, vip), backend, false);
        // A new one takes the place of one that nobody revived.
        bench.expire();
        check_to(bench, &case.opening(client, vip), backend, true);
        assert_eq!(bench.kept(), []);
        assert_eq!(bench.flows().len(), 1);
    });
}

/// By chance, so that nothing but its pin says where a connection is.
#[test]
fn flood_takes_no_pin_of_a_connection_that_goes_on() {
    /// More than there is room for pins.
    const SYNS: u16 = 10_000;
    const CONNECTIONS: u16 = 240;
    each_case(|bench, case| {
        let backends = [11, 12, 13].map(|number| Pod::on(1, number));
        bench.serve(&[Service::new(1, backends).by_chance()]);
        let vip = case.vip(1);
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let client = case.pod_client(PORT + number);
                let to_whom = |bench: &mut Bench, packet: Packet| {
                    let run = bench.run(Program::PodIngress, &packet.bytes());
                    run.ends()[1]
                };
                let backend = to_whom(bench, case.opening(client, vip));
                check_reply(bench, case, backend, client, vip);
                assert_eq!(to_whom(bench, case.following(client, vip)), backend);
                (client, backend)
            })
            .collect();
        assert_eq!(bench.kept_pins().len(), usize::from(CONNECTIONS));
        for number in 0..SYNS {
            let nobody = (case.family.pod(1, 98), 10_000 + number).into();
            let syn = case.opening(nobody, vip);
            bench.run(Program::PodIngress, &syn.bytes());
        }
        for (client, backend) in connections {
            check_to(bench, &case.following(client, vip), backend, false);
            check_reply(bench, case, backend, client, vip);
        }
    });
}
