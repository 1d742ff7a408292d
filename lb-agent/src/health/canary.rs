//! A packet that shows whether the programs and maps translate. Pure.
//!
//! Its client has an address that no client can have (RFC 5737, RFC 3849), and dials a cluster
//! address of a Service that is programmed.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::{
    Addr, FlowKey, Frontend, FrontendKey, Protocol, Tuple, protocol,
    wire::{ethernet, ipv4, ipv6, tcp, udp},
};

use crate::{
    model::{Algorithm, Model, Service, ServiceKind},
    reconcile::Programmed,
};

const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const CLIENT_PORT: u16 = 40_000;
const TTL: u8 = 64;
/// Length of the IPv4 header, without options.
const IPV4_LEN: usize = size_of::<ipv4::Ipv4Header>();

/// A packet, and where it may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    protocol: Protocol,
    dialled: SocketAddr,
    backends: BTreeSet<SocketAddr>,
}

impl Canary {
    /// One for each family in which there is a Service with backends. None is needed where there
    /// is nothing to serve.
    #[must_use]
    pub fn choose(model: &Model, programmed: &Programmed) -> Vec<Self> {
        [true, false]
            .into_iter()
            .filter_map(|is_v4| Self::of_family(model, programmed, is_v4))
            .collect()
    }

    /// Services whose backends follow from the packet come first: they remember nothing of a client.
    fn of_family(model: &Model, programmed: &Programmed, is_v4: bool) -> Option<Self> {
        let mut fallback = None;
        let services = model.services.values();
        for service in services.filter(|service| service.kind != ServiceKind::ExternalName) {
            let Some(canary) = Self::of_service(service, programmed, is_v4) else {
                continue;
            };
            if service.affinity_timeout_s.is_none() && service.algorithm == Algorithm::Maglev {
                return Some(canary);
            }
            fallback.get_or_insert(canary);
        }
        fallback
    }

    fn of_service(service: &Service, programmed: &Programmed, is_v4: bool) -> Option<Self> {
        let ip = service
            .cluster_ips
            .iter()
            .find(|ip| ip.is_ipv4() == is_v4)?;
        service.ports.iter().find_map(|port| {
            let protocol = port.protocol;
            if !matches!(protocol, protocol::TCP | protocol::UDP) {
                return None;
            }
            let key = FrontendKey::new((*ip).into(), port.port, protocol);
            let frontend: &Frontend = programmed.frontends().get(&key)?;
            let backends = programmed.backends_inside(frontend);
            (!backends.is_empty()).then(|| Self {
                protocol,
                dialled: SocketAddr::new(*ip, port.port),
                backends,
            })
        })
    }

    /// The frame, with a SYN or a datagram.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let client = self.client();
        let mut transport = vec![0; self.transport_len()];
        put(
            &mut transport,
            udp::field::SRC_PORT,
            &client.port().to_be_bytes(),
        );
        put(
            &mut transport,
            udp::field::DST_PORT,
            &self.dialled.port().to_be_bytes(),
        );
        if self.protocol == protocol::TCP {
            const WORDS: u8 = (tcp::HEADER_LEN / 4) as u8;
            put(&mut transport, 12, &[WORDS << 4, tcp::SYN]);
        } else {
            put(
                &mut transport,
                4,
                &(size_of::<udp::UdpHeader>() as u16).to_be_bytes(),
            );
        }
        let sum = !self.transport_sum(client.ip(), self.dialled.ip(), &transport);
        put(&mut transport, self.checksum_offset(), &sum.to_be_bytes());
        let mut packet = vec![0; ethernet::HEADER_LEN];
        // Locally administered: nobody's.
        put(&mut packet, 0, &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        let ethertype = if self.dialled.is_ipv4() {
            ethernet::IPV4
        } else {
            ethernet::IPV6
        };
        put(
            &mut packet,
            ethernet::field::ETHERTYPE,
            &ethertype.to_be_bytes(),
        );
        packet.extend(self.ip_header(client.ip()));
        packet.extend(transport);
        packet
    }

    /// Why what the programs made of the packet is not what they should have made of it.
    ///
    /// # Errors
    ///
    /// The reason.
    pub fn judge(&self, packet: &[u8]) -> Result<(), String> {
        let Some((src, dst)) = self.ends(packet) else {
            return Err(format!("{self} came out cut off"));
        };
        if dst == self.dialled {
            return Err(format!("{self} was not translated"));
        }
        if !self.backends.contains(&dst) {
            return Err(format!("{self} went to {dst}: none of its backends"));
        }
        if src != self.client() {
            return Err(format!("{self} got another source: {src}"));
        }
        let transport = packet.get(self.transport_offset()..).unwrap_or_default();
        let header = packet.get(ethernet::HEADER_LEN..self.transport_offset());
        let is_whole = self.transport_sum(src.ip(), dst.ip(), transport) == u16::MAX
            && (src.is_ipv6() || header.is_some_and(|header| fold(sum(header)) == u16::MAX));
        if is_whole {
            Ok(())
        } else {
            Err(format!("{self} got a wrong checksum"))
        }
    }

    /// The record that a packet which came out so has left behind, met at the device `ifindex`.
    #[must_use]
    pub fn record(&self, packet: &[u8], ifindex: u32) -> Option<FlowKey> {
        let (src, dst) = self.ends(packet)?;
        let reply = Tuple {
            src: Addr::from(dst.ip()),
            dst: Addr::from(src.ip()),
            src_port: dst.port(),
            dst_port: src.port(),
            protocol: self.protocol,
        };
        Some(FlowKey::of_reply(&reply, ifindex))
    }

    fn client(&self) -> SocketAddr {
        let ip = if self.dialled.is_ipv4() {
            IpAddr::V4(CLIENT_V4)
        } else {
            IpAddr::V6(CLIENT_V6)
        };
        SocketAddr::new(ip, CLIENT_PORT)
    }

    fn transport_len(&self) -> usize {
        if self.protocol == protocol::TCP {
            tcp::HEADER_LEN
        } else {
            size_of::<udp::UdpHeader>()
        }
    }

    fn checksum_offset(&self) -> usize {
        if self.protocol == protocol::TCP {
            tcp::field::CHECKSUM
        } else {
            udp::field::CHECKSUM
        }
    }

    fn transport_offset(&self) -> usize {
        let header = if self.dialled.is_ipv4() {
            IPV4_LEN
        } else {
            ipv6::HEADER_LEN
        };
        ethernet::HEADER_LEN + header
    }

    fn ip_header(&self, client: IpAddr) -> Vec<u8> {
        let (client, dialled) = (octets(client), octets(self.dialled.ip()));
        let payload = self.transport_len();
        if self.dialled.is_ipv6() {
            let mut header = vec![0; ipv6::HEADER_LEN];
            put(&mut header, 0, &[6 << 4]);
            put(&mut header, 4, &(payload as u16).to_be_bytes());
            put(&mut header, ipv6::field::NEXT_HEADER, &[self.protocol, TTL]);
            put(&mut header, ipv6::field::SRC, &client);
            put(&mut header, ipv6::field::DST, &dialled);
            return header;
        }
        let mut header = vec![0; IPV4_LEN];
        put(&mut header, 0, &[4 << 4 | (IPV4_LEN / 4) as u8]);
        put(&mut header, 2, &((IPV4_LEN + payload) as u16).to_be_bytes());
        put(&mut header, ipv4::field::TTL, &[TTL, self.protocol]);
        put(&mut header, ipv4::field::SRC, &client);
        put(&mut header, ipv4::field::DST, &dialled);
        let checksum = !fold(sum(&header));
        put(&mut header, ipv4::field::CHECKSUM, &checksum.to_be_bytes());
        header
    }

    /// Source and destination of a frame of this packet's shape.
    fn ends(&self, packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let ip = packet.get(ethernet::HEADER_LEN..)?;
        let transport = packet.get(self.transport_offset()..)?;
        let port = |offset: usize| {
            let bytes = transport.get(offset..offset + 2)?;
            Some(u16::from_be_bytes(bytes.try_into().ok()?))
        };
        let addr = |v4: usize, v6: usize| -> Option<IpAddr> {
            if self.dialled.is_ipv4() {
                let octets: [u8; 4] = ip.get(v4..v4 + 4)?.try_into().ok()?;
                Some(octets.into())
            } else {
                let octets: [u8; 16] = ip.get(v6..v6 + 16)?.try_into().ok()?;
                Some(octets.into())
            }
        };
        let src = addr(ipv4::field::SRC, ipv6::field::SRC)?;
        let dst = addr(ipv4::field::DST, ipv6::field::DST)?;
        Some((
            SocketAddr::new(src, port(udp::field::SRC_PORT)?),
            SocketAddr::new(dst, port(udp::field::DST_PORT)?),
        ))
    }

    /// The sum over the transport's header and its pseudo-header (RFC 9293, RFC 768, RFC 8200).
    fn transport_sum(&self, src: IpAddr, dst: IpAddr, transport: &[u8]) -> u16 {
        let pseudo = [octets(src), octets(dst)].concat();
        let rest = u64::from(self.protocol) + transport.len() as u64;
        fold(sum(&pseudo) + rest + sum(transport))
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol::name(self.protocol);
        write!(f, "a packet to {}/{protocol}", self.dialled)
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

/// Copies `bytes` to `offset`; a header that is too short stays as it is.
fn put(header: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = header.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The sum of 16-bit words, not folded yet. Headers have even lengths.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u16::from_be_bytes([high, low]),
        [high] => u16::from_be_bytes([high, 0]),
        _ => 0,
    });
    words.map(u64::from).sum()
}

/// The one's complement sum (RFC 1071).
fn fold(mut sum: u64) -> u16 {
    while let carry @ 1.. = sum >> 16 {
        sum = (sum & 0xffff) + carry;
    }
    sum as u16
}

#[cfg(test)]
mod tests;
