//! Follows the kernel's devices, addresses, routes and rules.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use rtnetlink::{
    Handle, MulticastGroup, new_connection,
    sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols},
};
use tokio::{
    sync::watch::{Receiver, Sender, channel},
    task::JoinSet,
    time::sleep,
};
use tracing::{debug, warn};

use super::{
    Overrides, State, classify,
    dump::{Dump, dump},
    flaps::Flaps,
    netfilter::Netfilter,
};
use crate::pace::until;

/// What is heard of. A group's number is its bit in the socket's address, plus one.
const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// How long events are gathered before the kernel is asked: a new pod is a handful of events
/// within a millisecond or two.
const DEBOUNCE: Duration = Duration::from_millis(3);

/// How often the first reading is tried again.
const ATTEMPTS: u32 = 20;

/// Pause before a broken subscription is renewed.
const RENEWAL: Duration = Duration::from_millis(100);

/// The kernel's devices cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket, or no subscription.
    #[error("subscribe to changes of network devices")]
    Subscribe(#[source] io::Error),
    /// The events broke off.
    #[error("receive changes of network devices")]
    Receive(#[source] io::Error),
    /// The kernel did not list its devices, addresses, routes or rules.
    #[error("list network devices, addresses, routes and rules")]
    Dump(#[source] rtnetlink::Error),
}

/// Reads the devices of the current network namespace, and keeps the result up to date in the
/// background until every receiver is gone.
///
/// Level-triggered: an event is only a reason to read everything again, so that lost events
/// (the socket's buffer is finite) and unknown ones do no harm. A value is published only if
/// it differs from the one before. Must be called within a tokio runtime, all of whose threads
/// are in the same network namespace.
///
/// # Errors
///
/// [`Error`] if not even the first state can be read; later failures are logged, and retried.
pub async fn watch(overrides: Overrides) -> Result<Receiver<Arc<State>>, Error> {
    let (subscription, state) = begin(&overrides).await?;
    let (sender, receiver) = channel(Arc::new(state));
    tokio::spawn(async move {
        tokio::select! {
            () = follow(subscription, &overrides, &sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

/// The first subscription, and what it read. A node whose devices change all the time may well
/// fail one reading (EBUSY, EINTR), which is no reason not to start.
async fn begin(overrides: &Overrides) -> Result<(Subscription, State), Error> {
    let mut tries = ATTEMPTS;
    loop {
        let mut subscription = Subscription::open()?;
        match subscription.read().await {
            Ok(dump) => {
                let state = classify(&dump.links, &dump.routing, overrides);
                return Ok((subscription, state));
            }
            Err(error) if tries == 0 => return Err(error),
            Err(error) => {
                tries -= 1;
                debug!(
                    error = &error as &dyn std::error::Error,
                    "reading network devices again"
                );
            }
        }
        sleep(RENEWAL).await;
    }
}

/// Publishes changes for ever, through as many subscriptions as it takes.
async fn follow(first: Subscription, overrides: &Overrides, sender: &Sender<Arc<State>>) {
    let mut next = Ok(first);
    let mut flaps = Flaps::default();
    loop {
        let error = match next {
            Ok(subscription) => subscription.publish(overrides, &mut flaps, sender).await,
            Err(error) => error,
        };
        warn!(
            error = &error as &dyn std::error::Error,
            "renewing the watch of network devices"
        );
        sleep(RENEWAL).await;
        next = Subscription::open();
    }
}

/// A socket that hears of changes, and another to ask for what is.
struct Subscription {
    events: TokioSocket,
    handle: Handle,
    /// Drives `handle`; ends with this value.
    _connection: JoinSet<()>,
}

impl Subscription {
    fn open() -> Result<Self, Error> {
        let mut events = TokioSocket::new(protocols::NETLINK_ROUTE).map_err(Error::Subscribe)?;
        let groups = GROUPS.iter().fold(0, |bits, &g| bits | 1 << (g as u32 - 1));
        events
            .socket_mut()
            .bind(&SocketAddr::new(0, groups))
            .map_err(Error::Subscribe)?;
        let (connection, handle, _) = new_connection().map_err(Error::Subscribe)?;
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        Ok(Self {
            events,
            handle,
            _connection: connections,
        })
    }

    /// Publishes what is, and then every change, until something breaks.
    async fn publish(
        mut self,
        overrides: &Overrides,
        flaps: &mut Flaps,
        sender: &Sender<Arc<State>>,
    ) -> Error {
        loop {
            let dump = match self.read().await {
                Ok(dump) => dump,
                Err(error) => return error,
            };
            let state = classify(&dump.links, &dump.routing, overrides);
            let state = flaps.steady(state, dump.downs, Instant::now());
            sender.send_if_modified(|known| replace_if_new(known, state));
            let changed = tokio::select! {
                changed = self.changed(dump.netfilter) => changed,
                () = until(flaps.until()) => Ok(()),
            };
            if let Err(error) = changed {
                return error;
            }
        }
    }

    async fn read(&mut self) -> Result<Dump, Error> {
        dump(&self.handle).await.map_err(Error::Dump)
    }

    /// Waits until something has changed, and for a moment after that.
    async fn changed(&self, netfilter: Netfilter) -> Result<(), Error> {
        tokio::select! {
            event = self.event() => event?,
            () = netfilter.changed() => return Ok(()),
        }
        sleep(DEBOUNCE).await;
        while let Some(event) = self.event().now_or_never() {
            event?;
        }
        Ok(())
    }

    async fn event(&self) -> Result<(), Error> {
        match self.events.recv_from_full().await {
            // Events were lost; there were some, and that is all one needs to know.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                debug!("events of network devices were lost");
                Ok(())
            }
            Err(error) => Err(Error::Receive(error)),
            Ok(_) => Ok(()),
        }
    }
}

/// Puts `state` in the place of `known` if it differs.
fn replace_if_new(known: &mut Arc<State>, state: State) -> bool {
    let new = **known != state;
    if new {
        *known = Arc::new(state);
    }
    new
}
