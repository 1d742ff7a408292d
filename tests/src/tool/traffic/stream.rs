//! A UDP socket of the traffic.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use super::{ANSWER, Contact, RECEIVE_BUFFER, now_ns, read_answer, request};

/// A connected socket: what comes from another address than was dialled does not reach it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: UdpSocket,
    target: usize,
    pub(super) to: SocketAddr,
    number: u64,
    /// Requests without an answer, and when they were made.
    asked: VecDeque<(u64, u64)>,
    server: Option<u32>,
    may_move: bool,
}

impl Stream {
    pub(super) fn open(target: usize, to: SocketAddr, may_move: bool) -> io::Result<Self> {
        let any = match to {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
        Ok(Self {
            socket,
            target,
            to,
            number: 0,
            asked: VecDeque::new(),
            server: None,
            may_move,
        })
    }

    /// Sends a request.
    pub(super) fn ask(&mut self) -> io::Result<()> {
        self.number += 1;
        self.asked.push_back((self.number, now_ns()));
        self.socket.send(&request(self.number)).map(drop)
    }

    /// Whether answers are to come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The next answer that is there.
    pub(super) fn proceed(&mut self) -> io::Result<Option<Contact>> {
        let mut buffer = [0; ANSWER];
        match self.socket.recv(&mut buffer) {
            Ok(ANSWER) => {}
            Ok(length) => return Err(io::Error::other(format!("an answer of {length} bytes"))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let (number, server) = read_answer(&buffer);
        let place = self.asked.iter().position(|(asked, _)| *asked == number);
        let asked = place.and_then(|place| self.asked.remove(place));
        let (_, asked_ns) =
            asked.ok_or_else(|| io::Error::other("an answer to what was not asked"))?;
        let first = self.server.replace(server).unwrap_or(server);
        if first != server && !self.may_move {
            return Err(io::Error::other(format!(
                "answered by server {server}, after {first}"
            )));
        }
        Ok(Some(Contact {
            asked_ns,
            answered_ns: now_ns(),
            target: self.target,
            server,
        }))
    }
}
