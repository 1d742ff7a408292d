//! What a cluster's controllers do when objects change.

use jiff::Timestamp;

use super::store::Store;

/// The controllers that are on.
#[derive(Debug, Default)]
pub(super) struct Controllers {
    has_slices: bool,
}

impl Controllers {
    /// Controllers, with or without the one that writes EndpointSlices.
    pub(super) fn new(has_slices: bool) -> Self {
        Self { has_slices }
    }

    /// Does what follows from all that happened after the version `since`.
    pub(super) fn follow(&mut self, store: &mut Store, since: u64, now: Timestamp) {
        let _ = (store, since, now, self.has_slices);
    }
}
