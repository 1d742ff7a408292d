//! A TCP connection of the traffic.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use super::{ANSWER, now_ns, read_answer, request};

/// A connection, from its SYN on. It never waits for anything.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) stream: TcpStream,
    /// Which of the targets it goes to.
    pub(super) target: usize,
    pub(super) to: SocketAddr,
    state: State,
    /// The number of its last request.
    number: u64,
    /// When that was made, or the connection begun.
    pub(super) asked_ns: u64,
    /// Who answered first.
    server: Option<u32>,
    buffer: [u8; ANSWER],
    filled: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Idle,
    Asked,
}

impl Flow {
    /// Begins a connection.
    pub(super) fn open(target: usize, to: SocketAddr) -> io::Result<Self> {
        let asked_ns = now_ns();
        Ok(Self {
            stream: dial(to)?,
            target,
            to,
            state: State::Connecting,
            number: 0,
            asked_ns,
            server: None,
            buffer: [0; ANSWER],
            filled: 0,
        })
    }

    /// Whether something is to come.
    pub(super) fn is_waiting(&self) -> bool {
        self.state != State::Idle
    }

    /// Whether its handshake is to come.
    pub(super) fn is_connecting(&self) -> bool {
        self.state == State::Connecting
    }

    /// Sends the next request, if the last one is answered.
    pub(super) fn ask(&mut self) -> io::Result<()> {
        if self.state == State::Idle {
            self.asked_ns = now_ns();
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        self.number += 1;
        self.state = State::Asked;
        // Eight bytes always fit into the buffer of a connection that has nothing else in it.
        self.stream.write_all(&request(self.number))
    }

    /// Something has come: returns the server's number once an answer is complete.
    pub(super) fn proceed(&mut self) -> io::Result<Option<u32>> {
        if self.state == State::Connecting {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            self.stream.set_nodelay(true)?;
            self.send()?;
            return Ok(None);
        }
        let rest = self.buffer.get_mut(self.filled..).unwrap_or_default();
        match self.stream.read(rest) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.filled += read;
                self.complete()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn complete(&mut self) -> io::Result<Option<u32>> {
        if self.filled < ANSWER {
            return Ok(None);
        }
        self.filled = 0;
        let (number, server) = read_answer(&self.buffer);
        if self.state != State::Asked || number != self.number {
            let asked = self.number;
            return Err(io::Error::other(format!(
                "the answer is to request {number}, not {asked}"
            )));
        }
        let first = *self.server.get_or_insert(server);
        if first != server {
            return Err(io::Error::other(format!(
                "answered by server {server}, after {first}"
            )));
        }
        self.state = State::Idle;
        Ok(Some(server))
    }
}

/// Begins a connection without waiting for its end.
fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}
