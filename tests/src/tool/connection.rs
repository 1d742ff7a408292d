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

use super::socket::Setting;
use super::{
    Answer, Order, Protocol, RequestOptions, Shape, Transfer, canonical, fragments, pattern,
};

/// Long enough for any UDP answer.
const MAX_DATAGRAM: usize = 65_535;

/// An IPv4 option that collects the addresses of two routers, and the end of options.
const RECORD_ROUTE: [u8; 12] = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// As many bytes of IPv4 options as a header has room for, of no effect.
const NO_OPERATIONS: [u8; 40] = [1; 40];
/// A header of IPv6 options: 8 bytes, of no effect.
const PADDING_V6: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

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
        order: Option<Order>,
    },
}

impl Connection {
    /// Opens what the options ask for; a connection is established when this returns.
    pub(super) fn open(options: &RequestOptions) -> io::Result<Self> {
        let RequestOptions { to, timeout, .. } = *options;
        let socket = bound_socket(options)?;
        give_shape(&socket, options)?;
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
                let order = match options.shape {
                    Shape::Fragments(order) => Some(order),
                    _ => None,
                };
                // Who sends past the socket has to know its address.
                let connected = options.connect || order.is_some();
                if connected {
                    socket.connect(to)?;
                }
                Ok(Self::Udp {
                    socket,
                    to,
                    connected,
                    timeout,
                    order,
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
                order,
            } => {
                match (order, connected) {
                    (Some(order), _) => {
                        fragments::send(socket.local_addr()?, *to, request.as_bytes(), *order)?;
                    }
                    (None, true) => {
                        // What the kernel has disconnected connects again.
                        if socket.peer_addr().is_err() {
                            socket.connect(*to)?;
                        }
                        socket.send(request.as_bytes())?;
                    }
                    (None, false) => {
                        socket.send_to(request.as_bytes(), *to)?;
                    }
                }
                await_datagram(socket, request, *timeout)
            }
        }
    }

    /// Sends or receives many bytes; also says who the server is.
    pub(super) fn transfer(&mut self, transfer: Transfer) -> io::Result<(Answer, SocketAddr)> {
        let Self::Tcp { stream } = self else {
            return Err(io::Error::other("transfers go over TCP"));
        };
        let request = transfer.request();
        stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())?;
        if let Transfer::Upload(bytes) = transfer {
            pattern::send(stream.get_mut(), bytes)?;
        }
        let answered = read_answer(stream, &request)?;
        if let Transfer::Download(bytes) = transfer {
            pattern::receive(stream, bytes)?;
        }
        Ok(answered)
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

/// Lets the socket make packets of the shape that is asked for.
fn give_shape(socket: &OwnedFd, options: &RequestOptions) -> io::Result<()> {
    let is_v4 = options.to.is_ipv4();
    if !is_v4 && options.protocol == Protocol::Udp {
        Setting::TAKE_UNCHECKED_V6.set_number(socket, 1)?;
    }
    match options.shape {
        Shape::Plain | Shape::Fragments(_) => Ok(()),
        Shape::Options if is_v4 => Setting::OPTIONS_V4.set(socket, &RECORD_ROUTE),
        Shape::Options => Setting::HOP_BY_HOP.set(socket, &PADDING_V6),
        Shape::ManyOptions if is_v4 => Setting::OPTIONS_V4.set(socket, &NO_OPERATIONS),
        Shape::ManyOptions => {
            Setting::HOP_BY_HOP.set(socket, &PADDING_V6)?;
            Setting::DESTINATION.set(socket, &PADDING_V6)
        }
        Shape::Unchecked if is_v4 => Setting::UNCHECKED_V4.set_number(socket, 1),
        Shape::Unchecked => Setting::UNCHECKED_V6.set_number(socket, 1),
    }
}

fn exchange_line(
    stream: &mut BufReader<TcpStream>,
    request: &str,
) -> io::Result<(Answer, SocketAddr)> {
    stream
        .get_mut()
        .write_all(format!("{request}\n").as_bytes())?;
    read_answer(stream, request)
}

fn read_answer(
    stream: &mut BufReader<TcpStream>,
    request: &str,
) -> io::Result<(Answer, SocketAddr)> {
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
