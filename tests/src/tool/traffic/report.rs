//! What happened to traffic.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Failures that are told in words; the others are counted.
const TOLD: usize = 20;

/// All that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// Answers on connections that stay.
    pub exchanges: u64,
    /// Connections for one request that were answered.
    pub connections: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Datagrams that were answered.
    pub answered: u64,
    /// What must not happen: resets, refusals, connections that end or stall, answers to another
    /// request or from another server.
    pub failures: u64,
    /// The first of them, in words.
    pub told: Vec<String>,
    /// Answers to new connections and datagrams, by server.
    pub servers: BTreeMap<u32, u64>,
    /// The longest that an answer took, in milliseconds.
    pub slowest_ms: u64,
    /// How often this process came too late to ask: the machine was busy.
    pub late: u64,
    /// Each answer, if it was asked for.
    pub contacts: Vec<Contact>,
}

/// An answer to a new connection, or over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// When it was asked, by [`now_ns`](super::now_ns).
    pub asked_ns: u64,
    /// When the answer was there.
    pub answered_ns: u64,
    /// Which of the targets was asked.
    pub target: usize,
    /// The number of the server.
    pub server: u32,
}

impl TrafficReport {
    pub(super) fn fail(&mut self, what: &str, to: SocketAddr, why: &dyn fmt::Display) {
        self.failures += 1;
        if self.told.len() < TOLD {
            self.told.push(format!("{what} to {to}: {why}"));
        }
    }

    pub(super) fn met(&mut self, contact: Contact, is_listed: bool) {
        *self.servers.entry(contact.server).or_default() += 1;
        self.took(contact.asked_ns, contact.answered_ns);
        if is_listed {
            self.contacts.push(contact);
        }
    }

    pub(super) fn took(&mut self, asked_ns: u64, answered_ns: u64) {
        let ms = answered_ns.saturating_sub(asked_ns) / 1_000_000;
        self.slowest_ms = self.slowest_ms.max(ms);
    }

    /// Datagrams without an answer.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.datagrams.saturating_sub(self.answered)
    }
}

impl fmt::Display for TrafficReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            exchanges,
            connections,
            datagrams,
            answered,
            failures,
            told,
            servers,
            slowest_ms,
            late,
            contacts: _,
        } = self;
        write!(
            f,
            "{exchanges} exchanges, {connections} new connections, {answered} of {datagrams} datagrams \
             answered, by {servers:?}; the slowest answer took {slowest_ms} ms, {late} ticks late; \
             {failures} failures"
        )?;
        told.iter().try_for_each(|told| write!(f, "\n  {told}"))
    }
}
