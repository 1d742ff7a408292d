//! Reading packets: one parser for both families and for XDP and tc.

use bytemuck::{Pod, Zeroable};

use crate::{
    Addr, Protocol, Tuple, protocol,
    wire::{
        ethernet, icmp,
        ipv4::Ipv4Header,
        ipv6::{self, Ipv6Header},
        tcp::TcpStart,
        udp::UdpHeader,
    },
};

/// Bytes of a frame that begins with its Ethernet header.
pub trait Packet {
    /// The value at `offset`, or nothing if the frame ends before it does.
    fn read<T: Pod>(&self, offset: usize) -> Option<T>;
}

/// An address family. Code is generic over it, so that neither family pays for the other.
pub trait Family {
    /// Whether this is IPv4.
    const IS_V4: bool;

    /// Reads the IP header at `l3`. Nothing if it is malformed, a fragment, or has extension
    /// headers: such a packet has no ports where they are looked for.
    fn read<P: Packet>(packet: &P, l3: usize) -> Option<IpHeader>;
}

/// IPv4.
pub struct V4;
/// IPv6.
pub struct V6;

/// What both families' headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// IP protocol number of the payload.
    pub protocol: Protocol,
    /// Time to live, hop limit.
    pub ttl: u8,
    /// Length of header and payload in bytes, as the header has it.
    pub len: u16,
    /// Whether a router may cut it into pieces.
    pub may_fragment: bool,
    /// Where the payload begins, in bytes from the frame's start.
    pub l4: usize,
}

impl Family for V4 {
    const IS_V4: bool = true;

    #[inline(always)]
    fn read<P: Packet>(packet: &P, l3: usize) -> Option<IpHeader> {
        let header: Ipv4Header = packet.read(l3)?;
        let header_len = header.header_len();
        if header.version_ihl >> 4 != 4 || header_len < size_of::<Ipv4Header>() {
            return None;
        }
        if header.is_fragment() {
            return None;
        }
        Some(IpHeader {
            src: Addr::from_wire_v4(header.src),
            dst: Addr::from_wire_v4(header.dst),
            protocol: header.protocol,
            ttl: header.ttl,
            len: u16::from_be(header.total_len),
            may_fragment: header.may_fragment(),
            l4: l3 + header_len,
        })
    }
}

impl Family for V6 {
    const IS_V4: bool = false;

    #[inline(always)]
    fn read<P: Packet>(packet: &P, l3: usize) -> Option<IpHeader> {
        let header: Ipv6Header = packet.read(l3)?;
        if u32::from_be(header.version_flow) >> 28 != 6 {
            return None;
        }
        Some(IpHeader {
            src: Addr::from_wire_words(header.src),
            dst: Addr::from_wire_words(header.dst),
            protocol: header.next_header,
            ttl: header.hop_limit,
            len: u16::from_be(header.payload_len).saturating_add(ipv6::HEADER_LEN as u16),
            may_fragment: false,
            l4: l3 + ipv6::HEADER_LEN,
        })
    }
}

/// A packet that has a 5-tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Parsed {
    /// Its 5-tuple.
    pub tuple: Tuple,
    /// TCP flags; 0 in other protocols.
    pub tcp_flags: u8,
    /// Type of an ICMP message; 0 in other protocols.
    pub icmp_type: u8,
    /// Time to live, hop limit.
    pub ttl: u8,
    /// Length of IP header and payload in bytes.
    pub ip_len: u16,
    /// Whether a router may cut the packet into pieces.
    pub may_fragment: bool,
    /// Whether there is no checksum to update: UDP over IPv4 without one.
    pub no_checksum: bool,
}

/// Where a packet's headers begin, in bytes from the frame's start.
///
/// Apart from [`Parsed`]: what a program reads back from memory has no bounds that the verifier
/// would know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The IP header.
    pub l3: usize,
    /// The transport header.
    pub l4: usize,
}

/// What an ICMP message is about, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Are you there?
    EchoRequest,
    /// Anything else: answers, errors, and how hosts find each other.
    Other,
}

impl Parsed {
    /// What an ICMP message is; nothing if this is none.
    #[inline(always)]
    #[must_use]
    pub fn icmp(&self) -> Option<Icmp> {
        let echo_request = match self.tuple.protocol {
            protocol::ICMP => icmp::v4::ECHO_REQUEST,
            protocol::ICMPV6 => icmp::v6::ECHO_REQUEST,
            _ => return None,
        };
        Some(if self.icmp_type == echo_request {
            Icmp::EchoRequest
        } else {
            Icmp::Other
        })
    }

    /// Whether this is a client's first segment of a TCP connection.
    #[inline(always)]
    #[must_use]
    pub fn is_syn(&self) -> bool {
        self.tuple.protocol == protocol::TCP && self.opens()
    }

    /// Whether this packet opens a connection: a SYN, or any UDP packet.
    #[inline(always)]
    #[must_use]
    pub fn opens(&self) -> bool {
        use crate::wire::tcp::{ACK, RST, SYN};
        self.tuple.protocol != protocol::TCP || self.tcp_flags & (SYN | ACK | RST) == SYN
    }
}

/// EtherType of a frame, host byte order.
#[inline(always)]
#[must_use]
pub fn ethertype<P: Packet>(packet: &P) -> Option<u16> {
    packet
        .read::<u16>(ethernet::field::ETHERTYPE)
        .map(u16::from_be)
}

/// Parses an untagged frame that carries `F`. Nothing if it has no ports: if it is neither TCP, UDP
/// nor SCTP, or a fragment.
#[inline(always)]
#[must_use]
pub fn parse<F: Family, P: Packet>(packet: &P) -> Option<(Parsed, Offsets)> {
    let l3 = ethernet::HEADER_LEN;
    let ip = F::read(packet, l3)?;
    let (ports, tcp_flags, no_checksum) = match ip.protocol {
        protocol::TCP => {
            let tcp: TcpStart = packet.read(ip.l4)?;
            ([tcp.src_port, tcp.dst_port], tcp.flags, false)
        }
        protocol::UDP => {
            let udp: UdpHeader = packet.read(ip.l4)?;
            (
                [udp.src_port, udp.dst_port],
                0,
                F::IS_V4 && udp.checksum == 0,
            )
        }
        // The checksum does not cover addresses, and the ports are never changed.
        protocol::SCTP => (packet.read(ip.l4)?, 0, true),
        _ => return None,
    };
    let [src_port, dst_port] = ports.map(u16::from_be);
    let parsed = Parsed {
        tuple: Tuple {
            src: ip.src,
            dst: ip.dst,
            src_port,
            dst_port,
            protocol: ip.protocol,
        },
        tcp_flags,
        icmp_type: 0,
        ttl: ip.ttl,
        ip_len: ip.len,
        may_fragment: ip.may_fragment,
        no_checksum,
    };
    Some((parsed, Offsets { l3, l4: ip.l4 }))
}

/// Parses what [`parse`] leaves: an untagged frame of a protocol without ports, which are 0. Nothing
/// if it has such ports, or is a fragment.
#[inline(always)]
#[must_use]
pub fn parse_portless<F: Family, P: Packet>(packet: &P) -> Option<(Parsed, Offsets)> {
    let l3 = ethernet::HEADER_LEN;
    let ip = F::read(packet, l3)?;
    let icmp_type = match ip.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => return None,
        other if !F::IS_V4 && ipv6::is_extension(other) => return None,
        protocol::ICMP | protocol::ICMPV6 => {
            // With the code: of a single byte, the verifier does not see that it lies in the packet.
            let [kind, _code] = packet.read::<u16>(ip.l4 + icmp::field::TYPE)?.to_ne_bytes();
            kind
        }
        _ => 0,
    };
    let parsed = Parsed {
        tuple: Tuple {
            src: ip.src,
            dst: ip.dst,
            src_port: 0,
            dst_port: 0,
            protocol: ip.protocol,
        },
        tcp_flags: 0,
        icmp_type,
        ttl: ip.ttl,
        ip_len: ip.len,
        may_fragment: ip.may_fragment,
        no_checksum: true,
    };
    Some((parsed, Offsets { l3, l4: ip.l4 }))
}
