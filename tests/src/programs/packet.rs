//! Frames, made and read by etherparse: its checksums are what the programs' are held against.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use lb_common::{
    Protocol, protocol,
    wire::{
        ethernet, ipv4, ipv6,
        tcp::{ACK, FIN, RST, SYN},
        udp,
    },
};

use super::devices::{GATEWAY_MAC, UPLINK_MAC};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The IP protocol number.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    /// The first packet of a connection: a SYN, or a datagram.
    #[must_use]
    pub fn opening(self, src: SocketAddr, dst: SocketAddr) -> Packet {
        Packet::new(self, SYN, src, dst)
    }

    /// A packet within a connection: an ACK, or a datagram.
    #[must_use]
    pub fn following(self, src: SocketAddr, dst: SocketAddr) -> Packet {
        Packet::new(self, ACK, src, dst)
    }

    /// The first answer: a SYN with an ACK, or a datagram.
    #[must_use]
    pub fn answer(self, src: SocketAddr, dst: SocketAddr) -> Packet {
        Packet::new(self, SYN | ACK, src, dst)
    }
}

/// The sequence number of both sides' segments, unless a test says otherwise; each acknowledges the
/// other's.
pub const SEQUENCE: u32 = 0x0102_0304;

/// What a frame says. Its bytes follow from it, valid checksums included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    transport: Transport,
    tcp_flags: u8,
    /// Sequence and acknowledgment number.
    tcp_numbers: [u32; 2],
    src: SocketAddr,
    dst: SocketAddr,
    ttl: u8,
    payload_len: usize,
    has_checksum: bool,
}

impl Packet {
    /// A frame of the gateway for the node. `tcp_flags` does not concern UDP.
    #[must_use]
    pub fn new(transport: Transport, tcp_flags: u8, src: SocketAddr, dst: SocketAddr) -> Self {
        Self {
            destination_mac: UPLINK_MAC,
            source_mac: GATEWAY_MAC,
            transport,
            tcp_flags,
            tcp_numbers: [SEQUENCE, SEQUENCE + 1],
            src,
            dst,
            ttl: 64,
            payload_len: 5,
            has_checksum: true,
        }
    }

    /// The same with another source.
    #[must_use]
    pub fn from(self, src: impl Into<SocketAddr>) -> Self {
        let src = src.into();
        Self { src, ..self }
    }

    /// The same with another destination.
    #[must_use]
    pub fn to(self, dst: impl Into<SocketAddr>) -> Self {
        let dst = dst.into();
        Self { dst, ..self }
    }

    /// The same with another sequence number; of UDP, just the same.
    #[must_use]
    pub fn sequence(self, sequence: u32) -> Self {
        let [_, ack] = self.tcp_numbers;
        let tcp_numbers = [sequence, ack];
        Self {
            tcp_numbers,
            ..self
        }
    }

    /// The same with another acknowledgment number.
    #[must_use]
    pub fn acknowledging(self, ack: u32) -> Self {
        let [sequence, _] = self.tcp_numbers;
        let tcp_numbers = [sequence, ack];
        Self {
            tcp_numbers,
            ..self
        }
    }

    /// The same with another time to live.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// The same with so many bytes of payload.
    #[must_use]
    pub fn payload(self, payload_len: usize) -> Self {
        Self {
            payload_len,
            ..self
        }
    }

    /// The same, UDP without a checksum.
    #[must_use]
    pub fn without_checksum(self) -> Self {
        Self {
            has_checksum: false,
            ..self
        }
    }

    /// The same in a frame from `source` to `destination`.
    #[must_use]
    pub fn macs(self, destination: [u8; 6], source: [u8; 6]) -> Self {
        Self {
            destination_mac: destination,
            source_mac: source,
            ..self
        }
    }

    /// The same in a frame that goes back to where it came from.
    #[must_use]
    pub fn bounced(self) -> Self {
        let (destination, source) = (self.source_mac, self.destination_mac);
        self.macs(destination, source)
    }

    /// The same after a hop.
    #[must_use]
    pub fn routed(self) -> Self {
        let ttl = self.ttl - 1;
        self.ttl(ttl)
    }

    /// Transport protocol.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The frame.
    ///
    /// # Panics
    ///
    /// If source and destination are of different families, or the payload is too long.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                ethernet.ipv4(src.octets(), dst.octets(), self.ttl)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                ethernet.ipv6(src.octets(), dst.octets(), self.ttl)
            }
            (src, dst) => panic!("{src} cannot send to {dst}"),
        };
        let payload: Vec<u8> = (b'a'..=b'z').cycle().take(self.payload_len).collect();
        let mut frame = Vec::new();
        let written = match self.transport {
            Transport::Tcp => ip.tcp_header(self.tcp()).write(&mut frame, &payload),
            Transport::Udp => ip
                .udp(self.src.port(), self.dst.port())
                .write(&mut frame, &payload),
        };
        written.unwrap_or_else(|error| panic!("{self:?}: {error}"));
        if !self.has_checksum {
            let l4 = ethernet::HEADER_LEN + self.ip_header_len();
            let field = l4 + udp::field::CHECKSUM;
            frame[field..field + 2].fill(0);
        }
        frame
    }

    fn tcp(&self) -> TcpHeader {
        let [sequence, ack] = self.tcp_numbers;
        let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), sequence, 0x2000);
        tcp.acknowledgment_number = ack;
        tcp.syn = self.tcp_flags & SYN != 0;
        tcp.ack = self.tcp_flags & ACK != 0;
        tcp.fin = self.tcp_flags & FIN != 0;
        tcp.rst = self.tcp_flags & RST != 0;
        tcp
    }

    fn ip_header_len(&self) -> usize {
        if self.src.is_ipv4() {
            size_of::<ipv4::Ipv4Header>()
        } else {
            ipv6::HEADER_LEN
        }
    }
}

/// Source and destination of a frame.
///
/// # Panics
///
/// If the frame has none.
#[must_use]
pub(crate) fn ends(frame: &[u8]) -> [SocketAddr; 2] {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a frame");
    let [src, dst]: [IpAddr; 2] = match sliced.net.expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            [
                header.source_addr().into(),
                header.destination_addr().into(),
            ]
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            [
                header.source_addr().into(),
                header.destination_addr().into(),
            ]
        }
        NetSlice::Arp(_) => panic!("ARP has no ports"),
    };
    let [src_port, dst_port] = match sliced.transport.expect("a transport header") {
        TransportSlice::Tcp(tcp) => [tcp.source_port(), tcp.destination_port()],
        TransportSlice::Udp(udp) => [udp.source_port(), udp.destination_port()],
        other => panic!("{other:?} has no ports"),
    };
    [(src, src_port).into(), (dst, dst_port).into()]
}
