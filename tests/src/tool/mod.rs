//! What runs inside of a lab: servers that say whom they saw, clients that ask them.
//!
//! The binary `lab-tool` is a thin shell around this module; the lab starts it in
//! its places ([`crate::lab::Place`]) and reads what it prints.

mod connection;
mod crowd;
mod fragments;
mod options;
mod pattern;
mod probe;
mod request;
mod serve;
mod shape;
mod socket;
mod traffic;

use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use crowd::{AttendOptions, CrowdOptions, Crowded, attend, crowd};
pub use options::{RequestOptions, ServeOptions, UsageError, parse};
pub use probe::{ProbeEnd, ProbeOptions, Probed, Report, probe};
pub use request::request;
pub use serve::serve;
pub use shape::{Order, Shape};
pub use traffic::{Contact, EchoOptions, TrafficOptions, TrafficReport, echo, now_ns, traffic};

/// What a server prints once it accepts connections and datagrams.
pub const READY: &str = "ready";

/// What the tool is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Answer connections and datagrams until killed.
    Serve(ServeOptions),
    /// Send requests, and print an [`Outcome`] a line.
    Request(RequestOptions),
    /// Send one packet, and print what came of it as [`Probed`].
    Probe(ProbeOptions),
    /// Make traffic until standard input closes, and print a [`TrafficReport`].
    Traffic(TrafficOptions),
    /// Answer that traffic until killed.
    Echo(EchoOptions),
    /// Take many connections until killed.
    Attend(AttendOptions),
    /// Make many connections, and print what came of it as [`Crowded`].
    Crowd(CrowdOptions),
}

/// Many bytes over TCP, known to both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// So many from the client to the server.
    Upload(u64),
    /// So many from the server to the client.
    Download(u64),
}

impl Transfer {
    /// How the client asks for it.
    fn request(self) -> String {
        match self {
            Self::Upload(bytes) => format!("upload {bytes}"),
            Self::Download(bytes) => format!("download {bytes}"),
        }
    }

    /// What `request` asks for, if it is a transfer.
    fn requested(request: &str) -> Option<Self> {
        let (verb, bytes) = request.split_once(' ')?;
        match verb {
            "upload" => bytes.parse().ok().map(Self::Upload),
            "download" => bytes.parse().ok().map(Self::Download),
            _ => None,
        }
    }
}

/// A transport protocol that the tool speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A line is answered by a line.
    Tcp,
    /// A datagram is answered by a datagram.
    Udp,
}

impl Protocol {
    /// Both, for tests that go through all.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Its number in IP headers.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::protocol::TCP,
            Self::Udp => lb_common::protocol::UDP,
        }
    }
}

impl FromStr for Protocol {
    type Err = UsageError;

    fn from_str(name: &str) -> Result<Self, UsageError> {
        let known = Self::ALL
            .into_iter()
            .find(|protocol| protocol.name() == name);
        known.ok_or_else(|| UsageError::Value {
            option: "--protocol".to_owned(),
            value: name.to_owned(),
        })
    }
}

/// What a server answers, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// Where the request came from, as the server saw it.
    pub client: SocketAddr,
    /// Where the request arrived, as the server saw it.
    pub local: SocketAddr,
    /// The request.
    pub echo: String,
}

/// An answered request, as its client saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Which request of this client it was, from 0.
    pub number: u64,
    /// The name of the server that answered.
    pub server: String,
    /// The client's address, as the server saw it.
    pub seen_client: SocketAddr,
    /// The server's address, as the server saw it.
    pub seen_server: SocketAddr,
    /// The server's address, as the client saw it: `getpeername` of a connection, the
    /// source of a datagram.
    pub peer: SocketAddr,
    /// The client's address, as the client saw it (a wildcard for most UDP sockets).
    pub local: SocketAddr,
    /// How long it took, in milliseconds, connection setup included.
    pub ms: f64,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Outcome {
    /// It was answered.
    Reply(Reply),
    /// It was not.
    Failure {
        /// What went wrong, to what.
        error: String,
    },
}

/// An address as a person writes it: IPv4, even where a socket is of IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
