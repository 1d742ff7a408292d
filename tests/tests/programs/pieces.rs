//! Packets in pieces, with extension headers or options, and whose headers lead nowhere.

use std::net::{IpAddr, SocketAddr};

use lb_common::counter::Outcome::{
    self, FragmentHeld, FragmentLost, Malformed, NewFlow, Redirected, Replied, Seen, ToStack,
};
use lb_tests::programs::{
    Bench, Case, Family, NODE2_MAC, Pod, Program, Service, Transport, UPLINK_MAC, Verdict,
    each_case, on_bench,
};

const PORT: u16 = 40_000;
/// A port that a SNATed client keeps, because it lies in the range of SNAT.
const KEPT_PORT: u16 = 61_234;

/// Bytes of a frame in front of the IP header.
const ETH: usize = 14;

/// The pieces of a frame, of which each but the last has `size` bytes behind its IP header.
fn pieces(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    pieces_of(frame, size, 77)
}

/// The same with an identification.
fn pieces_of(frame: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
    let is_v4 = frame[12..14] == [8, 0];
    let header = if is_v4 { 20 } else { 40 };
    let body = &frame[ETH + header..];
    let last = body.len().div_ceil(size) - 1;
    let piece = |(index, part): (usize, &[u8])| {
        let mut bytes = frame[..ETH + header].to_vec();
        let offset = (index * size) as u16;
        if is_v4 {
            let more = if index < last { 0x2000 } else { 0 };
            bytes[ETH + 2..ETH + 4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            bytes[ETH + 4..ETH + 6].copy_from_slice(&id.to_be_bytes());
            bytes[ETH + 6..ETH + 8].copy_from_slice(&(more | (offset / 8)).to_be_bytes());
            seal(&mut bytes);
        } else {
            let more = u16::from(index < last);
            bytes[ETH + 4..ETH + 6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            let next = std::mem::replace(&mut bytes[ETH + 6], 44);
            bytes.extend([next, 0]);
            bytes.extend((offset | more).to_be_bytes());
            bytes.extend(u32::from(id).to_be_bytes());
        }
        bytes.extend(part);
        bytes
    };
    body.chunks(size).enumerate().map(piece).collect()
}

/// Computes the checksum of an IPv4 header anew.
fn seal(frame: &mut [u8]) {
    let header_len = usize::from(frame[ETH] & 0xf) * 4;
    frame[ETH + 10..ETH + 12].fill(0);
    let words = frame[ETH..ETH + header_len].chunks(2);
    let mut sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[ETH + 10..ETH + 12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn datagrams() -> impl Iterator<Item = Case> {
    Case::all().filter(|case| !case.is_tcp())
}

#[track_caller]
fn check(
    bench: &mut Bench,
    program: Program,
    frame: &[u8],
    verdict: Verdict,
    expected: &[u8],
    counted: &[Outcome],
) {
    let (run, moved) = bench.run_counted(program, frame);
    assert_eq!(run.verdict, verdict, "{program:?}: {moved:?}");
    assert!(
        run.frame == expected,
        "{program:?}: {:02x?}, not\n{expected:02x?}",
        run.frame
    );
    let mut moved: Vec<_> = moved
        .into_iter()
        .map(|(_, outcome, _)| outcome as u8)
        .collect();
    moved.sort_unstable();
    let mut counted: Vec<_> = counted.iter().map(|outcome| *outcome as u8).collect();
    counted.sort_unstable();
    assert_eq!(moved, counted, "{program:?}");
}

/// What becomes of every piece is what becomes of the whole packet, cut up.
#[test]
fn pieces_go_where_the_first_one_goes() {
    on_bench(|bench| {
        for case in datagrams() {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
            let (client, vip) = (case.pod_client(PORT), case.vip(1));
            let sent = case.opening(client, vip).payload(3000);
            let got = sent.clone().to(case.backend(1, 11));
            let cut = |packet: &lb_tests::programs::Packet| pieces(&packet.bytes(), 1448);
            for (index, (piece, expected)) in cut(&sent).iter().zip(cut(&got)).enumerate() {
                let counted = [Seen, ToStack, NewFlow];
                let counted = &counted[..if index == 0 { 3 } else { 2 }];
                check(
                    bench,
                    Program::PodIngress,
                    piece,
                    Verdict::Next,
                    &expected,
                    counted,
                );
            }
            let sent = case.answer(case.backend(1, 11), client).payload(3000);
            let got = sent.clone().from(vip);
            for (piece, expected) in cut(&sent).iter().zip(cut(&got)) {
                check(
                    bench,
                    Program::PodEgress,
                    piece,
                    Verdict::Next,
                    &expected,
                    &[Seen, Replied],
                );
            }
        }
    });
}

#[test]
fn pieces_for_a_remote_backend_leave_at_once_by_tc() {
    on_bench(|bench| {
        for case in datagrams() {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
            let (client, node_port) = (case.client(KEPT_PORT), case.node_port(1));
            let sent = case.opening(client, node_port).payload(3000);
            let got = sent
                .clone()
                .from(case.snat(KEPT_PORT))
                .to(case.backend(2, 13))
                .routed();
            let later = got.clone().macs(NODE2_MAC, UPLINK_MAC);
            let all = pieces(&sent.bytes(), 1448).into_iter();
            // The kernel finds the neighbour for the first one.
            let expected = pieces(&got.bytes(), 1448).into_iter().take(1);
            let expected = expected.chain(pieces(&later.bytes(), 1448).into_iter().skip(1));
            for (index, (piece, expected)) in all.zip(expected).enumerate() {
                check(bench, Program::Xdp, &piece, Verdict::Next, &piece, &[]);
                let counted = [Seen, Redirected, NewFlow];
                let counted = &counted[..if index == 0 { 3 } else { 2 }];
                check(
                    bench,
                    Program::WireIngress,
                    &piece,
                    Verdict::Out,
                    &expected,
                    counted,
                );
            }
        }
    });
}

/// Lets as many pieces wait as can.
#[track_caller]
fn hold_all(bench: &mut Bench, later: &[u8]) {
    let (program, verdict) = (Program::WireIngress, Verdict::Drop);
    for _ in 0..lb_common::fragment::HELD_MAX {
        check(bench, program, later, verdict, later, &[FragmentHeld]);
    }
}

#[test]
fn piece_that_comes_before_the_first_one_waits_until_there_is_no_room() {
    on_bench(|bench| {
        for case in datagrams() {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
            let sent = case.opening(case.client(PORT), case.vip(1)).payload(3000);
            // No other packet of these two has it.
            let later = &pieces_of(&sent.bytes(), 1448, 78)[1];
            hold_all(bench, later);
            check(
                bench,
                Program::WireIngress,
                later,
                Verdict::Drop,
                later,
                &[FragmentLost],
            );
            // What is for the node itself, the node can put together.
            let own = sent.clone().to(case.node_port(1));
            let later = &pieces_of(&own.bytes(), 1448, 79)[1];
            hold_all(bench, later);
            check(
                bench,
                Program::WireIngress,
                later,
                Verdict::Next,
                later,
                &[],
            );
            // What comes in for somebody else is not kept from them.
            let others = sent.clone().to((case.family.pod(3, 1), 80));
            let later = &pieces(&others.bytes(), 1448)[1];
            check(
                bench,
                Program::WireIngress,
                later,
                Verdict::Next,
                later,
                &[],
            );
        }
    });
}

/// Inserts IPv6's extension headers, or IPv4's options, in front of the transport header.
fn lengthened(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    if frame[12..14] == [8, 0] {
        let options = [1_u8; 8];
        bytes.splice(ETH + 20..ETH + 20, options);
        bytes[ETH] = 0x47;
        let len = u16::from_be_bytes([bytes[ETH + 2], bytes[ETH + 3]]) + 8;
        bytes[ETH + 2..ETH + 4].copy_from_slice(&len.to_be_bytes());
        seal(&mut bytes);
    } else {
        let next = std::mem::replace(&mut bytes[ETH + 6], 0);
        // Hop-by-hop options (padding), then destination options of two units, then the rest.
        let mut headers = vec![60, 0, 1, 4, 0, 0, 0, 0];
        headers.extend([next, 1, 1, 12]);
        headers.extend([0; 12]);
        let len = u16::from_be_bytes([bytes[ETH + 4], bytes[ETH + 5]]) + headers.len() as u16;
        bytes[ETH + 4..ETH + 6].copy_from_slice(&len.to_be_bytes());
        bytes.splice(ETH + 40..ETH + 40, headers);
    }
    bytes
}

#[test]
fn options_and_extension_headers_are_stepped_over() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(1, 11)]), Service::new(2, [])]);
        let (client, vip) = (case.pod_client(PORT), case.vip(1));
        let sent = case.opening(client, vip);
        let got = sent.clone().to(case.backend(1, 11));
        let (sent, got) = (lengthened(&sent.bytes()), lengthened(&got.bytes()));
        check(
            bench,
            Program::PodIngress,
            &sent,
            Verdict::Next,
            &got,
            &[Seen, NewFlow, ToStack],
        );
        let sent = case.answer(case.backend(1, 11), client);
        let got = sent.clone().from(vip);
        let (sent, got) = (lengthened(&sent.bytes()), lengthened(&got.bytes()));
        check(
            bench,
            Program::PodEgress,
            &sent,
            Verdict::Next,
            &got,
            &[Seen, Replied],
        );
        // And whom nobody serves is told so.
        let refused = lengthened(&case.opening(client, case.vip(2)).bytes());
        let run = bench.run(Program::PodIngress, &refused);
        assert_eq!(run.verdict, Verdict::Out);
        let [from, to]: [SocketAddr; 2] = [case.vip(2), client];
        if case.is_tcp() {
            assert_eq!(run.ends(), [from, to]);
        }
    });
}

#[test]
fn packet_whose_headers_lead_nowhere_is_dropped_if_it_is_for_a_service() {
    on_bench(|bench| {
        let case = Case {
            family: Family::V6,
            transport: Transport::Udp,
        };
        bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
        let routed = |dst: SocketAddr| {
            let mut bytes = case.opening(case.pod_client(PORT), dst).bytes();
            let next = std::mem::replace(&mut bytes[ETH + 6], 43);
            let len = u16::from_be_bytes([bytes[ETH + 4], bytes[ETH + 5]]) + 8;
            bytes[ETH + 4..ETH + 6].copy_from_slice(&len.to_be_bytes());
            // One station is left.
            bytes.splice(ETH + 40..ETH + 40, [next, 0, 0, 1, 0, 0, 0, 0]);
            bytes
        };
        let for_service = routed(case.vip(1));
        check(
            bench,
            Program::PodIngress,
            &for_service,
            Verdict::Drop,
            &for_service,
            &[Malformed],
        );
        let other: IpAddr = case.family.pod(2, 13);
        let for_other = routed((other, 80).into());
        check(
            bench,
            Program::PodIngress,
            &for_other,
            Verdict::Next,
            &for_other,
            &[],
        );
    });
}
