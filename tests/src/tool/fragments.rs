//! Datagrams in fragments, in any order.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, Ordering};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, UdpHeader};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use super::Order;

/// Length of a fragment, headers included: no link refuses it.
const FRAGMENT_LEN: usize = 1280;
/// How many routers a fragment may pass.
const TTL: u8 = 64;

/// Counts datagrams: fragments of two must not be taken for those of one.
static DATAGRAMS: AtomicU32 = AtomicU32::new(1);

/// Sends a UDP datagram past the socket that it is from.
pub(super) fn send(
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
    order: Order,
) -> io::Result<()> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let raw = socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )?;
    // The port of a raw socket's address is a protocol, where it is not ignored.
    let address = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    let count = DATAGRAMS.fetch_add(1, Ordering::Relaxed);
    // Different in its lower half: IPv4 has room for no more.
    let id = std::process::id().rotate_left(16) ^ std::process::id() ^ (count << 8);
    for packet in packets(from, to, payload, id, order)? {
        sendto(raw.as_raw_fd(), &packet, &address, MsgFlags::empty())?;
    }
    Ok(())
}

/// A part of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// Where it belongs, in bytes.
    offset: usize,
    is_last: bool,
    bytes: Vec<u8>,
}

/// The packets of a datagram, in the order in which they are sent.
fn packets(
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
    id: u32,
    order: Order,
) -> io::Result<Vec<Vec<u8>>> {
    let arranged = |udp: UdpHeader, headers| {
        let datagram = [&udp.to_bytes()[..], payload].concat();
        arrange(parts(&datagram, FRAGMENT_LEN - headers), order)
    };
    match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ip = header_v4(src, dst, 0)?;
            let udp = UdpHeader::with_ipv4_checksum(from.port(), to.port(), &ip, payload);
            let parts = arranged(udp.map_err(io::Error::other)?, Ipv4Header::MIN_LEN);
            let packets = parts.iter().map(|part| packet_v4(src, dst, id, part));
            packets.collect()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = header_v6(src, dst, 0)?;
            let udp = UdpHeader::with_ipv6_checksum(from.port(), to.port(), &ip, payload);
            let headers = Ipv6Header::LEN + Ipv6FragmentHeader::LEN;
            let parts = arranged(udp.map_err(io::Error::other)?, headers);
            let packets = parts.iter().map(|part| packet_v6(src, dst, id, part));
            packets.collect()
        }
        _ => Err(io::Error::other(format!("{from} cannot send to {to}"))),
    }
}

/// Cuts a datagram into parts, all but the last of a multiple of eight bytes.
fn parts(datagram: &[u8], room: usize) -> Vec<Part> {
    let room = room - room % 8;
    let chunks = datagram.chunks(room).enumerate();
    let parts = chunks.map(|(number, bytes)| Part {
        offset: number * room,
        is_last: (number + 1) * room >= datagram.len(),
        bytes: bytes.to_vec(),
    });
    parts.collect()
}

fn arrange(mut parts: Vec<Part>, order: Order) -> Vec<Part> {
    match order {
        Order::InOrder => {}
        Order::Reversed => parts.reverse(),
        Order::LastFirst => parts.rotate_right(1),
        Order::Shuffled => {
            let (even, odd): (Vec<_>, Vec<_>) = parts
                .into_iter()
                .rev()
                .enumerate()
                .partition(|(number, _)| number % 2 == 0);
            parts = odd.into_iter().chain(even).map(|(_, part)| part).collect();
        }
        Order::Duplicated => {
            parts = parts
                .into_iter()
                .flat_map(|part| [part.clone(), part])
                .collect();
        }
        Order::Overlapping => {
            if let Some(second) = parts.get(1) {
                let bytes = second.bytes.iter().take(16).map(|byte| !byte).collect();
                let offset = second.offset - 8;
                let wrong = Part {
                    offset,
                    is_last: false,
                    bytes,
                };
                parts.insert(1, wrong);
            }
        }
    }
    parts
}

fn header_v4(src: Ipv4Addr, dst: Ipv4Addr, length: usize) -> io::Result<Ipv4Header> {
    let length = u16::try_from(length).map_err(io::Error::other)?;
    Ipv4Header::new(length, TTL, IpNumber::UDP, src.octets(), dst.octets())
        .map_err(io::Error::other)
}

fn header_v6(src: Ipv6Addr, dst: Ipv6Addr, length: usize) -> io::Result<Ipv6Header> {
    Ok(Ipv6Header {
        payload_length: u16::try_from(length).map_err(io::Error::other)?,
        next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
        hop_limit: TTL,
        source: src.octets(),
        destination: dst.octets(),
        ..Ipv6Header::default()
    })
}

fn packet_v4(src: Ipv4Addr, dst: Ipv4Addr, id: u32, part: &Part) -> io::Result<Vec<u8>> {
    let mut header = header_v4(src, dst, part.bytes.len())?;
    header.identification = (id as u16).max(1);
    header.dont_fragment = false;
    header.more_fragments = !part.is_last;
    header.fragment_offset = offset(part)?;
    header.header_checksum = header.calc_header_checksum();
    Ok([&header.to_bytes()[..], &part.bytes].concat())
}

fn packet_v6(src: Ipv6Addr, dst: Ipv6Addr, id: u32, part: &Part) -> io::Result<Vec<u8>> {
    let header = header_v6(src, dst, Ipv6FragmentHeader::LEN + part.bytes.len())?;
    let fragment = Ipv6FragmentHeader::new(IpNumber::UDP, offset(part)?, !part.is_last, id);
    let headers = [&header.to_bytes()[..], &fragment.to_bytes()[..]].concat();
    Ok([headers, part.bytes.clone()].concat())
}

fn offset(part: &Part) -> io::Result<IpFragOffset> {
    let units = u16::try_from(part.offset / 8).map_err(io::Error::other)?;
    IpFragOffset::try_new(units).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: [Order; 6] = [
        Order::InOrder,
        Order::Reversed,
        Order::LastFirst,
        Order::Shuffled,
        Order::Duplicated,
        Order::Overlapping,
    ];

    fn cut(length: usize, order: Order) -> Vec<Part> {
        let datagram: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
        arrange(parts(&datagram, 1000), order)
    }

    fn offsets(order: Order) -> Vec<usize> {
        cut(4500, order).iter().map(|part| part.offset).collect()
    }

    #[test]
    fn parts_make_up_the_datagram_in_every_order() {
        for order in ORDERS {
            let mut whole = vec![0; 4500];
            let parts = cut(4500, order);
            // What says otherwise is overwritten by what comes later.
            for part in &parts {
                whole[part.offset..][..part.bytes.len()].copy_from_slice(&part.bytes);
            }
            let wrong = if order == Order::Overlapping { 8 } else { 0 };
            let differing = (0..4500).filter(|at| whole[*at] != *at as u8).count();
            assert_eq!(differing, wrong, "{order:?}");
            assert_eq!(
                parts.iter().filter(|part| part.is_last).count(),
                if order == Order::Duplicated { 2 } else { 1 }
            );
        }
    }

    #[test]
    fn orders_are_what_they_say() {
        assert_eq!(offsets(Order::InOrder), [0, 1000, 2000, 3000, 4000]);
        assert_eq!(offsets(Order::Reversed), [4000, 3000, 2000, 1000, 0]);
        assert_eq!(offsets(Order::LastFirst), [4000, 0, 1000, 2000, 3000]);
        assert_eq!(offsets(Order::Shuffled), [3000, 1000, 4000, 2000, 0]);
        assert_eq!(offsets(Order::Duplicated)[..4], [0, 0, 1000, 1000]);
        assert_eq!(
            offsets(Order::Overlapping),
            [0, 992, 1000, 2000, 3000, 4000]
        );
    }

    #[test]
    fn fragments_of_both_families_fit_the_smallest_link() {
        for (from, to) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fd00::1]:1", "[fd00::2]:2")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let packets = packets(from, to, &[7; 9000], 5, Order::InOrder).unwrap();
            assert_eq!(packets.len(), 8);
            assert!(packets.iter().all(|packet| packet.len() <= FRAGMENT_LEN));
        }
    }
}
