//! Holds back what would take every Service away at once: a cluster that says so may be one that has lost
//! its memory.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::{
    event::{Event, Events},
    model::{Model, Reference},
};

/// Whether, and since when, something is held back.
#[derive(Debug)]
pub(super) struct Guard {
    /// How long; zero for not at all.
    delay: Duration,
    since: Option<Instant>,
    node: Reference,
    events: Events,
}

impl Guard {
    /// Nothing is held back yet.
    pub(super) fn new(delay: Duration, node_name: &str, events: Events) -> Self {
        Self {
            delay,
            since: None,
            node: Reference::node(node_name),
            events,
        }
    }

    /// Whether `model` has to wait, where as many frontends are served.
    pub(super) fn holds(&mut self, model: &Model, frontends: usize, now: Instant) -> bool {
        let is_empty = model.services.is_empty() || model.slices.is_empty();
        if self.delay.is_zero() || !is_empty || frontends == 0 {
            self.since = None;
            return false;
        }
        if self.since.is_none() {
            let note = format!(
                "the cluster has no Services or no endpoints any more, all at once: what is served \
                 stays for {:?} (--empty-guard)",
                self.delay
            );
            warn!("{note}");
            let event = Event::warning(self.node.clone(), "EmptyClusterHeldBack", note);
            self.events.send(event);
        }
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since) < self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event;

    const DELAY: Duration = Duration::from_secs(60);

    #[test]
    fn an_empty_cluster_is_believed_unless_told_otherwise() {
        let (events, _receiver) = event::channel();
        let mut guard = Guard::new(Duration::ZERO, "node1", events);
        assert!(!guard.holds(&Model::default(), 7, Instant::now()));
    }

    #[test]
    fn an_empty_cluster_waits_and_is_believed_in_the_end() {
        let (events, mut receiver) = event::channel();
        let mut guard = Guard::new(DELAY, "node1", events);
        let start = Instant::now();
        let mut holds = |frontends, after| guard.holds(&Model::default(), frontends, start + after);
        assert!(!holds(0, Duration::ZERO), "nothing is lost");
        assert!(holds(7, Duration::ZERO));
        assert!(holds(7, DELAY / 2));
        assert!(!holds(7, DELAY));
        assert_eq!(receiver.try_recv().unwrap().reason, "EmptyClusterHeldBack");
        assert!(receiver.try_recv().is_err(), "it is said once");
    }
}
