//! What all connections of a server share.

use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::behaviour::Behaviour;
use super::connections;
use super::controller::Controllers;
use super::faults::Faults;
use super::http::Query;
use super::pause::pause;
use super::store::object::is_terminating;
use super::store::{Change, DeleteOptions, Kind, Name, Store};

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
    /// Which connections are served.
    pub(super) epoch: watch::Sender<Epoch>,
    runtime: Handle,
    /// How often something happened: a change, or a request.
    activity: Mutex<u64>,
    active: Condvar,
}

/// A time between two interruptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch {
    pub(super) number: u64,
    /// Whether connections are refused.
    pub(super) is_closed: bool,
    /// Whether connections stay as they are, and nothing is read or written.
    pub(super) is_frozen: bool,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    controllers: Controllers,
}

impl Shared {
    pub(super) fn new(
        mut store: Store,
        controllers: Controllers,
        behaviour: Behaviour,
        runtime: Handle,
    ) -> Self {
        store.let_pods_linger(behaviour.has_lingering_pods());
        Self {
            revision: watch::Sender::new(store.revision()),
            store: Mutex::new(Inner { store, controllers }),
            behaviour: Mutex::new(behaviour),
            faults: Faults::default(),
            requests: Mutex::default(),
            epoch: watch::Sender::new(Epoch::default()),
            runtime,
            activity: Mutex::default(),
            active: Condvar::new(),
        }
    }

    /// Waits until `condition` holds, looking whenever something happens; false if it does not
    /// in time.
    pub(super) fn wait_until(
        &self,
        timeout: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let seen = *lock(&self.activity);
            if condition() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let quiet = |activity: &mut u64| *activity == seen;
            let activity = lock(&self.activity);
            drop(self.active.wait_timeout_while(activity, left, quiet));
        }
    }

    /// Serves whoever connects to `listener`, which does not block.
    pub(super) fn listen(self: &Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            // Only what is no socket at all could fail here.
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                connections::accept(listener, tls, shared).await;
            }
        });
    }

    fn stir(&self) {
        *lock(&self.activity) += 1;
        self.active.notify_all();
    }

    /// Looks at the objects.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&lock(&self.store).store)
    }

    /// Changes objects; controllers have done their part when this returns.
    pub(super) fn write<T>(self: &Arc<Self>, change: impl FnOnce(&mut Store, Timestamp) -> T) -> T {
        let mut inner = lock(&self.store);
        let Inner { store, controllers } = &mut *inner;
        let now = Timestamp::now();
        let before = store.revision();
        let result = change(store, now);
        controllers.follow(store, before, now);
        // Under the lock, so that versions never seem to go back.
        self.revision.send_replace(store.revision());
        self.stir();
        if let Some(after) = self.behaviour().pod_removal {
            self.remove_later(store, before, after);
        }
        result
    }

    /// Lets pods go that have begun to terminate after the version `since`.
    fn remove_later(self: &Arc<Self>, store: &Store, since: u64, after: Duration) {
        let changes = store.changes(Kind::Pod, since).into_iter().flatten();
        let begun = changes.filter_map(|Change { before, after, .. }| {
            let is_new = !before.as_ref().is_some_and(|pod| is_terminating(pod));
            after.as_ref().filter(|pod| is_new && is_terminating(pod))
        });
        for pod in begun {
            let options = DeleteOptions {
                grace: Some(0),
                uid: pod["metadata"]["uid"].as_str().map(str::to_owned),
                version: None,
            };
            let (shared, name) = (Arc::clone(self), Name::of(pod));
            self.runtime.spawn(async move {
                pause(after).await;
                // Somebody else may have removed it meanwhile.
                let _ = shared.write(|store, now| store.delete(Kind::Pod, &name, &options, now));
            });
        }
    }

    /// Tells of changes of objects.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        *lock(&self.behaviour)
    }

    pub(super) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        let pods_linger = {
            let mut behaviour = lock(&self.behaviour);
            change(&mut behaviour);
            behaviour.has_lingering_pods()
        };
        // Whoever holds both locks takes the store's first.
        lock(&self.store).store.let_pods_linger(pods_linger);
    }

    pub(super) fn note(&self, request: Request) {
        lock(&self.requests).push(request);
        self.stir();
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
