//! What happened to the objects of a kind.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::json;

use super::object::{Object, metadata_mut};
use super::selector::Selector;
use super::status::Status;

/// A change of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The version that it led to.
    pub revision: u64,
    /// The object until then.
    pub before: Option<Object>,
    /// The object from then on.
    pub after: Option<Object>,
}

/// What a watch calls a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// It has come.
    Added,
    /// It is another.
    Modified,
    /// It has gone.
    Deleted,
}

impl EventType {
    /// As it stands in a stream.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl Change {
    /// What a watch with such a selector says: an object that begins or ceases to match comes or
    /// goes. What has gone is shown as it was last, with the version of its going.
    #[must_use]
    pub fn seen_through(&self, selector: &Selector) -> Option<(EventType, Object)> {
        let before = self
            .before
            .as_ref()
            .filter(|object| selector.matches(object));
        let after = self
            .after
            .as_ref()
            .filter(|object| selector.matches(object));
        match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some((EventType::Added, after.clone())),
            (Some(_), Some(after)) => Some((EventType::Modified, after.clone())),
            (Some(before), None) => {
                let mut last = before.as_ref().clone();
                let revision = json!(self.revision.to_string());
                metadata_mut(&mut last).insert("resourceVersion".to_owned(), revision);
                Some((EventType::Deleted, Arc::new(last)))
            }
        }
    }
}

/// The changes that are remembered, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    changes: VecDeque<Change>,
    /// Nothing is known of what led to this version or came before.
    compacted: u64,
}

impl History {
    /// Notes a change, and forgets the oldest if there are more than `limit`.
    pub(super) fn push(&mut self, change: Change, limit: usize) {
        self.changes.push_back(change);
        while self.changes.len() > limit {
            if let Some(oldest) = self.changes.pop_front() {
                self.compacted = oldest.revision;
            }
        }
    }

    /// Forgets all up to and with `revision`.
    pub(super) fn compact(&mut self, revision: u64) {
        let kept = self.first_after(revision);
        self.changes.drain(..kept);
        self.compacted = self.compacted.max(revision);
    }

    /// The changes after `revision`.
    pub(super) fn after(
        &self,
        revision: u64,
    ) -> Result<impl DoubleEndedIterator<Item = &Change>, Status> {
        if revision < self.compacted {
            return Err(Status::expired(format!(
                "too old resource version: {revision} ({})",
                self.compacted
            )));
        }
        Ok(self.changes.range(self.first_after(revision)..))
    }

    fn first_after(&self, revision: u64) -> usize {
        self.changes
            .partition_point(|change| change.revision <= revision)
    }
}
