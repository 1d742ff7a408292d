//! A client's end: a TCP connection, or a UDP socket.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{ReuseAddr, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::{Answer, Protocol, RequestOptions, canonical};

/// Long enough for any UDP answer.
const MAX_DATAGRAM: usize = 65_535;

/// Something to send requests through.
pub(super) enum Connection {
    Tcp {
        stream: BufReader<TcpStream>,
    },
    Udp {
        socket: UdpSocket,
        to: SocketAddr,
        connected: bool,
        timeout: Duration,
    },
}

impl Connection {
    /// Opens what the options ask for; a connection is established when this returns.
    pub(super) fn open(options: &RequestOptions) -> io::Result<Self> {
        let RequestOptions { to, timeout, .. } = *options;
        let socket = bound_socket(options)?;
        match options.protocol {
            Protocol::Tcp => {
                connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
                let stream = TcpStream::from(socket);
                stream.set_read_timeout(Some(timeout))?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp {
                    stream: BufReader::new(stream),
                })
            }
            Protocol::Udp => {
                let socket = UdpSocket::from(socket);
                if options.connect {
                    socket.connect(to)?;
                }
                Ok(Self::Udp {
                    socket,
                    to,
                    connected: options.connect,
                    timeout,
                })
            }
        }
    }

    /// Sends a request and waits for its answer; also says who the answer is from.
    pub(super) fn exchange(&mut self, request: &str) -> io::Result<(Answer, SocketAddr)> {
        match self {
            Self::Tcp { stream } => exchange_line(stream, request),
            Self::Udp {
                socket,
                to,
                connected,
                timeout,
            } => {
                match connected {
                    true => socket.send(request.as_bytes())?,
                    false => socket.send_to(request.as_bytes(), *to)?,
                };
                await_datagram(socket, request, *timeout)
            }
        }
    }

    /// The client's own address.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp { stream } => stream.get_ref().local_addr(),
            Self::Udp { socket, .. } => socket.local_addr(),
        }
        .map(canonical)
    }
}

/// A socket with the client's port, and with the timeout that `connect` keeps to.
fn bound_socket(options: &RequestOptions) -> io::Result<OwnedFd> {
    let (family, any) = match options.to {
        SocketAddr::V4(_) => (AddressFamily::Inet, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(_) => (AddressFamily::Inet6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let kind = match options.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout = i64::try_from(options.timeout.as_micros()).unwrap_or(i64::MAX);
    setsockopt(&socket, SendTimeout, &TimeVal::microseconds(timeout))?;
    if options.source_port != 0 {
        setsockopt(&socket, ReuseAddr, &true)?;
        let address = SocketAddr::new(any, options.source_port);
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    }
    Ok(socket)
}

fn exchange_line(
    stream: &mut BufReader<TcpStream>,
    request: &str,
) -> io::Result<(Answer, SocketAddr)> {
    stream
        .get_mut()
        .write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            "the server closed the connection",
        ));
    }
    let answer: Answer = serde_json::from_str(&line)?;
    if answer.echo != request {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "the answer is to another request",
        ));
    }
    Ok((answer, canonical(stream.get_ref().peer_addr()?)))
}

/// Waits for the answer to `request`, past late answers to earlier ones.
fn await_datagram(
    socket: &UdpSocket,
    request: &str,
    timeout: Duration,
) -> io::Result<(Answer, SocketAddr)> {
    let deadline = Instant::now() + timeout;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::WouldBlock.into());
        }
        socket.set_read_timeout(Some(left))?;
        let (length, peer) = socket.recv_from(&mut buffer)?;
        let answer: Answer = serde_json::from_slice(&buffer[..length])?;
        if answer.echo == request {
            return Ok((answer, canonical(peer)));
        }
    }
}
