//! A packet that is no Service's business leaves every program as it came.

use std::net::{IpAddr, SocketAddr};

use lb_common::counter::Outcome::{FragmentHeld, Martian};
use lb_tests::programs::{
    Bench, Case, Family, Packet, Pod, Program, Service, Transport, Verdict, each_case, on_bench,
};
use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

/// Serves Services of every kind, and has connections to them, of which the packets below must
/// not remind any program.
fn busy(bench: &mut Bench) {
    bench.serve(&[
        Service::new(1, [Pod::on(1, 11)]),
        Service::new(2, [Pod::on(2, 13)]),
        Service::new(3, []),
    ]);
    for case in Case::all() {
        for number in [1, 2] {
            for port in [40_000, 61_234] {
                let outside = case.opening(case.client(port), case.node_port(number));
                bench.run(Program::WireIngress, &outside.bytes());
                let inside = case.opening(case.pod_client(port), case.vip(number));
                bench.run(Program::PodIngress, &inside.bytes());
            }
        }
    }
    assert_eq!(bench.flows().len(), 4 * 2 * 2 * 2);
}

#[track_caller]
fn check_untouched(bench: &mut Bench, frame: &[u8]) {
    for program in Program::ALL {
        let (run, moved) = bench.run_counted(program, frame);
        // A piece that comes before the first one of its packet waits for that.
        if let [(_, FragmentHeld, 1)] = moved[..] {
            assert_eq!(run.verdict, Verdict::Drop, "{program:?} on {frame:02x?}");
            continue;
        }
        assert_eq!(run.verdict, Verdict::Next, "{program:?} on {frame:02x?}");
        assert!(
            run.frame == frame,
            "{program:?} on {frame:02x?}: {:02x?}",
            run.frame
        );
        assert!(!run.marked, "{program:?} on {frame:02x?}");
    }
}

/// Runs `test` on values of `strategy`, on a busy bench.
fn check_all<S: Strategy + Sync>(strategy: S, test: impl Fn(&mut Bench, S::Value) + Sync) {
    on_bench(|bench| {
        busy(bench);
        let bench = std::cell::RefCell::new(bench);
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 512,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let outcome = runner.run(&strategy, |value| {
            test(&mut bench.borrow_mut(), value);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
    });
}

/// EtherTypes that anybody's frames have: IPv4, IPv6, ARP, VLAN, and none at all.
fn ethertype() -> impl Strategy<Value = [u8; 2]> {
    prop_oneof![
        3 => Just([0x08, 0x00]),
        3 => Just([0x86, 0xdd]),
        1 => Just([0x08, 0x06]),
        1 => Just([0x81, 0x00]),
        1 => any::<[u8; 2]>(),
    ]
}

#[test]
fn random_bytes() {
    // `BPF_PROG_TEST_RUN` for tc wants a whole IP header where the EtherType announces one.
    let payload = prop::collection::vec(any::<u8>(), 40..400);
    let strategy = (any::<[u8; 12]>(), ethertype(), payload);
    check_all(strategy, |bench, (macs, ethertype, payload)| {
        check_untouched(bench, &[&macs[..], &ethertype, &payload].concat());
    });
}

fn address(family: Family) -> impl Strategy<Value = IpAddr> {
    let known: Vec<IpAddr> = [1, 2]
        .map(|node| family.node(node))
        .into_iter()
        .chain([
            family.pod(1, 11),
            family.pod(1, 99),
            family.pod(2, 13),
            family.client(1),
        ])
        .collect();
    let any = (any::<u128>(), Just(family)).prop_map(|(bits, family)| match family {
        Family::V4 => IpAddr::V4((bits as u32).into()),
        Family::V6 => IpAddr::V6(bits.into()),
    });
    let any = any.prop_filter("no packet has it", |addr| !addr.is_loopback());
    prop_oneof![prop::sample::select(known), any]
}

fn packet() -> impl Strategy<Value = Packet> {
    let transport = prop::sample::select(Transport::ALL.to_vec());
    let ends = prop::sample::select(Family::ALL.to_vec())
        .prop_flat_map(|family| (address(family), address(family)));
    // Neither the Services' ports nor those of the connections.
    let port = || {
        prop_oneof![0..30_000_u16, 41_000..61_000_u16, 62_000..=u16::MAX]
            .prop_filter("a port of a Service or a backend", |port| {
                ![80, 8000].contains(port)
            })
    };
    (
        transport,
        any::<u8>(),
        ends,
        port(),
        port(),
        any::<u8>(),
        0..200_usize,
        any::<bool>(),
    )
        .prop_map(
            |(transport, flags, (src, dst), src_port, dst_port, ttl, len, has_checksum)| {
                let (src, dst) = (
                    SocketAddr::new(src, src_port),
                    SocketAddr::new(dst, dst_port),
                );
                let packet = Packet::new(transport, flags, src, dst)
                    .ttl(ttl)
                    .payload(len);
                if has_checksum || transport == Transport::Tcp {
                    packet
                } else {
                    packet.without_checksum()
                }
            },
        )
}

#[test]
fn packets_of_others() {
    check_all(packet(), |bench, packet| {
        check_untouched(bench, &packet.bytes());
    });
}

#[test]
fn mutilated_packets() {
    // A few bytes do not make the address and the port of a Service.
    let mutations = prop::collection::vec((any::<Index>(), any::<u8>()), 1..8);
    check_all(
        (packet(), mutations, any::<Index>()),
        |bench, (packet, mutations, len)| {
            let mut frame = packet.bytes();
            for (place, byte) in mutations {
                let place = place.index(frame.len());
                frame[place] = byte;
            }
            let headers = 14 + 40;
            frame.resize(
                (headers + len.index(frame.len())).min(frame.len().max(headers)),
                0,
            );
            let is_martian = frame[12..14] == [8, 0] && [frame[26], frame[30]].contains(&127);
            if !is_martian {
                check_untouched(bench, &frame);
            }
        },
    );
}

/// A NodePort on the loopback address is for processes of the node only: a packet with it comes
/// from somebody who should not send it.
#[test]
fn s22_a_loopback_address_on_the_wire_is_dropped() {
    each_case(|bench, case| {
        busy(bench);
        let loopback: IpAddr = match case.family {
            Family::V4 => [127, 0, 0, 1].into(),
            Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        let to = (loopback, case.node_port(1).port()).into();
        let from = (loopback, 50_000).into();
        for packet in [
            case.opening(case.client(50_000), to),
            case.opening(from, case.node_port(1)),
        ] {
            for program in Program::WIRE {
                bench.check(program, &packet, Verdict::Drop, &packet, &[Martian]);
            }
        }
        let packet = case.opening(case.pod_client(50_000), to);
        bench.check(Program::PodIngress, &packet, Verdict::Next, &packet, &[]);
    });
}
