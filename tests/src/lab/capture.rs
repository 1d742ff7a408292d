//! What passes the devices of a place.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
};

use super::netns::Netns;

/// Room for what comes before somebody looks, in bytes.
const BUFFER: usize = 64 << 20;
/// Longer than any frame of a lab.
const MAX_FRAME: usize = 1 << 16;

/// A capture at the devices of a network namespace, from now on until it is dropped.
///
/// It sees packets on their way in before any tc program does, and on their way out after it; what
/// XDP takes, it does not see.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    place: String,
}

/// A packet, as far as tests look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The index of the device.
    pub device: u32,
    /// Whether it leaves by that device.
    pub is_leaving: bool,
    /// The source; the port is 0 where there is none.
    pub src: SocketAddr,
    /// The destination.
    pub dst: SocketAddr,
    /// Whether it opens a TCP connection.
    pub is_syn: bool,
    /// Whether it is a datagram.
    pub is_udp: bool,
}

impl Capture {
    /// Captures at all devices that the place has and gets.
    pub(super) fn start(netns: &Netns) -> Result<Self> {
        let socket = netns
            .run(open)?
            .with_context(|| format!("capture in {}", netns.name()))?;
        Ok(Self {
            socket,
            place: netns.name().to_owned(),
        })
    }

    /// The IP packets that came by since it was started, or since this was called last.
    ///
    /// # Errors
    /// When more came by than there was room for.
    pub fn packets(&self) -> Result<Vec<Captured>> {
        let mut buffer = vec![0; MAX_FRAME];
        let mut packets = Vec::new();
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let from = from.context("a frame comes by a device")?;
                    packets.extend(read(&buffer[..length], &from));
                }
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error).context("read a capture"),
            }
        }
        let lost = lost(&self.socket)?;
        ensure!(lost == 0, "{}: {lost} packets were missed", self.place);
        Ok(packets)
    }
}

fn open() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (family, protocol) = (AddressFamily::Packet, SockProtocol::EthAll);
    let socket = socket(family, SockType::Raw, flags, protocol)?;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    Ok(socket)
}

/// How many frames found no room.
fn lost(socket: &OwnedFd) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut size = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the value is as long as the kernel is told, and outlives the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut size,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(statistics.tp_drops)
}

fn read(frame: &[u8], from: &LinkAddr) -> Option<Captured> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (src, dst): (IpAddr, IpAddr) = match packet.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Arp(_) => return None,
    };
    let (ports, is_syn) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (
            (tcp.source_port(), tcp.destination_port()),
            tcp.syn() && !tcp.ack(),
        ),
        Some(TransportSlice::Udp(udp)) => ((udp.source_port(), udp.destination_port()), false),
        _ => ((0, 0), false),
    };
    Some(Captured {
        device: u32::try_from(from.ifindex()).ok()?,
        is_leaving: from.pkttype() == libc::PACKET_OUTGOING,
        src: (src, ports.0).into(),
        dst: (dst, ports.1).into(),
        is_syn,
        is_udp: matches!(packet.transport, Some(TransportSlice::Udp(_))),
    })
}
