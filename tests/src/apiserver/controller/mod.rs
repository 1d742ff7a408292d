//! What a cluster's controllers do when objects change.

mod deployments;
mod slices;

use jiff::Timestamp;

use super::store::Store;

/// The controllers that are on.
#[derive(Debug)]
pub(super) struct Controllers {
    /// Whether EndpointSlices are written.
    has_slices: bool,
}

impl Controllers {
    /// Controllers, with or without the one that writes EndpointSlices.
    pub(super) fn new(has_slices: bool) -> Self {
        Self { has_slices }
    }

    /// Does what follows from all that happened after the version `since`.
    ///
    /// Each looks at what changed and makes what ought to be there; what one has done is looked
    /// at by the others.
    pub(super) fn follow(&self, store: &mut Store, mut since: u64, now: Timestamp) {
        while since < store.revision() {
            let before = store.revision();
            deployments::follow(store, since, now);
            if self.has_slices {
                slices::follow(store, since, now);
            }
            since = before;
        }
    }
}
