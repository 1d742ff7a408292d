//! Tells of dropped packets: in the log, and of backends without a free source port in an Event.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::pending,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{BackendRef, DropKey, counter::Outcome, drops};
use tokio::{sync::watch, time};
use tracing::{info, warn};

use super::probe::chain;
use crate::{
    dataplane::bpf::{self, DropEvents},
    drops::{Kernel, Names, backend, device, packet},
    event::{Event, Events},
    interfaces,
    model::Reference,
};

/// A reason is logged at most so often.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// A backend without a free port is reported at most so often.
const REPORT_EVERY: Duration = Duration::from_secs(600);
/// How often the counts of what is gone are removed, if no device changes.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Says what there is to say about dropped packets, not too often.
#[derive(Debug)]
pub(super) struct Teller<N = Kernel> {
    names: N,
    pin_dir: PathBuf,
    node: Reference,
    events: Events,
    /// When a reason was logged last.
    logged: BTreeMap<u8, Instant>,
    /// When a backend was reported last.
    reported: BTreeMap<BackendRef, Instant>,
}

/// Tells of dropped packets for ever, and removes the counts of devices and backends that are gone.
pub(super) async fn follow(
    mut teller: Teller,
    mut devices: watch::Receiver<Arc<interfaces::State>>,
) -> Infallible {
    let mut samples = match DropEvents::open(&teller.pin_dir) {
        Ok(samples) => Some(samples),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(error, "dropped packets are counted, but not told");
            None
        }
    };
    let mut tidy = time::interval(TIDY_EVERY);
    loop {
        tokio::select! {
            sample = next(&mut samples) => match sample {
                Ok(sample) => teller.tell(Instant::now(), &sample),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "dropped packets are counted, but no longer told");
                    samples = None;
                }
            },
            // The senders end with the agent.
            Ok(()) = devices.changed() => teller.tidy(&devices.borrow_and_update()),
            _ = tidy.tick() => teller.tidy(&devices.borrow()),
        }
    }
}

async fn next(samples: &mut Option<DropEvents>) -> io::Result<drops::Event> {
    match samples {
        Some(samples) => samples.next().await,
        None => pending().await,
    }
}

impl Teller {
    /// Tells of the node `node_name`, whose maps are pinned below `pin_dir`.
    pub(super) fn new(pin_dir: &Path, node_name: &str, events: Events) -> Self {
        let names = Kernel {
            pin_dir: pin_dir.to_owned(),
        };
        Self::with(names, pin_dir, node_name, events)
    }

    /// Removes the counts of what is gone.
    fn tidy(&self, devices: &interfaces::State) {
        let keep = |key: &DropKey| is_there(key, devices, &self.names);
        if let Err(error) = bpf::retain_drops(&self.pin_dir, keep) {
            warn!(
                "cannot tidy the counts of dropped packets: {}",
                chain(&error)
            );
        }
    }
}

/// Whether a key of `DROPS` still says something. Calls of sockets have no device.
fn is_there(key: &DropKey, devices: &interfaces::State, names: &impl Names) -> bool {
    let has_device = key.ifindex == 0 || devices.devices.contains_key(&key.ifindex);
    has_device && (key.backend.is_none() || names.backend(key.backend).is_some())
}

impl<N: Names> Teller<N> {
    fn with(names: N, pin_dir: &Path, node_name: &str, events: Events) -> Self {
        Self {
            names,
            pin_dir: pin_dir.to_owned(),
            node: Reference::node(node_name),
            events,
            logged: BTreeMap::new(),
            reported: BTreeMap::new(),
        }
    }

    /// Tells of a sample, if that is worth it.
    fn tell(&mut self, now: Instant, sample: &drops::Event) {
        let Some(reason) = sample.reason() else {
            return;
        };
        if is_due(&mut self.logged, sample.reason, now, LOG_EVERY) {
            self.log(reason, sample);
        }
        if reason == Outcome::NoSnatPort
            && is_due(&mut self.reported, sample.backend, now, REPORT_EVERY)
        {
            self.report(sample);
        }
    }

    fn log(&self, reason: Outcome, sample: &drops::Event) {
        let (Some(told), Some(hook)) = (reason.drop_reason(), sample.hook()) else {
            return;
        };
        let device = device(sample.ifindex, &self.names);
        let backend = backend(sample.backend, &self.names);
        let (packet, meaning, advice) = (packet(sample), told.meaning, told.advice);
        // A backend that cannot be reached is the node's own trouble; all else the sender's, mostly.
        if let Some(backend) = backend {
            warn!(
                ?reason,
                device,
                ?hook,
                backend,
                "dropped {packet}: {meaning}; what to do: {advice}"
            );
        } else {
            info!(
                ?reason,
                device,
                ?hook,
                "dropped {packet}: {meaning}; what to do: {advice}"
            );
        }
    }

    /// Says that connections to a backend find no source port.
    fn report(&self, sample: &drops::Event) {
        let (Some(backend), Some(told)) = (
            backend(sample.backend, &self.names),
            Outcome::NoSnatPort.drop_reason(),
        ) else {
            return;
        };
        let note = format!(
            "no source port is left for new connections to {backend}: {}",
            told.advice
        );
        let event = Event::warning(self.node.clone(), "SourcePortsExhausted", note);
        self.events.send(event);
    }
}

/// Whether `what` was not told for a while; then it counts as told now.
fn is_due<K: Ord>(told: &mut BTreeMap<K, Instant>, what: K, now: Instant, every: Duration) -> bool {
    // What is old enough to be told again need not be remembered.
    told.retain(|_, last| now.saturating_duration_since(*last) < every);
    if told.contains_key(&what) {
        return false;
    }
    told.insert(what, now);
    true
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use lb_common::counter::Hook;

    use super::*;
    use crate::{
        drops::tests::{Known, drops},
        event::{self, Kind},
    };

    fn sample(reason: Outcome, index: u32) -> drops::Event {
        drops::Event {
            reason: reason as u8,
            hook: Hook::PodIngress as u8,
            backend: BackendRef::new(index, 2),
            ..drops::Event::zeroed()
        }
    }

    fn teller() -> (Teller<Known>, event::Receiver) {
        let (events, receiver) = event::channel();
        (
            Teller::with(Known, Path::new("/"), "node1", events),
            receiver,
        )
    }

    #[test]
    fn a_backend_without_a_free_port_is_reported_at_the_node_and_not_again_for_a_while() {
        let (mut teller, mut events) = teller();
        let now = Instant::now();
        for (seconds, index) in [(0, 3), (1, 3), (2, 4), (700, 3), (701, 3)] {
            let now = now + Duration::from_secs(seconds);
            teller.tell(now, &sample(Outcome::NoSnatPort, index));
        }
        teller.tell(now, &sample(Outcome::Unroutable, 5));
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            assert_eq!((event.kind, event.is_shared), (Kind::Warning, false));
            assert_eq!(event.regarding, Reference::node("node1"));
            assert_eq!(event.reason, "SourcePortsExhausted");
            told.push(event.note.split(':').next().unwrap().to_owned());
        }
        let of = |backend| format!("no source port is left for new connections to {backend}");
        assert_eq!(told, [of("10.244.2.3"), of("4#2"), of("10.244.2.3")]);
    }

    #[test]
    fn a_reason_is_logged_once_a_minute() {
        let (mut teller, _events) = teller();
        let now = Instant::now();
        let mut logged = |seconds, reason: Outcome| {
            let now = now + Duration::from_secs(seconds);
            is_due(&mut teller.logged, reason as u8, now, LOG_EVERY)
        };
        assert!(logged(0, Outcome::Martian));
        assert!(!logged(59, Outcome::Martian));
        assert!(logged(59, Outcome::Rejected));
        assert!(logged(61, Outcome::Martian));
    }

    #[test]
    fn counts_of_devices_and_backends_that_are_gone_are_removed() {
        let mut devices = interfaces::State::default();
        let device = interfaces::Device {
            name: "veth7".to_owned(),
            role: None,
            interface: None,
            vlan: false,
        };
        devices.devices.insert(7, device);
        let drops = drops();
        let kept = drops.keys().filter(|key| is_there(key, &devices, &Known));
        let kept: Vec<_> = kept.map(|key| (key.ifindex, key.backend)).collect();
        assert_eq!(kept, [(0, BackendRef::NONE), (7, BackendRef::new(3, 2))]);
    }
}
