//! Connections from an address and port that are said.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// The family of an address.
#[must_use]
pub fn family(addr: SocketAddr) -> AddressFamily {
    if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// Any address of the family of `of`, with a port.
#[must_use]
pub fn any(of: SocketAddr, port: u16) -> SocketAddr {
    if of.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, port).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, port).into()
    }
}

/// Connects a socket that is bound to `from`.
///
/// # Errors
/// What the kernel says.
pub fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(family(to), SockType::Stream, flags, None)?;
    // The connections over the other family may not have passed away yet.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(20))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(socket))
}
