use std::vec::Vec;

use bytemuck::Pod;
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, NetSlice, PacketBuilder,
    SlicedPacket, TcpHeader, TransportSlice, icmpv4::DestUnreachableHeader,
    icmpv6::DestUnreachableCode,
};
use proptest::prelude::*;

use super::*;
use crate::packet::{Packet, V4, V6, Walk, ethertype, headers, parse};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame that can grow, and whose device may have been left its checksum.
struct Growing {
    bytes: Vec<u8>,
    /// Where the device finds the field, if it has been left the checksum.
    partial: Option<usize>,
}

impl Packet for Growing {
    fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes.get(offset..offset + size_of::<T>())?;
        Some(bytemuck::pod_read_unaligned(bytes))
    }
}

impl PacketMut for Growing {
    fn store<T: Pod>(&mut self, offset: usize, value: &T) -> Option<()> {
        let bytes = self.bytes.get_mut(offset..offset + size_of::<T>())?;
        bytes.copy_from_slice(bytemuck::bytes_of(value));
        Some(())
    }
}

impl Resize for Growing {
    fn set_len(&mut self, len: usize) -> Option<()> {
        self.bytes.resize(len, 0xee);
        Some(())
    }

    fn is_checksum_partial(&mut self, _: usize) -> bool {
        self.partial.is_some()
    }
}

impl Growing {
    /// Does what a device does that computes checksums (`skb_checksum_help`).
    fn complete(&mut self, l4: usize) {
        let Some(field) = self.partial else { return };
        let sum = self.bytes[l4..].chunks(2).fold(Delta::ZERO, |sum, pair| {
            let word = u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
            sum.replace_half(0, word)
        });
        let folded = match checksum::apply(!0, sum) {
            0 => 0xffff,
            sum => sum,
        };
        self.bytes[field..field + 2].copy_from_slice(&folded.to_ne_bytes());
    }
}

#[derive(Clone, Copy, Debug)]
enum Sent {
    Syn,
    /// An ACK with data.
    Data,
    Fin,
    Datagram,
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        Just(Sent::Syn),
        Just(Sent::Data),
        Just(Sent::Fin),
        Just(Sent::Datagram)
    ]
}

fn frame(v4: bool, sent: Sent, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    let ip = if v4 {
        eth.ipv4([10, 0, 0, 1], [10, 96, 0, 17], 64)
    } else {
        let [mut src, mut dst] = [[0xfd; 16]; 2];
        (src[15], dst[15]) = (1, 17);
        eth.ipv6(src, dst, 64)
    };
    let [src, dst] = ports;
    let mut bytes = Vec::new();
    let tcp =
        |ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>| ip.tcp(src, dst, 700, 1000);
    let written = match sent {
        Sent::Syn => tcp(ip)
            .syn()
            .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)])
            .unwrap()
            .write(&mut bytes, payload),
        Sent::Data => tcp(ip).ack(5000).write(&mut bytes, payload),
        Sent::Fin => tcp(ip).fin().write(&mut bytes, payload),
        Sent::Datagram => ip.udp(src, dst).write(&mut bytes, payload),
    };
    written.unwrap();
    bytes
}

/// Answers an echo request as the programs do.
fn echo_back<F: Family>(packet: &mut Growing) {
    let l3 = ethernet::HEADER_LEN;
    let found = headers::<F, _>(packet, l3, &mut Walk::zeroed()).unwrap();
    let mut parsed = Parsed::zeroed();
    parsed.read_portless::<F, _>(packet, found).unwrap();
    let l4 = found.l4();
    echo::<F, _>(packet, &parsed, Offsets { l3, l4 }).unwrap();
}

/// Rejects a frame as the programs do; `partial` if its sender left the checksum to the device.
fn rejected(bytes: &[u8], partial: bool) -> Option<Vec<u8>> {
    fn run<F: Family>(mut packet: Growing, partial: bool) -> Option<Vec<u8>> {
        let (parsed, offsets) = parse::<F, _>(&packet).unwrap();
        let field = if parsed.tuple.protocol == protocol::TCP {
            tcp::field::CHECKSUM
        } else {
            udp::field::CHECKSUM
        };
        let l4 = offsets.l3 + ip_header_len::<F>();
        packet.partial = partial.then_some(l4 + field);
        let refusal = Message::refusal(&parsed);
        tell::<F, _>(&mut packet, &parsed, offsets, &mut Quote::zeroed(), refusal)?;
        packet.complete(l4);
        Some(packet.bytes)
    }
    let packet = Growing {
        bytes: bytes.to_vec(),
        partial: None,
    };
    match ethertype(&packet) {
        Some(crate::wire::ethernet::IPV4) => run::<V4>(packet, partial),
        _ => run::<V6>(packet, partial),
    }
}

/// Checks addresses and the IP header of an answer.
fn check_ip(answer: &SlicedPacket<'_>, question: &SlicedPacket<'_>) {
    match (answer.net.as_ref().unwrap(), question.net.as_ref().unwrap()) {
        (NetSlice::Ipv4(answer), NetSlice::Ipv4(question)) => {
            let (answer, question) = (answer.header(), question.header());
            assert_eq!(answer.source_addr(), question.destination_addr());
            assert_eq!(answer.destination_addr(), question.source_addr());
            assert_eq!(
                answer.header_checksum(),
                answer.to_header().calc_header_checksum()
            );
        }
        (NetSlice::Ipv6(answer), NetSlice::Ipv6(question)) => {
            let (answer, question) = (answer.header(), question.header());
            assert_eq!(answer.source_addr(), question.destination_addr());
            assert_eq!(answer.destination_addr(), question.source_addr());
        }
        other => panic!("{other:?}"),
    }
}

fn tcp_checksum(net: &NetSlice<'_>, header: &TcpHeader) -> u16 {
    match net {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header();
            header
                .calc_checksum_ipv4_raw(ip.source(), ip.destination(), &[])
                .unwrap()
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header();
            header
                .calc_checksum_ipv6_raw(ip.source(), ip.destination(), &[])
                .unwrap()
        }
        NetSlice::Arp(_) => unreachable!("no ARP is built here"),
    }
}

fn check_reset(answer: &SlicedPacket<'_>, sent: Sent, ports: [u16; 2], data_len: u32) {
    let Some(TransportSlice::Tcp(tcp)) = &answer.transport else {
        panic!("no RST: {answer:?}");
    };
    let header = tcp.to_header();
    assert!(header.rst && !header.syn && !header.fin);
    assert_eq!([header.destination_port, header.source_port], ports);
    match sent {
        Sent::Data => assert_eq!((header.ack, header.sequence_number), (false, 5000)),
        _ => {
            let expected = (true, 700 + data_len + 1, 0);
            let got = (
                header.ack,
                header.acknowledgment_number,
                header.sequence_number,
            );
            assert_eq!(got, expected);
        }
    }
    assert!(tcp.payload().is_empty());
    let computed = tcp_checksum(answer.net.as_ref().unwrap(), &header);
    assert_eq!(header.checksum, computed);
}

fn check_unreachable(answer: &SlicedPacket<'_>, question: &[u8], is_partial: bool) {
    let quoted = match &answer.transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            let port = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
            assert_eq!(icmp.icmp_type(), port);
            if !is_partial {
                let expected = Icmpv4Header::with_checksum(port, icmp.payload());
                assert_eq!(icmp.checksum(), expected.checksum);
            }
            icmp.payload()
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let port = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port);
            assert_eq!(icmp.icmp_type(), port);
            let Some(NetSlice::Ipv6(ip)) = &answer.net else {
                panic!("{answer:?}");
            };
            let ip = ip.header();
            let is_valid = icmp.is_checksum_valid(ip.source(), ip.destination());
            assert!(is_valid);
            icmp.payload()
        }
        other => panic!("no ICMP error: {other:?}"),
    };
    assert_eq!(quoted, &question[14..14 + quoted.len()]);
    assert!(quoted.len() == 28 || quoted.len() == 48);
}

/// Whether what IPv4's ICMP checksum covers adds up.
fn icmp_adds_up(bytes: &[u8]) -> bool {
    let sum = bytes.chunks(2).fold(Delta::ZERO, |sum, pair| {
        sum.replace_half(0, u16::from_ne_bytes([pair[0], pair[1]]))
    });
    checksum::apply(!0, sum) == 0
}

proptest! {
    #[test]
    fn s41_tcp_gets_a_reset_and_all_else_an_icmp_error(
        v4: bool, sent in sent(), ports: [u16; 2], partial: bool,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let question = frame(v4, sent, ports, &payload);
        let answer = rejected(&question, partial).unwrap();
        prop_assert_eq!(&answer[..6], &CLIENT_MAC[..]);
        prop_assert_eq!(&answer[6..12], &OWN_MAC[..]);
        let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
        check_ip(&sliced, &SlicedPacket::from_ethernet(&question).unwrap());
        if let Sent::Datagram = sent {
            check_unreachable(&sliced, &question, partial);
            prop_assert!(!v4 || icmp_adds_up(&answer[34..]));
        } else {
            check_reset(&sliced, sent, ports, payload.len() as u32);
        }
    }

    #[test]
    fn s29_an_echo_reply_has_the_requests_content(
        v4: bool, id: u16, seq: u16, payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let eth = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
        let mut question = Vec::new();
        let written = if v4 {
            let ip = eth.ipv4([10, 0, 0, 1], [10, 96, 0, 17], 33);
            ip.icmpv4_echo_request(id, seq).write(&mut question, &payload)
        } else {
            eth.ipv6([1; 16], [2; 16], 33).icmpv6_echo_request(id, seq).write(&mut question, &payload)
        };
        written.unwrap();
        let mut packet = Growing { bytes: question.clone(), partial: None };
        if v4 {
            echo_back::<V4>(&mut packet);
        } else {
            echo_back::<V6>(&mut packet);
        }
        let answer = SlicedPacket::from_ethernet(&packet.bytes).unwrap();
        check_ip(&answer, &SlicedPacket::from_ethernet(&question).unwrap());
        let expected = IcmpEchoHeader { id, seq };
        match answer.transport.unwrap() {
            TransportSlice::Icmpv4(icmp) => {
                let reply = Icmpv4Type::EchoReply(expected);
                prop_assert_eq!(icmp.icmp_type(), reply.clone());
                prop_assert_eq!(icmp.payload(), &payload[..]);
                let computed = Icmpv4Header::with_checksum(reply, &payload).checksum;
                prop_assert_eq!(icmp.checksum(), computed);
            }
            TransportSlice::Icmpv6(icmp) => {
                let reply = Icmpv6Type::EchoReply(expected);
                prop_assert_eq!(icmp.icmp_type(), reply);
                let computed =
                    Icmpv6Header::with_checksum(reply, [2; 16], [1; 16], &payload).unwrap();
                prop_assert_eq!(icmp.checksum(), computed.checksum);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_reset_is_never_answered() {
    let mut question = frame(true, Sent::Data, [1, 2], &[]);
    question[34 + 13] |= tcp::RST;
    assert_eq!(rejected(&question, false), None);
}

#[test]
fn nobody_in_particular_is_answered_and_nothing_that_went_to_a_whole_link() {
    let question = frame(true, Sent::Syn, [1, 2], &[]);
    assert!(rejected(&question, false).is_some());
    for src in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        let mut question = question.clone();
        question[26..30].copy_from_slice(&src);
        assert_eq!(rejected(&question, false), None, "{src:?}");
    }
    let mut group = question;
    group[0] |= 1;
    assert_eq!(rejected(&group, false), None);
    for src in [0, 1, 0xff << 120 | 1_u128] {
        let mut question = frame(false, Sent::Datagram, [1, 2], &[]);
        question[22..38].copy_from_slice(&src.to_be_bytes());
        assert_eq!(rejected(&question, false), None, "{src:x}");
    }
}

#[test]
fn so_many_errors_a_second_and_no_more() {
    let now = |tick| Now {
        tick,
        ticks_per_second: 250,
    };
    let mut spent = Spent::default();
    let mut take = |tick, limit| spent.take(now(tick), limit);
    assert!((0..2).all(|_| take(1000, 2)), "the first second");
    assert!((1000..1250).all(|tick| !take(tick, 2)), "too many");
    assert!((0..2).all(|_| take(1250, 2)), "the next second");
    assert!(!take(1250, 2));
    assert!((0..10).all(|_| take(1251, 0)), "without a limit");
}

#[test]
fn errors_by_which_senders_learn_sizes_are_not_limited() {
    for is_v4 in [true, false] {
        assert!(Message::time_exceeded(is_v4).is_limited());
        assert!(!Message::too_big(is_v4, 1280).is_limited());
    }
}
