//! Events: what the users of an object ought to hear, beside our own log.
//!
//! Whoever has something to say holds an [`Events`]; one task at its other end passes it on, to a
//! cluster ([`source::kubernetes`](crate::source::kubernetes)) or, with manifests, to the log.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;
use tracing::debug;

use crate::model::Reference;

/// So many events may wait; more of them are dropped.
const WAITING_MAX: usize = 512;

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// The object.
    pub regarding: Reference,
    /// Whether somebody ought to do something about it.
    pub kind: Kind,
    /// A word for it, in `CamelCase`.
    pub reason: String,
    /// What happened, for people.
    pub note: String,
    /// Every node says the same: one event is enough for all of them.
    pub is_shared: bool,
}

/// Whether something is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It is.
    Normal,
    /// It is not.
    Warning,
}

impl Event {
    /// Something happened on this node.
    #[must_use]
    pub fn normal(regarding: Reference, reason: &str, note: impl Into<String>) -> Self {
        Self {
            regarding,
            kind: Kind::Normal,
            reason: reason.to_owned(),
            note: note.into(),
            is_shared: false,
        }
    }

    /// Something is wrong on this node.
    #[must_use]
    pub fn warning(regarding: Reference, reason: &str, note: impl Into<String>) -> Self {
        Self {
            kind: Kind::Warning,
            ..Self::normal(regarding, reason, note)
        }
    }
}

/// Where events go in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    sender: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

/// Where events come out.
pub type Receiver = mpsc::Receiver<Event>;

/// A new pair of ends.
#[must_use]
pub fn channel() -> (Events, Receiver) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let events = Events {
        sender,
        dropped: Arc::default(),
    };
    (events, receiver)
}

impl Events {
    /// Passes an event on. Never waits: if too many do already, the event is dropped.
    pub fn send(&self, event: Event) {
        if self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Passes events on to the log alone.
pub async fn log(mut receiver: Receiver) {
    while let Some(event) = receiver.recv().await {
        let Event {
            regarding,
            reason,
            note,
            ..
        } = event;
        debug!("{regarding}: {reason}: {note}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_events() {
        let (events, mut receiver) = channel();
        for _ in 0..=WAITING_MAX {
            events.send(Event::normal(Reference::node("node1"), "Starting", ""));
        }
        assert_eq!(events.dropped(), 1);
        assert_eq!(receiver.try_recv().unwrap().reason, "Starting");
    }
}
