use std::vec::Vec;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::packet::{V4, V6, parse};

#[derive(Clone, Debug)]
struct Case {
    v4: bool,
    tcp: bool,
    src: [u8; 16],
    dst: [u8; 16],
    ports: [u16; 2],
    payload: Vec<u8>,
}

fn cases() -> impl Strategy<Value = Case> {
    (
        any::<bool>(),
        any::<bool>(),
        any::<[u8; 16]>(),
        any::<[u8; 16]>(),
        any::<[u16; 2]>(),
        proptest::collection::vec(any::<u8>(), 0..64),
    )
        .prop_map(|(v4, tcp, src, dst, ports, payload)| Case {
            v4,
            tcp,
            src,
            dst,
            ports,
            payload,
        })
}

fn v4(octets: [u8; 16]) -> [u8; 4] {
    [octets[12], octets[13], octets[14], octets[15]]
}

impl Case {
    fn build(&self) -> Vec<u8> {
        let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if self.v4 {
            eth.ipv4(v4(self.src), v4(self.dst), 64)
        } else {
            eth.ipv6(self.src, self.dst, 64)
        };
        let [src, dst] = self.ports;
        let mut bytes = Vec::new();
        if self.tcp {
            let tcp = ip.tcp(src, dst, 7, 1000).syn();
            tcp.write(&mut bytes, &self.payload).unwrap();
        } else {
            ip.udp(src, dst).write(&mut bytes, &self.payload).unwrap();
        }
        bytes
    }

    fn addr(&self, octets: [u8; 16]) -> Addr {
        if self.v4 {
            core::net::Ipv4Addr::from(v4(octets)).into()
        } else {
            Addr { octets }
        }
    }
}

/// Parses and rewrites `bytes`; gives back what was parsed before.
fn run(case: &Case, bytes: &mut [u8], rewrite: &Rewrite) -> Parsed {
    let mut frame = Frame(bytes);
    if case.v4 {
        let (parsed, offsets) = parse::<V4, _>(&frame).expect("a TCP or UDP packet");
        apply::<V4, _>(&mut frame, &parsed, offsets, rewrite).expect("a whole packet");
        parsed
    } else {
        let (parsed, offsets) = parse::<V6, _>(&frame).expect("a TCP or UDP packet");
        apply::<V6, _>(&mut frame, &parsed, offsets, rewrite).expect("a whole packet");
        parsed
    }
}

#[track_caller]
fn assert_checksums_are_right(bytes: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    let transport = sliced.transport.unwrap();
    let (found, right) = match (&sliced.net, &transport) {
        (Some(NetSlice::Ipv4(ip)), TransportSlice::Tcp(tcp)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let right = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload());
            (tcp.checksum(), right.unwrap())
        }
        (Some(NetSlice::Ipv4(ip)), TransportSlice::Udp(udp)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let right = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
            (udp.checksum(), right.unwrap())
        }
        (Some(NetSlice::Ipv6(ip)), TransportSlice::Tcp(tcp)) => {
            let header = ip.header().to_header();
            let right = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload());
            (tcp.checksum(), right.unwrap())
        }
        (Some(NetSlice::Ipv6(ip)), TransportSlice::Udp(udp)) => {
            let header = ip.header().to_header();
            let right = udp.to_header().calc_checksum_ipv6(&header, udp.payload());
            (udp.checksum(), right.unwrap())
        }
        other => panic!("not a TCP or UDP packet: {other:?}"),
    };
    let zeros = [0, 0xffff];
    assert!(found == right || zeros.contains(&found) && zeros.contains(&right));
}

fn endpoint(case: &Case, octets: [u8; 16], port: u16) -> Endpoint {
    Endpoint {
        addr: case.addr(octets),
        port,
    }
}

proptest! {
    #[test]
    fn a_rewritten_packet_says_what_it_should_with_right_checksums(
        case in cases(), a: [u8; 16], b: [u8; 16], p: u16, q: u16, routed: bool,
    ) {
        let (src, dst) = (endpoint(&case, a, p), endpoint(&case, b, q));
        let mut bytes = case.build();
        run(&case, &mut bytes, &Rewrite { src: Some(src), dst: Some(dst), routed });
        assert_checksums_are_right(&bytes);
        let unchanged = Rewrite { src: None, dst: None, routed: false };
        let after = run(&case, &mut bytes, &unchanged);
        prop_assert_eq!((after.tuple.src, after.tuple.src_port), (src.addr, src.port));
        prop_assert_eq!((after.tuple.dst, after.tuple.dst_port), (dst.addr, dst.port));
        prop_assert_eq!(after.ttl, if routed { 63 } else { 64 });
    }

    #[test]
    fn a_rewrite_and_its_reverse_are_the_identity(
        case in cases(), a: [u8; 16], b: [u8; 16], p: u16, q: u16,
    ) {
        let original = case.build();
        let mut bytes = original.clone();
        let there = Rewrite {
            src: Some(endpoint(&case, a, p)),
            dst: Some(endpoint(&case, b, q)),
            routed: false,
        };
        let back = Rewrite {
            src: Some(endpoint(&case, case.src, case.ports[0])),
            dst: Some(endpoint(&case, case.dst, case.ports[1])),
            routed: false,
        };
        run(&case, &mut bytes, &there);
        run(&case, &mut bytes, &back);
        prop_assert_eq!(bytes, original);
    }

    #[test]
    fn a_udp_packet_without_checksum_keeps_none(case in cases(), a: [u8; 16], p: u16) {
        let case = Case { v4: true, tcp: false, ..case };
        let mut bytes = case.build();
        let at = 14 + 20 + udp::field::CHECKSUM;
        bytes[at..at + 2].copy_from_slice(&[0, 0]);
        let dst = Some(endpoint(&case, a, p));
        run(&case, &mut bytes, &Rewrite { src: None, dst, routed: false });
        prop_assert_eq!(&bytes[at..at + 2], &[0, 0]);
    }

    #[test]
    fn no_bytes_make_the_parser_fail(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut bytes = bytes;
        let frame = Frame(&mut bytes);
        let _ = (parse::<V4, _>(&frame), parse::<V6, _>(&frame));
    }
}
