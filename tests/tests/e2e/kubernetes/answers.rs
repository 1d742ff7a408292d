//! How clients are answered, and how long it takes until they are answered otherwise.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::lab::{Place as _, Request, Requests, Site};
use lb_tests::tool::Protocol;

/// So long may a change take, from the moment that its command has returned.
const LIMIT: Duration = Duration::from_secs(1);
/// So long a failing test looks on, to say how long it would have taken.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a client waits before it takes silence for an answer.
const PATIENCE: Duration = Duration::from_millis(250);
/// As many requests as let three backends all answer, all but surely (1 in 5000 not: then they are
/// sent again).
const REQUESTS: u64 = 24;

/// Who asks whom.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) from: &'a Site,
    pub(super) protocol: Protocol,
    pub(super) to: SocketAddr,
}

impl<'a> Way<'a> {
    /// Over both protocols, to each of these addresses.
    pub(super) fn all(from: &'a Site, to: impl IntoIterator<Item = SocketAddr>) -> Vec<Self> {
        let both = |to| Protocol::ALL.map(|protocol| Self { from, protocol, to });
        to.into_iter().flat_map(both).collect()
    }
}

/// How all requests of a client end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Each of these answers, and nobody else.
    By(BTreeSet<String>),
    /// Connection refused.
    Refused,
    /// Nothing comes back.
    Silence,
    /// In more ways than one, or in another.
    Else(String),
}

impl Heard {
    pub(super) fn by(names: &[&str]) -> Self {
        Self::By(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn of(failure: &str) -> Self {
        if failure.contains("Connection refused") {
            Self::Refused
        } else if failure.contains("within") {
            Self::Silence
        } else {
            Self::Else(failure.to_owned())
        }
    }

    /// What a client hears, and since when at the latest: since its first answer or refusal came.
    /// Silence was there when the client was started.
    fn listen(started: Instant, requests: Requests) -> (Self, Instant) {
        let (mut by, mut since) = (BTreeSet::new(), None);
        for outcome in requests {
            match outcome {
                Ok(reply) => {
                    since.get_or_insert_with(Instant::now);
                    by.insert(reply.server);
                }
                Err(error) if by.is_empty() => {
                    let heard = Self::of(&error.to_string());
                    let is_silent = heard == Self::Silence;
                    return (heard, if is_silent { started } else { Instant::now() });
                }
                Err(error) => {
                    let both = format!("{by:?} answered, and then: {error:#}");
                    return (Self::Else(both), Instant::now());
                }
            }
        }
        (Self::By(by), since.unwrap_or(started))
    }
}

/// Ways that are all to be answered alike.
pub(super) type Expected<'a> = (Vec<Way<'a>>, Heard);

/// Checks that clients are answered so, within a second after `since`.
#[track_caller]
pub(super) fn expect(what: &str, since: Instant, expected: &[Expected<'_>]) {
    let took = await_answers(what, since, expected);
    println!("{what}: {} ms", took.as_millis());
    assert!(took <= LIMIT, "{what}: took {took:?}");
}

/// Waits until clients are answered so; says how long after `since` that was.
#[track_caller]
pub(super) fn await_answers(what: &str, since: Instant, expected: &[Expected<'_>]) -> Duration {
    let mut open: Vec<(Way<'_>, &Heard)> = expected
        .iter()
        .flat_map(|(ways, heard)| ways.iter().map(move |way| (*way, heard)))
        .collect();
    let mut took = Duration::ZERO;
    loop {
        let heard = listen_to_all(&open);
        let mut left = Vec::new();
        let mut trouble = Vec::new();
        for (&(way, expected), (heard, at)) in open.iter().zip(heard) {
            if heard == *expected {
                took = took.max(at.saturating_duration_since(since));
            } else {
                let (from, to, protocol) = (way.from.name(), way.to, way.protocol.name());
                trouble.push(format!("{from} to {to} ({protocol}): {heard:?}"));
                left.push((way, expected));
            }
        }
        if left.is_empty() {
            return took;
        }
        open = left;
        assert!(
            since.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}, but {trouble:#?}"
        );
    }
}

/// Starts all clients, and listens to all at the same time: each says when it heard something.
fn listen_to_all(open: &[(Way<'_>, &Heard)]) -> Vec<(Heard, Instant)> {
    let clients: Vec<_> = open.iter().map(start).collect();
    thread::scope(|scope| {
        let listen = |(started, requests)| scope.spawn(move || Heard::listen(started, requests));
        let listeners: Vec<_> = clients.into_iter().map(listen).collect();
        let heard = listeners.into_iter().map(|listener| listener.join());
        heard.collect::<Result<_, _>>().expect("all listen")
    })
}

/// Starts a client. One request is enough where none is answered.
fn start((way, expected): &(Way<'_>, &Heard)) -> (Instant, Requests) {
    let started = Instant::now();
    let request = Request {
        count: if matches!(expected, Heard::By(_)) {
            REQUESTS
        } else {
            1
        },
        timeout: PATIENCE,
        // What ICMP says reaches only a connected socket.
        connect: true,
        ..Request::new(way.protocol, way.to)
    };
    (started, way.from.start(&request).expect("a client"))
}
