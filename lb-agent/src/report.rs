//! Says once what is rejected: in the log, as Events, and in numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{info, warn};

use crate::{
    event::{Event, Events},
    model::{Cause, Reference, Rejection},
};

/// An Event lists so many rejections of one object; of the others it says the number.
const LISTED_MAX: usize = 3;

/// How many rejections there have been since the start, by kind of object and by cause.
///
/// Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Rejections(Arc<Mutex<Counts>>);

type Counts = BTreeMap<(&'static str, Cause), u64>;

/// Kind of what is no object of a cluster, such as a file.
const NO_OBJECT: &str = "manifest";

impl Rejections {
    /// The numbers of now.
    #[must_use]
    pub fn snapshot(&self) -> Counts {
        self.lock().clone()
    }

    fn count(&self, rejection: &Rejection) {
        let regarding = rejection.regarding.as_ref();
        let kind = regarding.map_or(NO_OBJECT, |object| object.kind);
        *self.lock().entry((kind, rejection.cause)).or_default() += 1;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        // Numbers are whole whatever happened to the one who counted.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports the rejections of one origin.
#[derive(Debug)]
pub struct Reporter {
    events: Events,
    counts: Rejections,
    /// What was rejected last time.
    last: BTreeSet<Rejection>,
}

impl Reporter {
    /// Reports to `events` and `counts`.
    #[must_use]
    pub fn new(events: Events, counts: Rejections) -> Self {
        Self {
            events,
            counts,
            last: BTreeSet::new(),
        }
    }

    /// Says what is new in `now`, which is all that is rejected.
    pub fn report(&mut self, now: BTreeSet<Rejection>) {
        let mut by_object: BTreeMap<(&Reference, Cause), Vec<&Rejection>> = BTreeMap::new();
        for rejection in now.difference(&self.last) {
            warn!("{rejection}");
            self.counts.count(rejection);
            if let Some(object) = &rejection.regarding {
                let same = by_object.entry((object, rejection.cause)).or_default();
                same.push(rejection);
            }
        }
        for ((object, cause), rejections) in by_object {
            let event = Event::warning(object.clone(), &cause.to_string(), note(&rejections));
            self.events.send(Event {
                is_shared: true,
                ..event
            });
        }
        if now.is_empty() && !self.last.is_empty() {
            info!("nothing is rejected any more");
        }
        self.last = now;
    }
}

fn note(rejections: &[&Rejection]) -> String {
    let listed = rejections.iter().take(LISTED_MAX);
    let listed: Vec<_> = listed.map(ToString::to_string).collect();
    let listed = listed.join("; ");
    match rejections.len().saturating_sub(LISTED_MAX) {
        0 => listed,
        more => format!("{listed}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{self, Kind},
        model::ObjectName,
    };

    fn rejection(name: &str, cause: Cause, reason: &str) -> Rejection {
        let name = ObjectName::new("default", name);
        Rejection::of_service(&name, cause, reason)
    }

    fn reporter() -> (Reporter, event::Receiver, Rejections) {
        let (events, receiver) = event::channel();
        let counts = Rejections::default();
        (Reporter::new(events, counts.clone()), receiver, counts)
    }

    fn notes(receiver: &mut event::Receiver) -> Vec<String> {
        let events = std::iter::from_fn(|| receiver.try_recv().ok());
        events
            .map(|event| {
                assert_eq!((event.kind, event.is_shared), (Kind::Warning, true));
                format!("{} {}: {}", event.regarding, event.reason, event.note)
            })
            .collect()
    }

    #[test]
    fn what_is_rejected_is_said_once() {
        let (mut reporter, mut events, counts) = reporter();
        let a = rejection("a", Cause::ConflictingFrontend, "taken");
        let b = rejection("b", Cause::UnsupportedFeature, "SCTP");
        reporter.report(BTreeSet::from([a.clone()]));
        assert_eq!(
            notes(&mut events),
            ["Service default/a ConflictingFrontend: Service default/a: taken"]
        );
        reporter.report(BTreeSet::from([a.clone(), b]));
        assert_eq!(
            notes(&mut events),
            ["Service default/b UnsupportedFeature: Service default/b: SCTP"]
        );
        reporter.report(BTreeSet::new());
        reporter.report(BTreeSet::from([a]));
        assert_eq!(notes(&mut events).len(), 1, "it came back");
        assert_eq!(
            counts.snapshot(),
            BTreeMap::from([
                (("Service", Cause::ConflictingFrontend), 2),
                (("Service", Cause::UnsupportedFeature), 1),
            ])
        );
    }

    #[test]
    fn an_object_that_is_wrong_throughout_makes_one_event() {
        let (mut reporter, mut events, counts) = reporter();
        let all = (0..9).map(|i| rejection("a", Cause::InvalidEndpointAddress, &format!("{i}")));
        reporter.report(all.collect());
        let notes = notes(&mut events);
        let [note] = notes.as_slice() else {
            panic!("{notes:?}");
        };
        assert!(note.ends_with("Service default/a: 2; and 6 more"), "{note}");
        let key = ("Service", Cause::InvalidEndpointAddress);
        assert_eq!(counts.snapshot(), BTreeMap::from([(key, 9)]));
    }

    #[test]
    fn a_file_is_counted_and_has_no_event() {
        let (mut reporter, mut events, counts) = reporter();
        reporter.report(BTreeSet::from([Rejection::of_file("a.yaml", "bad")]));
        assert_eq!(notes(&mut events), [""; 0]);
        let key = (NO_OBJECT, Cause::InvalidObject);
        assert_eq!(counts.snapshot(), BTreeMap::from([(key, 1)]));
    }
}
