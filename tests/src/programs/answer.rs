//! What the node itself answers to a packet.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice,
    icmpv4, icmpv6,
};

use super::{Case, packet::ends};

/// An answer, as its frame has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A TCP segment with RST.
    Reset {
        /// Who sends it.
        from: SocketAddr,
        /// Who gets it.
        to: SocketAddr,
    },
    /// An ICMP error: nobody listens on the port.
    Unreachable {
        /// Who sends it.
        from: IpAddr,
        /// Who gets it.
        to: IpAddr,
        /// Source and destination port of the packet that it quotes.
        about: [u16; 2],
    },
    /// An ICMP error: the packet is too big for its way.
    TooBig {
        /// Who sends it.
        from: IpAddr,
        /// Who gets it.
        to: IpAddr,
        /// Source and destination port of the packet that it quotes.
        about: [u16; 2],
        /// What the way takes, in bytes.
        size: u32,
    },
    /// An ICMP error: the packet has lived too long.
    TimeExceeded {
        /// Who sends it.
        from: IpAddr,
        /// Who gets it.
        to: IpAddr,
        /// Source and destination port of the packet that it quotes.
        about: [u16; 2],
    },
    /// An ICMP echo reply.
    Echo {
        /// Who sends it.
        from: IpAddr,
        /// Who gets it.
        to: IpAddr,
    },
}

impl Answer {
    /// What `client` is told that dials `dst`, which nobody serves.
    #[must_use]
    pub fn refusal(case: Case, client: SocketAddr, dst: SocketAddr) -> Self {
        if case.is_tcp() {
            Self::Reset {
                from: dst,
                to: client,
            }
        } else {
            Self::Unreachable {
                from: dst.ip(),
                to: client.ip(),
                about: [client.port(), dst.port()],
            }
        }
    }

    /// Reads an answer from its frame.
    ///
    /// # Panics
    ///
    /// If it is none, or a checksum of it is wrong.
    #[must_use]
    #[track_caller]
    pub fn read(frame: &[u8]) -> Self {
        let sliced = SlicedPacket::from_ethernet(frame).expect("a packet");
        let (from, to) = addresses(&sliced);
        match sliced.transport.as_ref().expect("a transport header") {
            TransportSlice::Tcp(tcp) => {
                assert!(tcp.rst(), "{tcp:?}");
                let [from, to] = ends(frame);
                Self::Reset { from, to }
            }
            TransportSlice::Icmpv4(icmp) => Self::read_v4(icmp, from, to),
            TransportSlice::Icmpv6(icmp) => {
                let Some(NetSlice::Ipv6(ip)) = &sliced.net else {
                    panic!("ICMPv6 without IPv6");
                };
                let (src, dst) = (ip.header().source(), ip.header().destination());
                assert!(icmp.is_checksum_valid(src, dst), "ICMPv6 checksum");
                Self::read_v6(icmp, from, to)
            }
            other => panic!("no answer: {other:?}"),
        }
    }

    #[track_caller]
    fn read_v4(icmp: &Icmpv4Slice<'_>, from: IpAddr, to: IpAddr) -> Self {
        let header = etherparse::Icmpv4Header::with_checksum(icmp.icmp_type(), icmp.payload());
        assert_eq!(icmp.checksum(), header.checksum, "ICMP checksum");
        match icmp.icmp_type() {
            Icmpv4Type::EchoReply(_) => Self::Echo { from, to },
            Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port) => {
                let about = ports(&icmp.payload()[20..]);
                Self::Unreachable { from, to, about }
            }
            Icmpv4Type::DestinationUnreachable(
                icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
            ) => Self::TooBig {
                from,
                to,
                about: ports(&icmp.payload()[20..]),
                size: next_hop_mtu.into(),
            },
            Icmpv4Type::TimeExceeded(_) => Self::TimeExceeded {
                from,
                to,
                about: ports(&icmp.payload()[20..]),
            },
            other => panic!("no answer: {other:?}"),
        }
    }

    #[track_caller]
    fn read_v6(icmp: &Icmpv6Slice<'_>, from: IpAddr, to: IpAddr) -> Self {
        match icmp.icmp_type() {
            Icmpv6Type::EchoReply(_) => Self::Echo { from, to },
            Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port) => {
                let about = ports(&icmp.payload()[40..]);
                Self::Unreachable { from, to, about }
            }
            Icmpv6Type::PacketTooBig { mtu } => Self::TooBig {
                from,
                to,
                about: ports(&icmp.payload()[40..]),
                size: mtu,
            },
            Icmpv6Type::TimeExceeded(_) => Self::TimeExceeded {
                from,
                to,
                about: ports(&icmp.payload()[40..]),
            },
            other => panic!("no answer: {other:?}"),
        }
    }
}

fn addresses(sliced: &SlicedPacket<'_>) -> (IpAddr, IpAddr) {
    match sliced.net.as_ref().expect("an IP header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let (src, dst) = (header.source_addr(), header.destination_addr());
            (src.into(), dst.into())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (src, dst) = (header.source_addr(), header.destination_addr());
            (src.into(), dst.into())
        }
        NetSlice::Arp(_) => panic!("ARP is no answer"),
    }
}

fn ports(transport: &[u8]) -> [u16; 2] {
    let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    [port(0), port(2)]
}
