//! The kernel's list of sockets, and how to end one (`sock_diag(7)`).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use bytemuck::{Pod, Zeroable};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `TCP_ESTABLISHED`, which connected sockets of UDP are as well; as a bit.
const CONNECTED: u32 = 1 << 1;
/// More than the kernel puts into a message.
const BUFFER: usize = 1 << 16;

const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// `struct nlmsghdr` of `linux/netlink.h`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    pid: u32,
}

/// `struct inet_diag_sockid` of `linux/inet_diag.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct Id {
    /// Ports and addresses are in network byte order.
    local_port: u16,
    remote_port: u16,
    local: [u8; 16],
    remote: [u8; 16],
    device: u32,
    /// The lower half comes first.
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` of `linux/inet_diag.h`, with its header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: Id,
}

/// The beginning of `struct inet_diag_msg` of `linux/inet_diag.h`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmissions: u8,
    id: Id,
}

const _: () = assert!(size_of::<Id>() == 48 && size_of::<Request>() == 72);
const _: () = assert!(size_of::<Message>() == 52);

/// A socket of this network namespace that is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connected {
    family: u8,
    id: Id,
}

impl Connected {
    /// Its cookie, as `bpf_get_socket_cookie` has it.
    pub(super) fn cookie(&self) -> u64 {
        let [low, high] = self.id.cookie;
        u64::from(high) << 32 | u64::from(low)
    }

    /// Whom it is connected to; IPv4 as such, even where the socket is of IPv6.
    pub(super) fn remote(&self) -> SocketAddr {
        let ip: IpAddr = if i32::from(self.family) == libc::AF_INET {
            let [a, b, c, d, ..] = self.id.remote;
            Ipv4Addr::new(a, b, c, d).into()
        } else {
            Ipv6Addr::from(self.id.remote).to_canonical()
        };
        SocketAddr::new(ip, u16::from_be(self.id.remote_port))
    }
}

/// A socket to ask the kernel by.
pub(super) struct Socket {
    fd: OwnedFd,
    seq: u32,
}

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkSockDiag);
        let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        Ok(Self { fd, seq: 0 })
    }

    /// Every connected UDP socket.
    pub(super) fn connected_udp(&mut self) -> io::Result<Vec<Connected>> {
        let mut found = Vec::new();
        for family in FAMILIES {
            let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
            self.send(BY_FAMILY, flags, family, Id::zeroed())?;
            self.receive(|message| found.push(message))?;
        }
        Ok(found)
    }

    /// Ends a socket: what its process does next with it fails with `ECONNABORTED`. False if it is
    /// not there any more.
    pub(super) fn destroy(&mut self, socket: &Connected) -> io::Result<bool> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        self.send(DESTROY, flags, socket.family, socket.id)?;
        match self.receive(|_| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, kind: u16, flags: i32, family: u8, id: Id) -> io::Result<()> {
        self.seq += 1;
        let request = Request {
            header: Header {
                len: size_of::<Request>() as u32,
                kind,
                flags: flags as u16,
                seq: self.seq,
                pid: 0,
            },
            family,
            protocol: libc::IPPROTO_UDP as u8,
            extensions: 0,
            pad: 0,
            states: CONNECTED,
            id,
        };
        let (bytes, kernel) = (bytemuck::bytes_of(&request), NetlinkAddr::new(0, 0));
        sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// Receives messages until the kernel says that these are all.
    fn receive(&self, mut each: impl FnMut(Connected)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                received => received?,
            };
            if read(&buffer[..length], self.seq, &mut each)? {
                return Ok(());
            }
        }
    }
}

/// Reads a datagram of messages, those that answer request `seq`. Whether the last one is among
/// them?
fn read(mut bytes: &[u8], seq: u32, each: &mut impl FnMut(Connected)) -> io::Result<bool> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a message that ends too early");
    while !bytes.is_empty() {
        let header: Header = start(bytes).ok_or_else(short)?;
        let length = header.len as usize;
        let body = bytes.get(size_of::<Header>()..length).ok_or_else(short)?;
        let is_answer = header.seq == seq;
        match i32::from(header.kind) {
            _ if !is_answer => {}
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let code: i32 = start(body).ok_or_else(short)?;
                return match code {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            _ => {
                let Message { family, id, .. } = start(body).ok_or_else(short)?;
                each(Connected { family, id });
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn start<T: Pod>(bytes: &[u8]) -> Option<T> {
    bytes
        .get(..size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn connected(family: i32, ip: IpAddr) -> Connected {
        let mut remote = [0; 16];
        match ip {
            IpAddr::V4(ip) => remote[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => remote = ip.octets(),
        }
        let id = Id {
            remote,
            remote_port: 53_u16.to_be(),
            cookie: [7, 1],
            ..Id::zeroed()
        };
        let family = u8::try_from(family).unwrap();
        Connected { family, id }
    }

    #[test]
    fn whom_a_socket_is_connected_to_is_read_in_every_family() {
        let v4: IpAddr = "10.244.1.2".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.244.1.2".parse().unwrap();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        for (family, ip, expected) in [
            (libc::AF_INET, v4, v4),
            (libc::AF_INET6, mapped, v4),
            (libc::AF_INET6, v6, v6),
        ] {
            let socket = connected(family, ip);
            assert_eq!(socket.remote(), SocketAddr::new(expected, 53));
            assert_eq!(socket.cookie(), 0x1_0000_0007);
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let header = Header {
            len: 16 + 20,
            kind: BY_FAMILY,
            flags: 0,
            seq: 1,
            pid: 0,
        };
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        bytes.extend([0; 20]);
        for cut in [4, 20, 36] {
            assert!(read(&bytes[..cut], 1, &mut |_| ()).is_err(), "{cut}");
        }
    }

    #[test]
    fn the_kernel_lists_sockets_that_are_connected_and_no_others() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let [server, client] = [0; 2].map(|_| UdpSocket::bind(loopback).unwrap());
            let to = server.local_addr().unwrap();
            let is_listed = || {
                let all = Socket::open().unwrap().connected_udp().unwrap();
                all.iter().any(|socket| socket.remote() == to)
            };
            assert!(!is_listed());
            client.connect(to).unwrap();
            assert!(is_listed());
        }
    }
}
