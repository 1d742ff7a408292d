//! Traffic that goes on at a steady rate and counts all that happens to it, and servers that say no
//! more than their number: a whole cluster's load takes a part of one processor.

mod client;
mod clock;
mod echo;
mod flow;
mod report;
mod stream;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use client::traffic;
pub use clock::now_ns;
pub use echo::echo;
pub use report::{Contact, TrafficReport};

/// Bytes of a request: its number.
const REQUEST: usize = 8;
/// Bytes of an answer: the request's number, and the server's.
const ANSWER: usize = 12;

/// Room for datagrams in a socket: what is lost must not be the fault of a process that the machine keeps
/// waiting.
const RECEIVE_BUFFER: usize = 8 << 20;

/// What traffic there is to be, until standard input closes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficOptions {
    /// Whom to ask, in turn.
    pub targets: Vec<SocketAddr>,
    /// TCP connections that stay, each with one request at a time.
    pub flows: usize,
    /// UDP sockets, each with a request whenever the interval has passed.
    pub streams: usize,
    /// TCP connections for a request each, a second.
    pub connections_per_second: u32,
    /// Between two requests of a connection that stays, in milliseconds.
    pub interval_ms: u64,
    /// How long an answer may take, in milliseconds.
    pub patience_ms: u64,
    /// Whether a UDP socket may come to another server than before.
    pub streams_may_move: bool,
    /// Whether the report lists each answer to a new connection, and over UDP.
    pub lists_contacts: bool,
}

impl TrafficOptions {
    /// No traffic yet, to `targets`.
    #[must_use]
    pub fn to(targets: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            targets: targets.into_iter().collect(),
            flows: 0,
            streams: 0,
            connections_per_second: 0,
            interval_ms: 10,
            patience_ms: 20_000,
            streams_may_move: false,
            lists_contacts: false,
        }
    }
}

/// Servers of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoOptions {
    /// Ports, TCP and UDP, each with the number that is answered there.
    pub servers: Vec<(u16, u32)>,
}

fn request(number: u64) -> [u8; REQUEST] {
    number.to_be_bytes()
}

fn answer(request: &[u8; REQUEST], server: u32) -> [u8; ANSWER] {
    let mut answer = [0; ANSWER];
    let (number, name) = answer.split_at_mut(REQUEST);
    number.copy_from_slice(request);
    name.copy_from_slice(&server.to_be_bytes());
    answer
}

/// The number of the request that is answered, and of the server.
fn read_answer(answer: &[u8; ANSWER]) -> (u64, u32) {
    let [a, b, c, d, e, f, g, h, server @ ..] = *answer;
    (
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u32::from_be_bytes(server),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_it_answers_and_who_does() {
        let text = answer(&request(u64::MAX - 7), 12);
        assert_eq!(read_answer(&text), (u64::MAX - 7, 12));
    }
}
