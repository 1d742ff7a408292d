//! Packets that go no further: each is counted by its reason, and sampled.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use lb_agent::model::{Model, Service as ModelService, TrafficPolicy};
use lb_common::{
    DropKey,
    counter::Outcome::{
        self, BackendGone, FragmentLost, Malformed, Martian, NoBackend, NoSnatPort, NotAllowed,
        NotWritable, Rejected, TooBig, TornTable, TtlExceeded, Unallocated, UnknownFlow,
        Unroutable,
    },
    drops::Event,
    wire::tcp::RST,
};
use lb_tests::programs::{
    Bench, Case, Family, Packet, Pod, Program, SERVICE_PORT, Service, Verdict, each_case, model,
    on_bench,
};

use crate::flows::PORT;

/// A way to be dropped.
struct Row {
    reason: Outcome,
    program: Program,
    /// Makes it happen, and returns the packet that it happens to.
    provoke: fn(&mut Bench, Case) -> Vec<u8>,
    verdict: Verdict,
    /// The node of the backend that it is about; 0 if it is about none.
    node: u8,
}

const fn row(reason: Outcome, program: Program, provoke: fn(&mut Bench, Case) -> Vec<u8>) -> Row {
    Row {
        reason,
        program,
        provoke,
        verdict: Verdict::Drop,
        node: 0,
    }
}

const fn answered(
    reason: Outcome,
    program: Program,
    provoke: fn(&mut Bench, Case) -> Vec<u8>,
) -> Row {
    Row {
        verdict: Verdict::Out,
        ..row(reason, program, provoke)
    }
}

impl Row {
    const fn about(self, node: u8) -> Self {
        Self { node, ..self }
    }
}

/// Reasons that other tables have: packets that are not as most are, and what a flag asks for.
const ELSEWHERE: [Outcome; 4] = [UnknownFlow, FragmentLost, Malformed, BackendGone];

/// Every other reason, at every hook where it can be.
const TABLE: [Row; 29] = [
    row(NoBackend, Program::Xdp, nobody_here),
    row(NoBackend, Program::WireIngress, nobody_here),
    row(NoBackend, Program::PodIngress, nobody_here_for_pods),
    row(NoSnatPort, Program::Xdp, every_snat_port_is_taken).about(2),
    row(NoSnatPort, Program::WireIngress, every_snat_port_is_taken).about(2),
    row(NoSnatPort, Program::PodIngress, every_port_is_taken).about(2),
    row(TornTable, Program::Xdp, table_is_torn),
    row(TornTable, Program::WireIngress, table_is_torn),
    row(TornTable, Program::PodIngress, table_is_torn_for_pods),
    row(NotWritable, Program::Xdp, header_ends_early),
    row(NotWritable, Program::WireIngress, header_ends_early),
    row(NotWritable, Program::PodIngress, header_ends_early_for_pods),
    row(NotWritable, Program::PodEgress, header_of_reply_ends_early),
    row(
        NotWritable,
        Program::WireEgress,
        header_of_reply_to_outside_ends_early,
    ),
    row(Unroutable, Program::WireIngress, no_way_to_the_backend).about(5),
    answered(TtlExceeded, Program::WireIngress, reply_dies_here),
    answered(TtlExceeded, Program::Tunnel, reply_by_the_tunnel_dies_here),
    answered(TooBig, Program::WireIngress, no_device_takes_it),
    answered(Rejected, Program::WireIngress, nobody_at_all),
    answered(Rejected, Program::PodIngress, nobody_at_all_for_pods),
    row(Rejected, Program::WireIngress, reset_to_nobody),
    row(Rejected, Program::PodIngress, reset_to_nobody_from_a_pod),
    row(NotAllowed, Program::Xdp, client_is_in_no_range),
    row(NotAllowed, Program::WireIngress, client_is_in_no_range),
    row(NotAllowed, Program::PodIngress, pod_is_in_no_range),
    row(Unallocated, Program::WireIngress, address_of_no_service),
    row(
        Unallocated,
        Program::PodIngress,
        address_of_no_service_for_pods,
    ),
    row(Martian, Program::Xdp, loopback_on_the_wire),
    row(Martian, Program::WireIngress, loopback_on_the_wire),
];

/// A port that is kept by SNAT.
const SNAT_PORT: u16 = 61_234;

fn from_outside(case: Case, dst: SocketAddr) -> Vec<u8> {
    case.opening(case.client(SNAT_PORT), dst).bytes()
}

fn from_pod(case: Case, dst: SocketAddr) -> Vec<u8> {
    case.opening(case.pod_client(PORT), dst).bytes()
}

/// Serves Service 1 by `pod`, with the rest of its object as `change` makes it.
fn serve_changed(bench: &mut Bench, pod: Pod, change: impl Fn(&mut ModelService)) {
    let mut model: Model = model(&[Service::new(1, [pod])]);
    for (name, mut service) in model.services.clone() {
        change(Arc::make_mut(&mut service));
        model.services.insert(name, service);
    }
    bench.serve_model(&model);
}

fn no_device_takes_it(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
    bench.run(Program::WireIngress, &from_outside(case, case.node_port(1)));
    let packet = case.following(case.client(SNAT_PORT), case.node_port(1));
    packet.payload(1600).bytes()
}

fn nobody_here(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(2, 13)]).local()]);
    from_outside(case, case.node_port(1))
}

fn nobody_here_for_pods(bench: &mut Bench, case: Case) -> Vec<u8> {
    serve_changed(bench, Pod::on(2, 13), |service| {
        service.internal_policy = TrafficPolicy::Local;
    });
    from_pod(case, case.vip(1))
}

fn every_snat_port_is_taken(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
    let packet = from_outside(case, case.node_port(1));
    bench.run(Program::WireIngress, &packet);
    bench.take_all_ports();
    packet
}

fn every_port_is_taken(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
    let packet = from_pod(case, case.vip(1));
    bench.run(Program::PodIngress, &packet);
    bench.take_all_ports();
    packet
}

fn table_is_torn(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
    bench.tear_tables();
    from_outside(case, case.node_port(1))
}

fn table_is_torn_for_pods(bench: &mut Bench, case: Case) -> Vec<u8> {
    table_is_torn(bench, case);
    from_pod(case, case.vip(1))
}

/// The frame up to the end of what is read of the transport header.
fn cut(mut frame: Vec<u8>, case: Case) -> Vec<u8> {
    let ip_header = match case.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    frame.truncate(14 + ip_header + 14);
    frame
}

fn header_ends_early(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
    let packet = from_outside(case, case.node_port(1));
    bench.run(Program::WireIngress, &packet);
    cut(packet, case)
}

fn header_ends_early_for_pods(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
    let packet = from_pod(case, case.vip(1));
    bench.run(Program::PodIngress, &packet);
    cut(packet, case)
}

fn header_of_reply_ends_early(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
    bench.run(Program::PodIngress, &from_pod(case, case.vip(1)));
    let reply = case.answer(case.backend(1, 11), case.pod_client(PORT));
    cut(reply.bytes(), case)
}

fn header_of_reply_to_outside_ends_early(bench: &mut Bench, case: Case) -> Vec<u8> {
    header_ends_early(bench, case);
    let reply = case.answer(case.backend(1, 11), case.client(SNAT_PORT));
    cut(reply.bytes(), case)
}

fn no_way_to_the_backend(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(5, 13)])]);
    from_outside(case, case.node_port(1))
}

fn reply_dies_here(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[
        Service::new(1, [Pod::on(2, 13)]),
        Service::new(2, [Pod::on(1, 11)]),
    ]);
    for number in [1, 2] {
        let packet = from_outside(case, case.node_port(number));
        bench.run(Program::WireIngress, &packet);
    }
    let reply = case.answer(case.backend(2, 13), case.snat(SNAT_PORT));
    reply.ttl(1).bytes()
}

fn reply_by_the_tunnel_dies_here(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(4, 13)])]);
    let packet = from_outside(case, case.node_port(1));
    bench.run(Program::WireIngress, &packet);
    let snat = (case.family.tunnel(), SNAT_PORT).into();
    case.answer(case.backend(4, 13), snat).ttl(1).bytes()
}

fn nobody_at_all(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [])]);
    from_outside(case, case.node_port(1))
}

fn nobody_at_all_for_pods(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [])]);
    from_pod(case, case.vip(1))
}

fn reset_to_nobody(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [])]);
    Packet::new(case.transport, RST, case.client(PORT), case.node_port(1)).bytes()
}

fn reset_to_nobody_from_a_pod(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [])]);
    Packet::new(case.transport, RST, case.pod_client(PORT), case.vip(1)).bytes()
}

/// Serves Service 1 by load-balancer addresses that nobody may dial.
fn serve_nobody(bench: &mut Bench, case: Case) -> SocketAddr {
    serve_changed(bench, Pod::on(1, 11), |service| {
        service.load_balancer_ips = Family::ALL.map(|family| family.vip(200)).to_vec();
        service.source_ranges = ["192.0.2.0/24", "2001:db8:ff::/48"]
            .map(|net| net.parse().unwrap())
            .to_vec();
    });
    (case.family.vip(200), SERVICE_PORT).into()
}

fn client_is_in_no_range(bench: &mut Bench, case: Case) -> Vec<u8> {
    let dst = serve_nobody(bench, case);
    from_outside(case, dst)
}

fn pod_is_in_no_range(bench: &mut Bench, case: Case) -> Vec<u8> {
    let dst = serve_nobody(bench, case);
    from_pod(case, dst)
}

fn address_of_no_service(bench: &mut Bench, case: Case) -> Vec<u8> {
    let mut model = model(&[Service::new(1, [Pod::on(1, 11)])]);
    let cidrs = ["10.96.0.0/16", "fd00:10:96::/64"];
    model.service_cidrs = BTreeSet::from(cidrs.map(|net| net.parse().unwrap()));
    bench.serve_model(&model);
    from_outside(case, case.vip(77))
}

fn address_of_no_service_for_pods(bench: &mut Bench, case: Case) -> Vec<u8> {
    address_of_no_service(bench, case);
    from_pod(case, case.vip(77))
}

fn loopback_on_the_wire(bench: &mut Bench, case: Case) -> Vec<u8> {
    bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
    let loopback: IpAddr = match case.family {
        Family::V4 => [127, 0, 0, 1].into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let src = (loopback, PORT).into();
    case.opening(src, case.node_port(1)).bytes()
}

impl Row {
    /// Whether this transport can be dropped like that.
    fn concerns(&self, case: Case) -> bool {
        // A whole UDP header is eight bytes, and nobody has to hold back an answer to a datagram.
        let only_tcp =
            self.reason == NotWritable || (self.reason, self.verdict) == (Rejected, Verdict::Drop);
        case.is_tcp() || !only_tcp
    }
}

#[test]
fn every_reason_is_counted_and_sampled_at_every_hook() {
    let reasons: BTreeSet<_> = TABLE.iter().map(|row| row.reason as u8).collect();
    let all = Outcome::ALL
        .into_iter()
        .filter(|o| o.drop_reason().is_some() && !ELSEWHERE.contains(o));
    assert_eq!(reasons, all.map(|outcome| outcome as u8).collect());
    each_case(|bench, case| {
        for row in TABLE.iter().filter(|row| row.concerns(case)) {
            bench.clear();
            let frame = (row.provoke)(bench, case);
            bench.events();
            let (run, moved) = bench.run_counted(row.program, &frame);
            let what = format!("{:?} at {:?}, {case:?}", row.reason, row.program);
            assert_eq!(run.verdict, row.verdict, "{what}: {moved:?}");
            let outcomes: Vec<_> = moved.iter().map(|(_, outcome, n)| (*outcome, *n)).collect();
            assert_eq!(outcomes, [(Outcome::Seen, 1), (row.reason, 1)], "{what}");

            let drops = bench.drops();
            let key = *drops.keys().next().expect("a drop");
            let expected = DropKey {
                backend: key.backend,
                ..row.program.drop_key(bench, row.reason)
            };
            assert_eq!(drops, BTreeMap::from([(expected, 1)]), "{what}");
            let about = (row.node != 0).then(|| case.family.pod(row.node, 13));
            assert_eq!(bench.backend_addr(key.backend), about, "{what}");
            check_sample(bench, row, &frame, &what);
        }
    });
}

/// Whether a reason was sampled in this tick, the clock decides: another tick comes.
fn sample(bench: &mut Bench, program: Program, frame: &[u8]) -> Event {
    bench.events();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        bench.run(program, frame);
        if let [event] = bench.events()[..] {
            return event;
        }
        assert!(Instant::now() < deadline, "{program:?} sends no sample");
    }
}

#[track_caller]
fn check_sample(bench: &mut Bench, row: &Row, frame: &[u8], what: &str) {
    let event = sample(bench, row.program, frame);
    let key = *bench.drops().keys().next().expect("a drop");
    let place = (event.ifindex, event.hook, event.reason, event.backend);
    assert_eq!(
        place,
        (key.ifindex, key.hook, key.reason, key.backend),
        "{what}"
    );
    assert_eq!(bench.last_drop(row.reason), event, "{what}");
    check_describes(&event, frame, what);
}

/// The sample has what stands in the frame.
#[track_caller]
fn check_describes(event: &Event, frame: &[u8], what: &str) {
    let is_v4 = frame[12..14] == [8, 0];
    let at = |offset: usize| u16::from_be_bytes([frame[offset], frame[offset + 1]]);
    let (protocol, l4, ip_len) = if is_v4 {
        (frame[23], 34, at(16))
    } else {
        (frame[20], 54, at(18) + 40)
    };
    let ends = if is_v4 {
        [12, 16].map(|offset| {
            let octets: [u8; 4] = frame[14 + offset..][..4].try_into().unwrap();
            IpAddr::from(octets)
        })
    } else {
        [8, 24].map(|offset| {
            let octets: [u8; 16] = frame[14 + offset..][..16].try_into().unwrap();
            IpAddr::from(octets)
        })
    };
    let flags = if protocol == 6 { frame[l4 + 13] } else { 0 };
    assert_eq!(
        [event.src, event.dst].map(|addr| addr.to_ip()),
        ends,
        "{what}"
    );
    let found = (event.src_port, event.dst_port, event.ip_len);
    assert_eq!(found, (at(l4), at(l4 + 2), ip_len), "{what}");
    assert_eq!(
        (event.protocol, event.tcp_flags),
        (protocol, flags),
        "{what}"
    );
    assert!(event.time_ns > 0, "{what}");
}

#[test]
fn a_flood_of_dropped_packets_sends_one_sample_a_tick_and_cpu() {
    on_bench(|bench| {
        let case = Case::all().next().expect("a case");
        let frame = loopback_on_the_wire(bench, case);
        bench.events();
        let hz = bench.config().ticks_per_second;
        let began = Instant::now();
        let (mut sent, mut events) = (0_u64, 0);
        // A flood is as long as it is many more packets than may be sampled.
        let allowed = |began: Instant| {
            let ticks = began.elapsed().as_secs_f64() * f64::from(hz);
            (ticks as u64 + 2) * cpus()
        };
        while began.elapsed() < Duration::from_millis(200) {
            bench.run(Program::WireIngress, &frame);
            sent += 1;
            events += bench.events().len() as u64;
        }
        let allowed = allowed(began);
        assert!(
            (2..=allowed).contains(&events),
            "{events} of {sent} were sent, not {allowed}"
        );
        assert!(sent > 4 * allowed, "{sent} packets were no flood");
        let key = Program::WireIngress.drop_key(bench, Martian);
        assert_eq!(bench.drops(), BTreeMap::from([(key, sent)]));
    });
}

fn cpus() -> u64 {
    std::thread::available_parallelism().unwrap().get() as u64
}

#[test]
fn a_flood_does_not_hide_another_reason() {
    on_bench(|bench| {
        let case = Case::all().next().expect("a case");
        let flood = loopback_on_the_wire(bench, case);
        let rare = nobody_here(bench, case);
        let before = bench.last_drop(NoBackend);
        let deadline = Instant::now() + Duration::from_secs(5);
        // The flood has this tick's sample; the rare packet is the last of its kind all the same.
        loop {
            bench.run(Program::WireIngress, &flood);
            bench.events();
            bench.run(Program::WireIngress, &rare);
            if bench.events().is_empty() && bench.last_drop(NoBackend) != before {
                break;
            }
            assert!(Instant::now() < deadline, "the rare reason is not sampled");
        }
    });
}
