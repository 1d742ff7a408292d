//! One packet, and all that can be heard of it.

use std::io::{self, ErrorKind, IoSliceMut, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::Ipv6DontFrag;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6,
    SockaddrStorage, connect, recvmsg, setsockopt, socket,
};
use serde::{Deserialize, Serialize};

use super::socket::Family;
use super::{Answer, Protocol};

/// What the payload of a probe begins with.
pub(super) const PROBE: &str = "probe";

/// What to send, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeOptions {
    /// Whom to ask.
    pub to: SocketAddr,
    /// Over what: a datagram, or the opening of a connection.
    pub protocol: Protocol,
    /// Length of a datagram's payload in bytes.
    pub size: usize,
    /// How many routers it may pass; 0: as many as ever.
    pub ttl: u8,
    /// How long to wait for whatever comes of it.
    pub timeout: Duration,
}

impl ProbeOptions {
    /// A packet of a few bytes.
    #[must_use]
    pub fn new(protocol: Protocol, to: SocketAddr) -> Self {
        Self {
            to,
            protocol,
            size: 16,
            ttl: 0,
            timeout: Duration::from_secs(2),
        }
    }

    /// The arguments that [`parse`](super::parse) reads back.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let pairs = [
            ("--to", self.to.to_string()),
            ("--protocol", self.protocol.name().to_owned()),
            ("--size", self.size.to_string()),
            ("--ttl", self.ttl.to_string()),
            ("--timeout-ms", self.timeout.as_millis().to_string()),
        ];
        let pairs = pairs
            .into_iter()
            .flat_map(|(option, value)| [option.to_owned(), value]);
        ["probe".to_owned()].into_iter().chain(pairs).collect()
    }
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// How it ended.
    pub end: ProbeEnd,
    /// The ICMP error that the socket took for its own: it quotes what the socket has sent.
    pub report: Option<Report>,
    /// What the client's kernel takes for the path's MTU afterwards.
    pub mtu: u32,
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeEnd {
    /// An answer, or a connection.
    Answered,
    /// An error of the socket, by its name.
    Failed(String),
    /// Nothing came.
    Silence,
}

impl ProbeEnd {
    fn failed(errno: i32) -> Self {
        Self::Failed(format!("{:?}", Errno::from_raw(errno)))
    }
}

/// An ICMP error, as the socket that it was about saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who says so.
    pub from: IpAddr,
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The MTU that it tells, if it tells one.
    pub info: u32,
}

/// Sends one packet that must not be fragmented, and prints what came of it as [`Probed`].
///
/// # Errors
/// When the socket cannot be had, or standard output is closed.
pub fn probe(options: &ProbeOptions) -> io::Result<()> {
    let family = Family::of(options.to.ip());
    let socket = open(options, family)?;
    let ended = match options.protocol {
        Protocol::Tcp => open_connection(socket.try_clone()?, options),
        Protocol::Udp => exchange(socket.try_clone()?, options),
    };
    let report = report(&socket, options.to)?;
    let end = match (ended, &report) {
        (Ok(()), _) => ProbeEnd::Answered,
        // TCP goes on after most errors; the probe does not.
        (Err(error), Some((_, errno))) if is_silence(&error) => ProbeEnd::failed(*errno),
        (Err(error), _) if is_silence(&error) => ProbeEnd::Silence,
        (Err(error), _) => match error.raw_os_error() {
            Some(errno) => ProbeEnd::failed(errno),
            None => ProbeEnd::Failed(error.to_string()),
        },
    };
    let probed = Probed {
        end,
        report: report.map(|(report, _)| report),
        // A socket whose connection failed has no path.
        mtu: family.mtu(&socket).unwrap_or_default(),
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &probed)?;
    out.write_all(b"\n")
}

fn open(options: &ProbeOptions, family: Family) -> io::Result<OwnedFd> {
    let address_family = match options.to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let kind = match options.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let socket = socket(address_family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    family.keep_reports(&socket)?;
    family.keep_whole(&socket)?;
    if options.to.is_ipv6() {
        setsockopt(&socket, Ipv6DontFrag, &true)?;
    }
    if options.ttl != 0 {
        family.limit_hops(&socket, options.ttl)?;
    }
    Ok(socket)
}

/// Opens a connection, or waits until there is an error to be read.
fn open_connection(socket: OwnedFd, options: &ProbeOptions) -> io::Result<()> {
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(options.to)) {
        Err(Errno::EINPROGRESS) => {}
        connected => return Ok(connected?),
    }
    let timeout = PollTimeout::try_from(options.timeout).map_err(io::Error::other)?;
    let mut waiting = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut waiting, timeout)? == 0 {
        return Err(ErrorKind::WouldBlock.into());
    }
    match stream.take_error()? {
        Some(error) => Err(error),
        // No error of the connection, but one to be read about it.
        None if stream.peer_addr().is_err() => Err(ErrorKind::WouldBlock.into()),
        None => Ok(()),
    }
}

fn exchange(socket: OwnedFd, options: &ProbeOptions) -> io::Result<()> {
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(options.timeout))?;
    socket.connect(options.to)?;
    let payload = format!("{PROBE:-<width$}", width = options.size);
    socket.send(payload.as_bytes())?;
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer)?;
    let answer: Answer = serde_json::from_slice(&buffer[..length])?;
    if answer.echo == received(payload.len()) {
        Ok(())
    } else {
        Err(io::Error::new(ErrorKind::InvalidData, answer.echo))
    }
}

/// What a server answers to a probe of so many bytes: little, whatever the probe's size.
pub(super) fn received(bytes: usize) -> String {
    format!("{bytes} bytes")
}

fn is_silence(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

/// The first ICMP error that the socket has kept; what the kernel itself found out is none.
fn report(socket: &OwnedFd, to: SocketAddr) -> io::Result<Option<(Report, i32)>> {
    loop {
        let kept = if to.is_ipv4() {
            report_v4(socket)
        } else {
            report_v6(socket)
        };
        match kept {
            Ok(Some(report)) => return Ok(Some(report)),
            Ok(None) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn report_v4(socket: &OwnedFd) -> nix::Result<Option<(Report, i32)>> {
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
    let mut payload = [0; 64];
    let mut parts = [IoSliceMut::new(&mut payload)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    Ok(message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
            let from = IpAddr::from(u32::from_be(from.sin_addr.s_addr).to_be_bytes());
            icmp(&error, libc::SO_EE_ORIGIN_ICMP, from)
        }
        _ => None,
    }))
}

fn report_v6(socket: &OwnedFd) -> nix::Result<Option<(Report, i32)>> {
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut payload = [0; 64];
    let mut parts = [IoSliceMut::new(&mut payload)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    Ok(message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
            let from = IpAddr::from(from.sin6_addr.s6_addr);
            icmp(&error, libc::SO_EE_ORIGIN_ICMP6, from)
        }
        _ => None,
    }))
}

/// An error that came by ICMP, and what it means to the socket.
fn icmp(error: &libc::sock_extended_err, origin: u8, from: IpAddr) -> Option<(Report, i32)> {
    let report = Report {
        from,
        kind: error.ee_type,
        code: error.ee_code,
        info: error.ee_info,
    };
    (error.ee_origin == origin).then_some((report, error.ee_errno.cast_signed()))
}
