//! Connections of clients outside that go by their mark: those whose address is exchanged, too.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lb_common::wire::tcp::{ACK, FIN, RST, SYN};
use lb_tests::programs::{
    Bench, Case, GATEWAY_MAC, NODE2_MAC, Packet, Pod, Program, Service, UPLINK_MAC,
    each_case_on_the_wire,
};

use crate::{
    flows::PORT,
    routes::{KEPT_PORT, Rerouted, elsewhere},
};

/// A connection from outside with pod 13 of a node, by a NodePort.
#[derive(Clone, Copy)]
struct Connection {
    case: Case,
    program: Program,
    node: u8,
    client: SocketAddr,
    /// What the backend takes for the client.
    source: SocketAddr,
}

impl Connection {
    /// Opens it, has it answered, and lets the client go on.
    #[track_caller]
    fn establish(
        bench: &mut Bench,
        (case, program): (Case, Program),
        node: u8,
        client: SocketAddr,
    ) -> Self {
        let syn = bench.run(program, &case.opening(client, case.node_port(1)).bytes());
        let [source, to] = syn.ends();
        assert_eq!(to, case.backend(node, 13));
        let connection = Self {
            case,
            program,
            node,
            client,
            source,
        };
        connection.backend_sends(bench, SYN | ACK);
        connection.go_on(bench);
        connection.go_on(bench);
        connection
    }

    fn segment(self, flags: u8) -> Packet {
        Packet::new(
            self.case.transport,
            flags,
            self.client,
            self.case.node_port(1),
        )
    }

    /// Lets its client send a segment.
    fn client_sends(self, bench: &mut Bench, flags: u8) {
        bench.run(self.program, &self.segment(flags).bytes());
    }

    /// Lets its backend send a segment. What went up the stack on its way in leaves by another program.
    fn backend_sends(self, bench: &mut Bench, flags: u8) {
        let backend = self.case.backend(self.node, 13);
        let reply = Packet::new(self.case.transport, flags, backend, self.source);
        let program = if self.node == 1 {
            Program::WireEgress
        } else {
            self.program
        };
        bench.run(program, &reply.bytes());
    }

    /// Lets its client go on; the frame that becomes of it.
    #[track_caller]
    fn go_on(self, bench: &mut Bench) -> Vec<u8> {
        let run = bench.run(self.program, &self.segment(ACK).bytes());
        assert_eq!(run.ends(), [self.source, self.case.backend(self.node, 13)]);
        run.frame
    }

    /// Lets its client go on; the hardware address that it is sent to. At tcx, a segment that asks for the route is left to
    /// the kernel to find its neighbour: then it is that of the next one.
    #[track_caller]
    fn next_hop(self, bench: &mut Bench) -> [u8; 6] {
        let mut frame = self.go_on(bench);
        if self.program != Program::Xdp && frame[..6] == UPLINK_MAC {
            frame = self.go_on(bench);
        }
        assert_eq!(frame[6..12], UPLINK_MAC);
        frame[..6].try_into().expect("six bytes")
    }

    /// Whether the client's next segment makes a record, where there is none.
    fn asks_for_a_record(self, bench: &mut Bench) -> bool {
        bench.forget_all_but_marks();
        self.client_sends(bench, ACK);
        !bench.flows().is_empty()
    }
}

/// Runs `test` for every case and every program, with a Service whose backend is on each node in turn.
fn each(nodes: &[u8], test: impl Fn(&mut Bench, (Case, Program), u8) + Sync) {
    each_case_on_the_wire(|bench, case, program| {
        for node in nodes {
            bench.forget_connections();
            bench.serve(&[Service::new(1, [Pod::on(*node, 13)])]);
            test(bench, (case, program), *node);
        }
    });
}

/// Whether an established connection goes by a mark once `segments` are through. A mark may end at any time, and the next
/// one then holds for seconds: of three tries, one at most meets that.
fn goes_by_a_mark_after(
    bench: &mut Bench,
    (at, node): ((Case, Program), u8),
    segments: &[Segment],
) -> bool {
    (0..3).any(|_| !asks_after(bench, (at, node), segments))
}

/// Whether the next segment of an established connection asks for a record once `segments` are through.
fn asks_after(
    bench: &mut Bench,
    ((case, program), node): ((Case, Program), u8),
    segments: &[Segment],
) -> bool {
    bench.forget_connections();
    let client = case.client(PORT);
    let connection = Connection::establish(bench, (case, program), node, client);
    for segment in segments {
        match *segment {
            Segment::Client(flags) => connection.client_sends(bench, flags),
            Segment::Backend(flags) => connection.backend_sends(bench, flags),
        }
    }
    connection.asks_for_a_record(bench)
}

/// A segment of the client's, or of its backend's.
#[derive(Clone, Copy, Debug)]
enum Segment {
    Client(u8),
    Backend(u8),
}

use Segment::{Backend, Client};

#[test]
fn clients_outside_go_by_marks_wherever_their_backend_is() {
    each(&[1, 2], |bench, at, node| {
        for segments in [&[][..], &[Client(ACK), Backend(ACK), Client(ACK)]] {
            assert!(
                goes_by_a_mark_after(bench, (at, node), segments),
                "{segments:?}"
            );
        }
    });
}

#[test]
fn record_is_asked_after_what_ends_a_connection_wherever_its_backend_is() {
    each(&[1, 2], |bench, at, node| {
        if !at.0.is_tcp() {
            return;
        }
        for segments in [
            &[Client(SYN)][..],
            &[Client(RST)],
            &[Backend(RST)],
            &[Backend(RST | ACK)],
            &[Client(FIN | ACK)],
            &[Client(FIN | ACK), Backend(FIN | ACK), Client(ACK)],
            &[Backend(FIN | ACK), Client(FIN | ACK), Client(ACK)],
        ] {
            assert!(asks_after(bench, (at, node), segments), "{segments:?}");
        }
    });
}

/// SNAT keeps the port that two clients have in common for the first one of them.
#[test]
fn connections_with_the_same_first_choice_keep_their_own_ports() {
    each(&[2], |bench, at, node| {
        let (case, _) = at;
        let first = Connection::establish(bench, at, node, case.client(KEPT_PORT));
        assert_eq!(first.source.port(), KEPT_PORT);
        let other = SocketAddr::new(elsewhere(case.family), KEPT_PORT);
        let second = Connection::establish(bench, at, node, other);
        assert_ne!(second.source.port(), KEPT_PORT);
        for connection in [first, second, second, first] {
            connection.go_on(bench);
        }
    });
}

/// The record has expired, and is another one's now: whoever had it before must not go by his mark.
#[test]
fn port_that_another_connection_has_taken_over_is_not_its_former_owners() {
    each(&[2], |bench, at, node| {
        let (case, program) = at;
        let former = Connection::establish(bench, at, node, case.client(KEPT_PORT));
        bench.expire_all_but_marks();
        let other = SocketAddr::new(elsewhere(case.family), KEPT_PORT);
        let heir = Connection::establish(bench, at, node, other);
        assert_eq!(heir.source, former.source);
        let late = bench.run(program, &former.segment(ACK).bytes());
        assert_ne!(late.ends()[0], heir.source, "{:?}", late.verdict);
    });
}

/// One client's route is learnt while the other's packets go on, and the other way round.
#[test]
fn marked_connections_leave_by_their_own_clients_route() {
    each(&[2], |bench, at, node| {
        let (case, _) = at;
        bench.route_by_more();
        bench.serve(&[Service::new(1, [Pod::on(node, 13)])]);
        let rerouted = Rerouted::from_elsewhere(case.family);
        let other = SocketAddr::new(elsewhere(case.family), KEPT_PORT + 1);
        let clients = [(case.client(KEPT_PORT), NODE2_MAC), (other, GATEWAY_MAC)];
        let connections =
            clients.map(|(client, mac)| (Connection::establish(bench, at, node, client), mac));
        for _ in 0..3 {
            for (connection, mac) in connections {
                assert_eq!(connection.next_hop(bench), mac);
                // Asks for the route again.
                bench.age(1);
                bench.forget_marks();
                assert_eq!(connection.next_hop(bench), mac);
            }
        }
        drop(rerouted);
    });
}

/// Nothing tells the programs of a change: what they have learnt is good for a second.
#[test]
fn marked_connection_follows_its_route() {
    each(&[2], |bench, at, node| {
        let (case, _) = at;
        let other = SocketAddr::new(elsewhere(case.family), KEPT_PORT);
        let connection = Connection::establish(bench, at, node, other);
        let await_hop = |bench: &mut Bench, mac: [u8; 6]| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while connection.next_hop(bench) != mac {
                assert!(Instant::now() < deadline, "it goes on as before");
            }
        };
        assert_eq!(connection.next_hop(bench), NODE2_MAC);
        let rerouted = Rerouted::from_elsewhere(case.family);
        await_hop(bench, GATEWAY_MAC);
        drop(rerouted);
        await_hop(bench, NODE2_MAC);
    });
}
