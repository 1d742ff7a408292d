//! What the agent's loop publishes for those who ask.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::state::{Family, Health, Report};
use crate::{
    desired::LocalReady,
    model::{Model, ObjectName},
};

/// What the agent's loop publishes. The loop writes, HTTP tasks read.
#[derive(Debug)]
pub struct Status {
    health: Mutex<Health>,
    eligible: AtomicBool,
    /// Whether a node without a Node object is eligible.
    needs_no_object: bool,
    local: Mutex<BTreeMap<ObjectName, LocalReady>>,
}

impl Status {
    /// Nothing has happened yet. `needs_no_object` if the source need not have a Node object.
    #[must_use]
    pub fn new(needs_no_object: bool) -> Self {
        Self {
            health: Mutex::default(),
            eligible: AtomicBool::new(needs_no_object),
            needs_no_object,
            local: Mutex::default(),
        }
    }

    /// There is something to program.
    pub fn queued(&self, now: Instant) {
        let mut health = lock(&self.health);
        for family in Family::ALL {
            health.queued(family, now);
        }
    }

    /// All is programmed.
    pub fn updated(&self, now: Instant) {
        let mut health = lock(&self.health);
        for family in Family::ALL {
            health.updated(family, now);
        }
    }

    /// Takes note of this node's object.
    pub fn set_node(&self, model: &Model) {
        let node = model.node.as_ref();
        let eligible = node.map_or(self.needs_no_object, |node| node.eligible);
        self.eligible.store(eligible, Ordering::Relaxed);
    }

    /// Takes note of this node's endpoints.
    pub fn set_local(&self, local: BTreeMap<ObjectName, LocalReady>) {
        *lock(&self.local) = local;
    }

    /// Whether traffic from outside is welcome on this node (item 55).
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.eligible.load(Ordering::Relaxed)
    }

    /// Whether changes are programmed in time.
    #[must_use]
    pub fn report(&self, now: Instant) -> Report {
        lock(&self.health).report(now)
    }

    /// This node's endpoints of a Service, for a probe over a family; 0 if it is not known.
    #[must_use]
    pub fn local(&self, service: &ObjectName, is_v6: bool) -> usize {
        let local = lock(&self.local);
        local.get(service).map_or(0, |ready| ready.count(is_v6))
    }
}

/// What is behind a lock is whole after every statement: a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
