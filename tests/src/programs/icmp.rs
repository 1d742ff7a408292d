//! ICMP errors, made by etherparse.

use std::net::IpAddr;

use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
use lb_common::wire::{ethernet, ipv4, ipv6};

use super::{
    Family, Packet,
    devices::{GATEWAY_MAC, UPLINK_MAC},
    packet::ends,
};

/// A kind of ICMP error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Of IPv4.
    V4(Icmpv4Type),
    /// Of IPv6.
    V6(Icmpv6Type),
}

impl IcmpError {
    /// The packet is too big for a link that takes `size` bytes.
    #[must_use]
    pub fn too_big(family: Family, size: u16) -> Self {
        match family {
            Family::V4 => Self::V4(Icmpv4Type::DestinationUnreachable(
                icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: size },
            )),
            Family::V6 => Self::V6(Icmpv6Type::PacketTooBig { mtu: size.into() }),
        }
    }

    /// Nobody listens on the port.
    #[must_use]
    pub fn unreachable(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4(Icmpv4Type::DestinationUnreachable(
                icmpv4::DestUnreachableHeader::Port,
            )),
            Family::V6 => Self::V6(Icmpv6Type::DestinationUnreachable(
                icmpv6::DestUnreachableCode::Port,
            )),
        }
    }

    /// The packet has lived too long.
    #[must_use]
    pub fn time_exceeded(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4(Icmpv4Type::TimeExceeded(
                icmpv4::TimeExceededCode::TtlExceededInTransit,
            )),
            Family::V6 => Self::V6(Icmpv6Type::TimeExceeded(
                icmpv6::TimeExceededCode::HopLimitExceeded,
            )),
        }
    }

    /// An echo request, which is no error.
    #[must_use]
    pub fn echo_request(family: Family) -> Self {
        let header = IcmpEchoHeader { id: 1, seq: 2 };
        match family {
            Family::V4 => Self::V4(Icmpv4Type::EchoRequest(header)),
            Family::V6 => Self::V6(Icmpv6Type::EchoRequest(header)),
        }
    }

    /// The frame in which `from` tells the sender of `packet` about it. Quotes its headers, and up to
    /// `payload` bytes of what follows the IP header.
    ///
    /// # Panics
    ///
    /// If `from` is of another family.
    #[must_use]
    pub fn about(&self, from: IpAddr, packet: &Packet, payload: usize) -> Vec<u8> {
        let frame = packet.bytes();
        let [sender, _] = ends(&frame);
        let header_len = if from.is_ipv4() {
            size_of::<ipv4::Ipv4Header>()
        } else {
            ipv6::HEADER_LEN
        };
        let quoted = &frame[ethernet::HEADER_LEN..];
        let quoted = &quoted[..(header_len + payload).min(quoted.len())];
        let eth = PacketBuilder::ethernet2(GATEWAY_MAC, UPLINK_MAC);
        let mut bytes = Vec::new();
        let written = match (self, from, sender.ip()) {
            (Self::V4(kind), IpAddr::V4(from), IpAddr::V4(to)) => eth
                .ipv4(from.octets(), to.octets(), 64)
                .icmpv4(kind.clone())
                .write(&mut bytes, quoted),
            (Self::V6(kind), IpAddr::V6(from), IpAddr::V6(to)) => eth
                .ipv6(from.octets(), to.octets(), 64)
                .icmpv6(*kind)
                .write(&mut bytes, quoted),
            (kind, from, to) => panic!("{kind:?} from {from} to {to}"),
        };
        written.expect("an ICMP error");
        bytes
    }

    /// What a hop does to a frame.
    ///
    /// # Panics
    ///
    /// If it has no IP header.
    pub fn route(frame: &mut [u8]) {
        if frame[12..14] == [8, 0] {
            let header = ethernet::HEADER_LEN;
            frame[header + ipv4::field::TTL] -= 1;
            let (mut ip, _) = etherparse::Ipv4Header::from_slice(&frame[header..]).expect("IPv4");
            ip.header_checksum = ip.calc_header_checksum();
            let mut bytes = Vec::new();
            ip.write(&mut bytes).expect("an IPv4 header");
            frame[header..header + bytes.len()].copy_from_slice(&bytes);
        } else {
            frame[ethernet::HEADER_LEN + ipv6::field::HOP_LIMIT] -= 1;
        }
    }

    /// What a frame is that goes back to where it came from.
    ///
    /// # Panics
    ///
    /// If it has no Ethernet header.
    pub fn bounce(frame: &mut [u8]) {
        let (destination, rest) = frame.split_at_mut(6);
        destination.swap_with_slice(&mut rest[..6]);
    }
}
