//! The servers: one thread for all of them and their connections.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use super::{EchoOptions, RECEIVE_BUFFER, REQUEST, answer};
use crate::tool::READY;

/// Serves TCP and UDP on every address of both families, until killed.
///
/// Prints [`READY`] once all ports are listened to.
///
/// # Errors
/// When a port cannot be had.
pub fn echo(options: &EchoOptions) -> io::Result<()> {
    let servers = options.servers.iter();
    let servers: Vec<Server> = servers
        .map(|(port, number)| Server::open(*port, *number))
        .collect::<Result<_, _>>()?;
    let mut connections: Vec<Connection> = Vec::new();
    println!("{READY}");
    loop {
        let listeners = servers.iter().flat_map(|server| {
            let Server {
                listener, socket, ..
            } = server;
            [listener.as_fd(), socket.as_fd()]
        });
        let streams = connections
            .iter()
            .map(|connection| connection.stream.as_fd());
        let mut ready: Vec<PollFd<'_>> = listeners
            .chain(streams)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        poll(&mut ready, PollTimeout::NONE)?;
        let ready: Vec<bool> = ready.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        let (listeners, streams) = ready.split_at(2 * servers.len());
        let mut streams = streams.iter();
        // A client that hangs up, in whatever way, is no concern of the server's.
        connections.retain_mut(|connection| {
            !streams.next().copied().unwrap_or_default() || connection.answer().is_ok()
        });
        for (server, ready) in servers.iter().zip(listeners.chunks(2)) {
            if ready.first() == Some(&true) {
                server.accept(&mut connections);
            }
            if ready.last() == Some(&true) {
                server.answer();
            }
        }
    }
}

struct Server {
    listener: TcpListener,
    socket: UdpSocket,
    number: u32,
}

impl Server {
    fn open(port: u16, number: u32) -> io::Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let (listener, socket) = (TcpListener::bind(any)?, UdpSocket::bind(any)?);
        listener.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
        Ok(Self {
            listener,
            socket,
            number,
        })
    }

    fn accept(&self, connections: &mut Vec<Connection>) {
        while let Ok((stream, _)) = self.listener.accept() {
            // One that is over already has none of this.
            let _over = stream.set_nonblocking(true).and(stream.set_nodelay(true));
            connections.push(Connection {
                stream,
                number: self.number,
                buffer: [0; REQUEST],
                filled: 0,
            });
        }
    }

    /// Answers all datagrams that are there.
    fn answer(&self) {
        let mut request = [0; REQUEST];
        while let Ok((length, client)) = self.socket.recv_from(&mut request) {
            if length == REQUEST {
                // An answer that cannot be sent is lost, like any datagram: the client notices.
                let _lost = self.socket.send_to(&answer(&request, self.number), client);
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    number: u32,
    buffer: [u8; REQUEST],
    filled: usize,
}

impl Connection {
    /// Answers what has come; an error when that was the end.
    fn answer(&mut self) -> io::Result<()> {
        let rest = self.buffer.get_mut(self.filled..).unwrap_or_default();
        match self.stream.read(rest) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        if self.filled == REQUEST {
            self.filled = 0;
            self.stream.write_all(&answer(&self.buffer, self.number))?;
        }
        Ok(())
    }
}
