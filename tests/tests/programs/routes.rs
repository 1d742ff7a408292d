//! By which routes packets for backends of other nodes leave.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

use lb_common::counter::Outcome::{Deferred, NewFlow, Redirected, Unroutable};
use lb_tests::programs::{
    Bench, Case, Family, Frame, GATEWAY_MAC, NODE2_MAC, Packet, Pod, Program, Service, UPLINK_MAC,
    Verdict, each_case, each_case_on_the_wire,
};

use crate::outside::open_remote;

/// A port that a SNATed client keeps, because it lies in the range of SNAT.
pub(crate) const KEPT_PORT: u16 = 61_234;

/// A packet to the backend that leaves with its neighbour's address.
fn sent(case: Case, packet: &Packet, client_port: u16, mac: [u8; 6]) -> Packet {
    translated(case, packet, client_port).macs(mac, UPLINK_MAC)
}

/// The same, left to the kernel.
fn translated(case: Case, packet: &Packet, client_port: u16) -> Packet {
    let packet = packet.clone().from(case.snat(client_port));
    packet.to(case.backend(2, 13)).routed()
}

/// Runs an `ip` command in the bench's network namespace, which this thread is in.
fn ip(family: Family, command: &str) {
    let family = match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    };
    let mut ip = Command::new("ip");
    let status = ip.arg(family).args(command.split(' ')).status();
    assert!(status.expect("ip").success(), "ip {family} {command}");
}

/// The network of node 2's pods.
fn pods(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.244.2.0/24",
        Family::V6 => "fd00:10:244:2::/64",
    }
}

/// A client outside who may have a route of his own.
pub(crate) fn elsewhere(family: Family) -> IpAddr {
    let addr = match family {
        Family::V4 => "203.0.113.9",
        Family::V6 => "2001:db8:9::9",
    };
    addr.parse().expect("an address")
}

/// While this is there, what [`elsewhere`] sends to pods of node 2 leaves by the gateway.
pub(crate) struct Rerouted {
    family: Family,
    commands: [String; 2],
}

impl Rerouted {
    /// Adds the route, and the rule that leads to it.
    pub(crate) fn from_elsewhere(family: Family) -> Self {
        let gateway = match family {
            Family::V4 => "192.168.77.1",
            Family::V6 => "fd00:77::1",
        };
        let commands = [
            format!("route add {} via {gateway} table 77", pods(family)),
            format!("rule add from {} lookup 77", elsewhere(family)),
        ];
        for command in &commands {
            ip(family, command);
        }
        Self { family, commands }
    }
}

impl Drop for Rerouted {
    fn drop(&mut self) {
        for command in self.commands.iter().rev() {
            ip(self.family, &command.replace("add", "del"));
        }
    }
}

/// Netfilter masquerades when the route is known, too.
#[test]
fn packets_leave_by_the_route_of_their_client() {
    each_case_on_the_wire(|bench, case, program| {
        bench.route_by_more();
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let node_port = case.node_port(1);
        let rerouted = Rerouted::from_elsewhere(case.family);
        let elsewhere = elsewhere(case.family);
        for (client, mac) in [
            (case.client(KEPT_PORT), NODE2_MAC),
            ((elsewhere, KEPT_PORT + 1).into(), GATEWAY_MAC),
        ] {
            let first = case.opening(client, node_port);
            bench.run_checked(program, &first, Verdict::Out, &[NewFlow, Redirected]);
            let next = case.following(client, node_port);
            let expected = sent(case, &next, client.port(), mac);
            bench.check(program, &next, Verdict::Out, &expected, &[Redirected]);
        }
        drop(rerouted);
    });
}

/// A packet that somebody has marked may have a route of its own: the kernel is asked for it.
#[test]
fn marked_packet_is_left_to_the_kernel_to_find_its_neighbour() {
    each_case(|bench, case| {
        open_remote(bench, case, Program::WireIngress);
        let packet = case.following(case.client(KEPT_PORT), case.node_port(1));
        let mut kernel = bench.kernel().expect("the programs");
        for (mark, expected) in [
            (0, sent(case, &packet, KEPT_PORT, NODE2_MAC)),
            (7, translated(case, &packet, KEPT_PORT)),
        ] {
            let bytes = packet.bytes();
            let frame = Frame {
                mark,
                ..Frame::of(&bytes)
            };
            let verdict = kernel.run(Program::WireIngress, frame).expect("a run");
            assert_eq!(verdict, Verdict::Out);
            assert_eq!(kernel.out(), expected.bytes(), "mark {mark}");
        }
    });
}

/// The kernel, which is asked for the way, drops what has none.
#[test]
fn connection_leaves_a_neighbour_to_whom_no_route_leads_any_more() {
    each_case(|bench, case| {
        open_remote(bench, case, Program::WireIngress);
        let packet = case.following(case.client(KEPT_PORT), case.node_port(1));
        let check = |bench: &mut Bench, expected: &Packet| {
            let program = Program::WireIngress;
            bench.check(program, &packet, Verdict::Out, expected, &[Redirected]);
        };
        let by_program = sent(case, &packet, KEPT_PORT, NODE2_MAC);
        let by_kernel = translated(case, &packet, KEPT_PORT);
        check(bench, &by_program);

        let via = match case.family {
            Family::V4 => "192.168.77.12",
            Family::V6 => "fd00:77::c",
        };
        let route = format!("{} via {via}", pods(case.family));
        let blackhole = format!("blackhole {}", pods(case.family));
        ip(case.family, &format!("route del {route}"));
        ip(case.family, &format!("route add {blackhole}"));
        bench.age(1);
        // The one that asks, and those that do not.
        check(bench, &by_kernel);
        check(bench, &by_kernel);

        ip(case.family, &format!("route del {blackhole}"));
        ip(case.family, &format!("route add {route}"));
        bench.age(1);
        check(bench, &by_kernel);
        check(bench, &by_program);
    });
}

/// The way to one half of the pods of node 2, which leads by the gateway while this is there.
struct Detour {
    family: Family,
    route: String,
}

impl Detour {
    fn by_the_gateway(family: Family) -> Self {
        let (half, gateway) = match family {
            Family::V4 => ("10.244.2.0/25", "192.168.77.1"),
            Family::V6 => ("fd00:10:244:2::/65", "fd00:77::1"),
        };
        let route = format!("{half} via {gateway}");
        ip(family, &format!("route add {route}"));
        Self { family, route }
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        ip(self.family, &format!("route del {}", self.route));
    }
}

/// Opens a connection from outside; the hardware address that its first packet has then.
#[track_caller]
fn open(bench: &mut Bench, case: Case, program: Program, port: u16) -> [u8; 6] {
    let first = case.opening(case.client(port), case.node_port(1));
    let run = bench.run_checked(program, &first, Verdict::Out, &[NewFlow, Redirected]);
    assert_eq!(run.ends(), [case.snat(port), case.backend(2, 13)]);
    run.frame[..6].try_into().expect("six bytes")
}

/// Whether the second of two connections leaves by the way of the first one, though there is another one meanwhile.
fn shares(bench: &mut Bench, case: Case, program: Program) -> bool {
    bench.forget_connections();
    // Another incarnation of the backend: nothing is known of it.
    bench.serve(&[]);
    bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
    // At tcx, the kernel sends whoever asks.
    let asked = |mac| {
        if program == Program::Xdp {
            mac
        } else {
            UPLINK_MAC
        }
    };
    assert_eq!(open(bench, case, program, KEPT_PORT), asked(NODE2_MAC));
    let _detour = Detour::by_the_gateway(case.family);
    let second = open(bench, case, program, KEPT_PORT + 1);
    if second == NODE2_MAC {
        return true;
    }
    assert_eq!(second, asked(GATEWAY_MAC));
    false
}

#[test]
fn new_connections_share_a_route_for_a_moment_where_destinations_decide() {
    each_case_on_the_wire(|bench, case, program| {
        // On a busy machine, the moment may be over.
        assert!((0..20).any(|_| shares(bench, case, program)));
        bench.route_by_more();
        assert!((0..3).all(|_| !shares(bench, case, program)));
    });
}

/// Nobody forwards what comes from an address of one link only, whatever others were told.
#[test]
fn client_of_one_link_only_shares_no_route() {
    each_case_on_the_wire(|bench, case, program| {
        if case.family == Family::V4 {
            return;
        }
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        open(bench, case, program, KEPT_PORT);
        let client = "[fe80::9]:40000".parse::<SocketAddr>().expect("an address");
        let first = case.opening(client, case.node_port(1));
        let (verdict, outcome) = match program {
            Program::Xdp => (Verdict::Next, Deferred),
            _ => (Verdict::Drop, Unroutable),
        };
        bench.run_checked(program, &first, verdict, &[outcome]);
    });
}

/// Nothing tells the programs of a change: what they have learnt is good for a moment.
#[test]
fn new_connections_follow_a_route_that_changes() {
    each_case_on_the_wire(|bench, case, program| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let await_hop = |bench: &mut Bench, mac: [u8; 6]| {
            let deadline = Instant::now() + Duration::from_secs(10);
            let hop = |bench: &mut Bench| {
                bench.forget_connections();
                let first = case.opening(case.client(KEPT_PORT), case.node_port(1));
                bench.run(program, &first.bytes()).frame[..6].to_vec()
            };
            while hop(bench) != mac {
                assert!(Instant::now() < deadline, "they go on as before");
            }
        };
        await_hop(bench, NODE2_MAC);
        let detour = Detour::by_the_gateway(case.family);
        await_hop(bench, GATEWAY_MAC);
        drop(detour);
        await_hop(bench, NODE2_MAC);
    });
}
