//! The headers of a packet, read by hand.

use lb_common::{Addr, FragmentKey, Tuple, protocol};

/// Where the IP header of a frame begins.
pub(super) const L3: usize = 14;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;
const SYN: u8 = 0x02;

/// Extension headers that are followed, and how long they may be together.
const EXTENSIONS_MAX: usize = 8;
const EXTENSIONS_LEN_MAX: usize = 256;

/// A packet that the programs understand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) frame: &'a [u8],
    pub(super) is_v4: bool,
    /// Where the transport header begins; in a later piece, what it has of the packet.
    pub(super) l4: usize,
    /// Ports are 0 where there are none. Of an error: of the packet that would answer what it quotes.
    pub(super) tuple: Tuple,
    /// Protocol of what the frame carries.
    pub(super) carries: u8,
    /// 0 but in whole TCP packets.
    pub(super) tcp_flags: u8,
    /// Sequence and acknowledgment number; 0 but in whole TCP packets.
    pub(super) tcp_numbers: [u32; 2],
    /// Of ICMP; nothing in pieces.
    pub(super) icmp_type: Option<u8>,
    pub(super) ttl: u8,
    /// Length of IP header and payload, as the header has it.
    pub(super) ip_len: usize,
    pub(super) may_fragment: bool,
    pub(super) shape: Shape,
}

/// What a frame has of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// All of it, or the first piece.
    Whole,
    /// A later piece, without ports.
    Later,
    /// An ICMP error, and where the packet that it quotes has its headers.
    Error {
        /// The IP header.
        l3: usize,
        /// The transport header.
        l4: usize,
    },
}

/// What a packet is, before anything is known of its flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look<'a> {
    /// The programs leave it alone.
    Nothing,
    /// It is IP, for this address, but its headers lead nowhere.
    Malformed(Addr),
    /// It belongs to a flow.
    Flow(Reading<'a>),
    /// It has no ports.
    Portless(Reading<'a>),
    /// It is the first piece of a packet.
    First(Reading<'a>, FragmentKey),
    /// It is a later one.
    Later(Reading<'a>, FragmentKey),
}

/// Where headers led.
#[derive(Clone, Copy, Debug)]
struct Headers {
    protocol: u8,
    l4: usize,
    /// Identification of the packet that this is a piece of, and whether it is a later one.
    piece: Option<(u32, bool)>,
    has_extensions: bool,
}

pub(super) fn half(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// Follows the headers from the IP header at `l3`.
fn follow(frame: &[u8], is_v4: bool, l3: usize) -> Option<Headers> {
    if !is_v4 {
        return follow_v6(frame, l3);
    }
    let ip = frame.get(l3..l3 + 20)?;
    let header_len = usize::from(ip[0] & 15) * 4;
    if ip[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let fragment = u16::from_be_bytes([ip[6], ip[7]]);
    let is_later = fragment & 0x1fff != 0;
    let id = u32::from(u16::from_ne_bytes([ip[4], ip[5]]));
    Some(Headers {
        protocol: ip[9],
        l4: l3 + header_len,
        piece: (fragment & 0x3fff != 0).then_some((id, is_later)),
        has_extensions: false,
    })
}

/// An extension header says what follows, and mostly how long it is.
fn follow_v6(frame: &[u8], l3: usize) -> Option<Headers> {
    let ip = frame.get(l3..l3 + 40)?;
    let [src, dst] = [8, 24].map(|at| address(ip, false, at));
    // An IPv4-mapped address is for programs, never for packets.
    if ip[0] >> 4 != 6 || src.is_v4() || dst.is_v4() {
        return None;
    }
    let mut found = Headers {
        protocol: ip[6],
        l4: l3 + 40,
        piece: None,
        has_extensions: false,
    };
    for _ in 0..=EXTENSIONS_MAX {
        let is_later = matches!(found.piece, Some((_, true)));
        if is_later || !matches!(found.protocol, 0 | 43 | 44 | 51 | 60) {
            return Some(found);
        }
        found.has_extensions = true;
        let header = frame.get(found.l4..found.l4 + 8)?;
        let len = match found.protocol {
            44 => {
                let offset = u16::from_be_bytes([header[2], header[3]]);
                let id = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
                let is_later = offset & 0xfff8 != 0;
                // One without others is all of its packet (RFC 6946).
                found.piece = (offset & 0xfff9 != 0).then_some((id, is_later));
                8
            }
            // On its way to somewhere else.
            43 if header[3] != 0 => return None,
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        found.protocol = header[0];
        found.l4 += len;
        if found.l4 > l3 + 40 + EXTENSIONS_LEN_MAX {
            return None;
        }
    }
    None
}

fn address(ip: &[u8], is_v4: bool, at: usize) -> Addr {
    if is_v4 {
        let bytes: [u8; 4] = ip[at..at + 4].try_into().expect("four bytes");
        std::net::Ipv4Addr::from(bytes).into()
    } else {
        Addr {
            octets: ip[at..at + 16].try_into().expect("sixteen bytes"),
        }
    }
}

/// Source and destination of the IP header at `l3`, which is there.
fn addresses(frame: &[u8], is_v4: bool, l3: usize) -> [Addr; 2] {
    let places = if is_v4 { [12, 16] } else { [8, 24] };
    places.map(|at| address(&frame[l3..], is_v4, at))
}

impl<'a> Look<'a> {
    /// Looks at a frame. `is_simple` for XDP, which understands neither pieces nor extension headers
    /// nor errors.
    pub(super) fn at(frame: &'a [u8], is_simple: bool) -> Self {
        Self::find(frame, is_simple).unwrap_or(Self::Nothing)
    }

    /// The same in a word.
    pub(super) fn shape(&self) -> &'static str {
        match self {
            Self::Nothing => "unreadable",
            Self::Malformed(_) => "malformed",
            Self::Flow(packet) if packet.is_error() => "error",
            Self::Flow(packet) if packet.has_extras() => "with options or extension headers",
            Self::Flow(_) => "plain",
            Self::Portless(_) => "without ports",
            Self::First(..) => "first piece",
            Self::Later(..) => "later piece",
        }
    }

    fn find(frame: &'a [u8], is_simple: bool) -> Option<Self> {
        let is_v4 = match half(frame, 12)? {
            0x0800 => true,
            0x86dd => false,
            _ => return None,
        };
        if is_simple {
            return Self::find_simple(frame, is_v4);
        }
        let malformed = || {
            let [src, dst] = ip_addresses(frame, is_v4)?;
            let is_mapped = !is_v4 && (src.is_v4() || dst.is_v4());
            (!is_mapped).then_some(Self::Malformed(dst))
        };
        let Some(found) = follow(frame, is_v4, L3) else {
            return malformed();
        };
        let outer = Reading::outer(frame, is_v4, &found);
        let key = |id| FragmentKey {
            src: outer.tuple.src,
            dst: outer.tuple.dst,
            id,
            protocol: found.protocol,
            hook: 0,
            pad_half: 0,
        };
        match (has_ports(found.protocol), found.piece) {
            (true, None) => match outer.with_ports() {
                Some(packet) => Some(Self::Flow(packet)),
                None => malformed(),
            },
            (true, Some((id, false))) => Some(Self::First(outer.with_ports()?, key(id))),
            (true, Some((id, true))) => {
                let shape = Shape::Later;
                Some(Self::Later(Reading { shape, ..outer }, key(id)))
            }
            (false, _) => match outer.as_error(&found) {
                Some(error) => Some(Self::Flow(error)),
                None => outer.as_portless(&found).map(Self::Portless),
            },
        }
    }
}

impl<'a> Look<'a> {
    fn find_simple(frame: &'a [u8], is_v4: bool) -> Option<Self> {
        let found = follow(frame, is_v4, L3)?;
        let is_plain = found.piece.is_none() && !found.has_extensions;
        let packet = Reading::outer(frame, is_v4, &found);
        let packet = (is_plain && has_ports(found.protocol)).then(|| packet.with_ports())?;
        packet.map(Self::Flow)
    }
}

/// Source and destination of a frame that has an IP header, whatever follows.
pub(super) fn ip_addresses(frame: &[u8], is_v4: bool) -> Option<[Addr; 2]> {
    let first = frame.get(L3)?;
    let is_there = if is_v4 {
        first >> 4 == 4 && first & 15 >= 5 && frame.len() >= L3 + 20
    } else {
        first >> 4 == 6 && frame.len() >= L3 + 40
    };
    is_there.then(|| addresses(frame, is_v4, L3))
}

impl<'a> Reading<'a> {
    fn outer(frame: &'a [u8], is_v4: bool, found: &Headers) -> Self {
        let ip = &frame[L3..];
        let [src, dst] = addresses(frame, is_v4, L3);
        let number = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
        Self {
            frame,
            is_v4,
            l4: found.l4,
            tuple: Tuple {
                src,
                dst,
                src_port: 0,
                dst_port: 0,
                protocol: found.protocol,
            },
            carries: found.protocol,
            tcp_flags: 0,
            tcp_numbers: [0; 2],
            icmp_type: None,
            ttl: if is_v4 { ip[8] } else { ip[7] },
            ip_len: if is_v4 {
                number(2)
            } else {
                (number(4) + 40).min(0xffff)
            },
            may_fragment: is_v4 && ip[6] & 0x40 == 0,
            shape: Shape::Whole,
        }
    }

    /// Reads the transport header, of which as much has to be there as is needed.
    fn with_ports(mut self) -> Option<Self> {
        let least = match self.carries {
            protocol::TCP => 14,
            protocol::UDP => 8,
            _ => 4,
        };
        let header = self.frame.get(self.l4..self.l4 + least)?;
        self.tuple.src_port = u16::from_be_bytes([header[0], header[1]]);
        self.tuple.dst_port = u16::from_be_bytes([header[2], header[3]]);
        if self.is_tcp() {
            self.tcp_flags = header[13];
            let number = |at: usize| header[at..at + 4].try_into().map(u32::from_be_bytes);
            self.tcp_numbers = [4, 8].map(|at| number(at).expect("four bytes"));
        }
        Some(self)
    }

    /// Reads an ICMP error about a packet with ports, if it is for whom it quotes.
    fn as_error(mut self, found: &Headers) -> Option<Self> {
        let kind = *self.frame.get(self.l4..self.l4 + 2)?.first()?;
        let is_error = if self.is_v4 {
            matches!(kind, 3 | 11 | 12)
        } else {
            matches!(kind, 1..=4)
        };
        if !self.carries_icmp() || found.piece.is_some() || !is_error {
            return None;
        }
        let l3 = self.l4 + 8;
        let quoted = follow(self.frame, self.is_v4, l3)?;
        let is_later = matches!(quoted.piece, Some((_, true)));
        if !has_ports(quoted.protocol) || is_later {
            return None;
        }
        let [src, dst] = addresses(self.frame, self.is_v4, l3);
        if src != self.tuple.dst {
            return None;
        }
        let src_port = half(self.frame, quoted.l4)?;
        let dst_port = half(self.frame, quoted.l4 + 2)?;
        self.tuple = Tuple {
            src: dst,
            dst: src,
            src_port: dst_port,
            dst_port: src_port,
            protocol: quoted.protocol,
        };
        self.shape = Shape::Error { l3, l4: quoted.l4 };
        Some(self)
    }

    /// Reads a packet without ports. Of ICMP, in whatever family it stands, type and code count.
    fn as_portless(mut self, found: &Headers) -> Option<Self> {
        if matches!(found.piece, Some((_, true))) {
            self.shape = Shape::Later;
        }
        let is_any_icmp = matches!(self.carries, protocol::ICMP | protocol::ICMPV6);
        if is_any_icmp && found.piece.is_none() {
            self.icmp_type = Some(*self.frame.get(self.l4..self.l4 + 2)?.first()?);
        }
        Some(self)
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.tuple.protocol == protocol::TCP
    }

    pub(super) fn is_error(&self) -> bool {
        matches!(self.shape, Shape::Error { .. })
    }

    /// Protocol number of the family's ICMP.
    pub(super) fn icmp(&self) -> u8 {
        if self.is_v4 {
            protocol::ICMP
        } else {
            protocol::ICMPV6
        }
    }

    /// Whether it is ICMP of its own family.
    pub(super) fn carries_icmp(&self) -> bool {
        self.carries == self.icmp()
    }

    pub(super) fn is_echo_request(&self) -> bool {
        let request = if self.is_v4 { 8 } else { 128 };
        self.carries_icmp() && self.icmp_type == Some(request)
    }

    /// Whether it begins a TCP connection.
    pub(super) fn is_syn(&self) -> bool {
        self.is_tcp() && self.tcp_flags & (SYN | ACK | RST) == SYN
    }

    /// Whether it may begin a connection: of protocols without one, every packet may. An error never
    /// does.
    pub(super) fn opens(&self) -> bool {
        !self.is_error() && (!self.is_tcp() || self.is_syn())
    }

    /// Whether its sender takes a connection for open, and goes on in it.
    pub(super) fn goes_on(&self) -> bool {
        self.is_tcp() && !self.is_error() && self.tcp_flags & (SYN | ACK | RST) == ACK
    }

    /// Whether there is more than the plain IP header.
    fn has_extras(&self) -> bool {
        self.ip_header_len() != if self.is_v4 { 20 } else { 40 }
    }

    /// Length of all headers before the transport's.
    pub(super) fn ip_header_len(&self) -> usize {
        self.l4 - L3
    }
}
