//! What goes wrong between a server and its clients, on request.
//!
//! A [`Fault`] is asked for by [`Faults::inject`], request by request, or drawn by [`Chaos`].

mod chaos;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::chaos::Chaos;
use super::store::Kind;

/// What is done to objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// One is read.
    Get,
    /// Many are read.
    List,
    /// Changes of many are followed.
    Watch,
    /// One is made.
    Create,
    /// One is written anew.
    Replace,
    /// One is changed.
    Patch,
    /// One or many are deleted.
    Delete,
}

/// Something that goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this status; 429 and 503 say when to try again.
    Fail {
        /// HTTP status.
        code: u16,
        /// Seconds to wait before the next try.
        retry_after: Option<u32>,
    },
    /// The answer comes late.
    Late(Duration),
    /// No answer comes, and the connection stays.
    Silent,
    /// The connection ends without an answer.
    Hangup,
    /// The connection ends in the middle of the answer.
    Truncated,
    /// Half of the answer is missing, and the protocol says that it is whole.
    Malformed,
    /// The version that is asked for has been forgotten.
    Gone,
    /// All history is forgotten before the request is looked at.
    Compact,
    /// A watch may not begin with a list.
    NoStreamingList,
    /// A watch has no bookmarks, though they are asked for.
    NoBookmarks,
    /// A watch begins this many versions earlier than asked for, so that changes are told again.
    Replay(u64),
    /// Something happens to a watch after so many events.
    Stream {
        /// Events until then.
        after: usize,
        /// What happens.
        trouble: Trouble,
    },
}

/// Something that goes wrong with a watch that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing comes for a while.
    Stall(Duration),
    /// Nothing comes any more, and the connection stays.
    Silence,
    /// It ends, as after its time.
    Close,
    /// Its connection ends.
    Abort,
    /// Its connection ends in the middle of an event.
    HalfEvent,
    /// It ends in the middle of an event.
    TruncatedEvent,
    /// An event comes in two parts, with a pause between them.
    Split(Duration),
    /// An event comes twice.
    Repeat,
}

/// Which requests something happens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// What is done; anything, if it is not said.
    pub verb: Option<Verb>,
    /// To what; anything, if it is not said.
    pub kind: Option<Kind>,
}

impl Matching {
    /// All requests.
    pub const ALL: Self = Self {
        verb: None,
        kind: None,
    };

    /// All that do this.
    #[must_use]
    pub fn verb(verb: Verb) -> Self {
        Self {
            verb: Some(verb),
            kind: None,
        }
    }

    /// All that do this to that.
    #[must_use]
    pub fn new(verb: Verb, kind: Kind) -> Self {
        Self {
            verb: Some(verb),
            kind: Some(kind),
        }
    }

    fn matches(self, verb: Verb, kind: Kind) -> bool {
        self.verb.is_none_or(|this| this == verb) && self.kind.is_none_or(|this| this == kind)
    }
}

/// A fault that was asked for.
#[derive(Debug)]
struct Rule {
    matching: Matching,
    fault: Fault,
    /// For how many requests yet; for all, if it is not said.
    times: Option<u32>,
}

/// A request, and what happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What it did.
    pub verb: Verb,
    /// To what.
    pub kind: Kind,
    /// How many of these there had been.
    pub index: u64,
    /// What went wrong.
    pub faults: Vec<Fault>,
}

/// All that goes wrong.
#[derive(Debug, Default)]
pub struct Faults(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    chaos: Option<Chaos>,
    counts: HashMap<(Verb, Kind), u64>,
    decisions: Vec<Decision>,
}

impl Faults {
    /// Lets `fault` happen to the next such request.
    pub fn once(&self, matching: Matching, fault: Fault) {
        self.inject(matching, fault, Some(1));
    }

    /// Lets `fault` happen to so many such requests, or to all from now on.
    pub fn inject(&self, matching: Matching, fault: Fault, times: Option<u32>) {
        self.state().rules.push(Rule {
            matching,
            fault,
            times,
        });
    }

    /// Lets `chaos` draw faults from now on; it counts requests from here.
    pub fn unleash(&self, chaos: Chaos) {
        let mut state = self.state();
        state.counts.clear();
        state.chaos = Some(chaos);
    }

    /// Lets nothing go wrong any more.
    pub fn calm(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.chaos = None;
    }

    /// The requests to which something happened, in their order.
    #[must_use]
    pub fn decisions(&self) -> Vec<Decision> {
        self.state().decisions.clone()
    }

    /// What happens to a request that has just come.
    pub(super) fn decide(&self, verb: Verb, kind: Kind) -> Vec<Fault> {
        let mut state = self.state();
        let count = state.counts.entry((verb, kind)).or_default();
        let index = *count;
        *count += 1;
        let mut faults = Vec::new();
        for rule in &mut state.rules {
            if rule.matching.matches(verb, kind) {
                faults.push(rule.fault);
                rule.times = rule.times.map(|times| times - 1);
            }
        }
        state.rules.retain(|rule| rule.times != Some(0));
        if let Some(chaos) = &state.chaos {
            faults.extend(chaos.draw(verb, kind, index));
        }
        if !faults.is_empty() {
            state.decisions.push(Decision {
                verb,
                kind,
                index,
                faults: faults.clone(),
            });
        }
        faults
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
