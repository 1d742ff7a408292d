//! Reading packets: one parser for both families and for XDP and tc.

mod headers;
mod quoted;

use bytemuck::{Pod, Zeroable};

pub use self::{
    headers::{Headers, OFFSET_MAX, Walk, headers},
    quoted::{Quoted, is_error},
};
use crate::{
    Addr, Protocol, Tuple, protocol,
    wire::{
        ethernet, icmp,
        ipv4::{self, Ipv4Header},
        ipv6::{self, Ipv6Header},
        tcp::TcpStart,
        udp::{self, UdpHeader},
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

    /// Reads the IP header at `l3`. Nothing if it is malformed.
    fn read<P: Packet>(packet: &P, l3: usize) -> Option<IpHeader>;

    /// Reads the source and the destination address of the IP header at `l3`.
    fn addresses<P: Packet>(packet: &P, l3: usize) -> Option<[Addr; 2]>;
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
    /// Whether the header says that this is a piece of a packet. IPv6 has a header of its own for
    /// that.
    pub is_fragment: bool,
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
        Some(IpHeader {
            src: Addr::from_wire_v4(header.src),
            dst: Addr::from_wire_v4(header.dst),
            protocol: header.protocol,
            ttl: header.ttl,
            len: u16::from_be(header.total_len),
            may_fragment: header.may_fragment(),
            is_fragment: header.is_fragment(),
            l4: l3 + header_len,
        })
    }

    #[inline(always)]
    fn addresses<P: Packet>(packet: &P, l3: usize) -> Option<[Addr; 2]> {
        let [src, dst]: [u32; 2] = packet.read(l3 + ipv4::field::SRC)?;
        Some([Addr::from_wire_v4(src), Addr::from_wire_v4(dst)])
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
        let (src, dst) = (
            Addr::from_wire_words(header.src),
            Addr::from_wire_words(header.dst),
        );
        // No packet may have an IPv4-mapped address, which is what maps have for IPv4.
        if src.is_v4() || dst.is_v4() {
            return None;
        }
        Some(IpHeader {
            src,
            dst,
            protocol: header.next_header,
            ttl: header.hop_limit,
            len: u16::from_be(header.payload_len).saturating_add(ipv6::HEADER_LEN as u16),
            may_fragment: false,
            is_fragment: false,
            l4: l3 + ipv6::HEADER_LEN,
        })
    }

    #[inline(always)]
    fn addresses<P: Packet>(packet: &P, l3: usize) -> Option<[Addr; 2]> {
        let src = packet.read(l3 + ipv6::field::SRC)?;
        let dst = packet.read(l3 + ipv6::field::DST)?;
        Some([Addr::from_wire_words(src), Addr::from_wire_words(dst)])
    }
}

/// What of a packet a frame has; [`Parsed::shape`]. Numbers, since they lie in memory that the
/// verifier knows nothing about.
pub mod shape {
    /// All of it, or the first piece: the transport header is there.
    pub const WHOLE: u8 = 0;
    /// A later piece: its ports are known from the first one, and are not in the frame.
    pub const LATER_FRAGMENT: u8 = 1;
    /// An ICMP error. What is parsed is the packet that would answer the one that it quotes: the
    /// error goes the way of that packet.
    pub const ERROR: u8 = 2;
}

/// A packet that has a 5-tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Parsed {
    /// Its 5-tuple.
    pub tuple: Tuple,
    /// TCP flags; 0 in other protocols.
    pub tcp_flags: u8,
    /// TCP sequence and acknowledgment number; 0 in other protocols.
    pub tcp_numbers: [u32; 2],
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
    /// A constant of [`shape`].
    pub shape: u8,
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
        let echo_request = match (self.tuple.protocol, self.tuple.src.is_v4()) {
            (protocol::ICMP, true) => icmp::v4::ECHO_REQUEST,
            (protocol::ICMPV6, false) => icmp::v6::ECHO_REQUEST,
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
        let is_first =
            self.tuple.protocol != protocol::TCP || self.tcp_flags & (SYN | ACK | RST) == SYN;
        is_first && !self.is_error()
    }

    /// Whether its sender takes the connection for open: it acknowledges something, and neither opens nor
    /// refuses anything.
    #[inline(always)]
    #[must_use]
    pub fn goes_on(&self) -> bool {
        use crate::wire::tcp::{ACK, RST, SYN};
        self.tuple.protocol == protocol::TCP
            && self.tcp_flags & (SYN | ACK | RST) == ACK
            && !self.is_error()
    }

    /// Whether it may go on with a connection, and does neither begin nor end one if it does. Of a datagram that is not
    /// known.
    #[inline(always)]
    #[must_use]
    pub fn is_routine(&self) -> bool {
        let is_segment = self.goes_on() && self.tcp_flags & crate::wire::tcp::FIN == 0;
        is_segment || self.tuple.protocol == protocol::UDP && self.has_ports()
    }

    /// Whether this is an ICMP error about a packet of the flow.
    #[inline(always)]
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.shape == shape::ERROR
    }

    /// Whether the ports stand in the frame, where they can be changed.
    #[inline(always)]
    #[must_use]
    pub fn has_ports(&self) -> bool {
        self.shape == shape::WHOLE
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

/// Parses an untagged frame that carries `F`. Nothing if it has no ports where they are looked for:
/// if it is neither TCP, UDP nor SCTP, a fragment, or has extension headers.
#[inline(always)]
#[must_use]
pub fn parse<F: Family, P: Packet>(packet: &P) -> Option<(Parsed, Offsets)> {
    let l3 = ethernet::HEADER_LEN;
    let ip = F::read(packet, l3)?;
    if ip.is_fragment {
        return None;
    }
    let parsed = parse_at::<F, P>(packet, &ip)?;
    Some((parsed, Offsets { l3, l4: ip.l4 }))
}

/// Parses the transport header that follows `ip`.
#[inline(always)]
fn parse_at<F: Family, P: Packet>(packet: &P, ip: &IpHeader) -> Option<Parsed> {
    let mut tcp_numbers = [0; 2];
    let (ports, tcp_flags, no_checksum) = match ip.protocol {
        protocol::TCP => {
            let tcp: TcpStart = packet.read(ip.l4)?;
            tcp_numbers = tcp.numbers();
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
    Some(Parsed {
        tuple: Tuple {
            src: ip.src,
            dst: ip.dst,
            src_port,
            dst_port,
            protocol: ip.protocol,
        },
        tcp_flags,
        tcp_numbers,
        icmp_type: 0,
        ttl: ip.ttl,
        ip_len: ip.len,
        may_fragment: ip.may_fragment,
        no_checksum,
        shape: shape::WHOLE,
    })
}

impl Parsed {
    /// Parses a packet whose `headers` have been followed, and whose transport header is there.
    /// Nothing if the frame ends before.
    ///
    /// In place, as the others below: what is built and then moved lies on a program's small stack.
    #[inline(always)]
    pub fn read_behind<F: Family, P: Packet>(
        &mut self,
        packet: &P,
        headers: Headers,
    ) -> Option<()> {
        self.read_ip::<F, P>(packet, headers.protocol())?;
        let [src_port, dst_port]: [u16; 2] = packet.read(headers.l4() + udp::field::SRC_PORT)?;
        self.tuple.src_port = u16::from_be(src_port);
        self.tuple.dst_port = u16::from_be(dst_port);
        match headers.protocol() {
            protocol::TCP => {
                let tcp: TcpStart = packet.read(headers.l4())?;
                self.tcp_flags = tcp.flags;
                self.tcp_numbers = tcp.numbers();
                self.no_checksum = false;
            }
            protocol::UDP => {
                let sum: u16 = packet.read(headers.l4() + udp::field::CHECKSUM)?;
                self.no_checksum = F::IS_V4 && sum == 0;
            }
            _ => {}
        }
        Some(())
    }

    /// Parses a packet without ports, or a later piece of one: its ports are 0.
    #[inline(always)]
    pub fn read_portless<F: Family, P: Packet>(
        &mut self,
        packet: &P,
        headers: Headers,
    ) -> Option<()> {
        self.read_ip::<F, P>(packet, headers.protocol())?;
        if headers.is_later_fragment() {
            self.shape = shape::LATER_FRAGMENT;
        }
        let is_icmp = matches!(headers.protocol(), protocol::ICMP | protocol::ICMPV6);
        if is_icmp && !headers.is_fragment() {
            // With the code: of a single byte, the verifier does not see that it lies in the packet.
            let start: u16 = packet.read(headers.l4() + icmp::field::TYPE)?;
            let [kind, _code] = start.to_ne_bytes();
            self.icmp_type = kind;
        }
        Some(())
    }

    /// Reads what the IP header of a packet of `protocol` says: its ports are 0. Nothing if it is
    /// malformed.
    #[inline(always)]
    pub fn read_ip<F: Family, P: Packet>(&mut self, packet: &P, protocol: Protocol) -> Option<()> {
        self.read_outer::<F, P>(packet)?;
        let [src, dst] = F::addresses(packet, ethernet::HEADER_LEN)?;
        (self.tuple.src, self.tuple.dst) = (src.by_words(), dst.by_words());
        (self.tuple.src_port, self.tuple.dst_port) = (0, 0);
        self.tuple.protocol = protocol;
        self.shape = shape::WHOLE;
        Some(())
    }

    /// Reads what of the IP header concerns the packet's way, and not whose it is.
    #[inline(always)]
    fn read_outer<F: Family, P: Packet>(&mut self, packet: &P) -> Option<()> {
        let ip = F::read(packet, ethernet::HEADER_LEN)?;
        (self.tcp_flags, self.icmp_type) = (0, 0);
        self.tcp_numbers = [0; 2];
        self.ttl = ip.ttl;
        self.ip_len = ip.len;
        self.may_fragment = ip.may_fragment;
        self.no_checksum = true;
        Some(())
    }
}
