//! What all connections of a server share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::behaviour::Behaviour;
use super::controller::Controllers;
use super::faults::Faults;
use super::http::Query;
use super::store::{DeleteOptions, Deletion, Kind, Name, Status, Store};

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its path.
    pub path: String,
    /// What its URL says after the path.
    pub query: Query,
    /// When it came.
    pub at: Instant,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    store: Mutex<Inner>,
    behaviour: Mutex<Behaviour>,
    pub(super) faults: Faults,
    requests: Mutex<Vec<Request>>,
    /// The version of the last change.
    revision: watch::Sender<u64>,
    /// Which connections are served: those of this epoch; none, while it is closed.
    pub(super) epoch: watch::Sender<Epoch>,
    runtime: Handle,
}

/// A time between two interruptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch {
    pub(super) number: u64,
    /// Whether connections are refused.
    pub(super) is_closed: bool,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    controllers: Controllers,
}

impl Shared {
    pub(super) fn new(
        store: Store,
        controllers: Controllers,
        behaviour: Behaviour,
        runtime: Handle,
    ) -> Self {
        Self {
            revision: watch::Sender::new(store.revision()),
            store: Mutex::new(Inner { store, controllers }),
            behaviour: Mutex::new(behaviour),
            faults: Faults::default(),
            requests: Mutex::default(),
            epoch: watch::Sender::new(Epoch::default()),
            runtime,
        }
    }

    /// Looks at the objects.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&lock(&self.store).store)
    }

    /// Changes objects; controllers have done their part when this returns.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Store, Timestamp) -> T) -> T {
        let mut inner = lock(&self.store);
        let Inner { store, controllers } = &mut *inner;
        let now = Timestamp::now();
        let before = store.revision();
        let result = change(store, now);
        controllers.follow(store, before, now);
        // Under the lock, so that versions never seem to go back.
        self.revision.send_replace(store.revision());
        result
    }

    /// Deletes an object. A pod may take a while.
    pub(super) fn delete(
        self: &Arc<Self>,
        kind: Kind,
        name: &Name,
        options: &DeleteOptions,
    ) -> Result<Deletion, Status> {
        let deletion = self.write(|store, now| store.delete(kind, name, options, now))?;
        if let (Deletion::Terminating(object), Kind::Pod) = (&deletion, kind)
            && let Some(after) = self.behaviour().pod_removal
        {
            let options = DeleteOptions {
                grace: Some(0),
                uid: object["metadata"]["uid"].as_str().map(str::to_owned),
                version: None,
            };
            let (shared, name) = (Arc::clone(self), name.clone());
            self.runtime.spawn(async move {
                super::pause::pause(after).await;
                // Somebody else may have removed it meanwhile.
                let _ = shared.write(|store, now| store.delete(kind, &name, &options, now));
            });
        }
        Ok(deletion)
    }

    /// Tells of changes of objects.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        *lock(&self.behaviour)
    }

    pub(super) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.behaviour));
    }

    pub(super) fn note(&self, request: Request) {
        lock(&self.requests).push(request);
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    pub(super) fn forget_requests(&self) {
        lock(&self.requests).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked while it held the lock has failed already.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
