//! ICMP errors: messages about a packet, of which they quote the start.

use super::{Family, Headers, Packet, Parsed, shape};
use crate::{
    protocol,
    wire::{ethernet, icmp, udp},
};

/// Where an ICMP error has what, in bytes from the frame's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The ICMP header.
    pub icmp: usize,
    /// The quoted IP header.
    pub l3: usize,
    /// What is known of the headers behind it.
    pub headers: Headers,
}

/// Whether a packet with these `headers` is an ICMP error: nobody is to be told about those.
///
/// A redirect (type 5) is none: it speaks about the link that it was sent on.
#[inline(always)]
#[must_use]
pub fn is_error<F: Family, P: Packet>(packet: &P, headers: Headers) -> bool {
    let own = if F::IS_V4 {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    if headers.protocol() != own || headers.is_fragment() {
        return false;
    }
    let Some(start) = packet.read::<u16>(headers.l4() + icmp::field::TYPE) else {
        return false;
    };
    let [kind, _code] = start.to_ne_bytes();
    if F::IS_V4 {
        icmp::v4::is_error(kind)
    } else {
        icmp::v6::is_error(kind)
    }
}

impl Quoted {
    /// What the ICMP error whose header lies at `icmp` quotes: a packet with these `headers`. Nothing
    /// if no ports can be in it.
    #[inline(always)]
    #[must_use]
    pub fn new(icmp: usize, headers: Headers) -> Option<Self> {
        let has_ports = matches!(
            headers.protocol(),
            protocol::TCP | protocol::UDP | protocol::SCTP
        ) && !headers.is_later_fragment();
        has_ports.then_some(Self {
            icmp,
            l3: icmp + icmp::HEADER_LEN,
            headers,
        })
    }
}

impl Parsed {
    /// Parses an ICMP error: as the packet that would answer the one that it quotes, since that is
    /// whose way it goes. Nothing if it is not for whom it quotes.
    #[inline(always)]
    pub fn read_quoted<F: Family, P: Packet>(&mut self, packet: &P, quoted: Quoted) -> Option<()> {
        self.read_outer::<F, P>(packet)?;
        let [src, dst] = F::addresses(packet, quoted.l3)?;
        (self.tuple.src, self.tuple.dst) = (dst.by_words(), src.by_words());
        let [_, outer_dst] = F::addresses(packet, ethernet::HEADER_LEN)?;
        if self.tuple.dst.to_wire_words() != outer_dst.to_wire_words() {
            return None;
        }
        let [src_port, dst_port]: [u16; 2] =
            packet.read(quoted.headers.l4() + udp::field::SRC_PORT)?;
        self.tuple.src_port = u16::from_be(dst_port);
        self.tuple.dst_port = u16::from_be(src_port);
        self.tuple.protocol = quoted.headers.protocol();
        self.shape = shape::ERROR;
        Some(())
    }
}
