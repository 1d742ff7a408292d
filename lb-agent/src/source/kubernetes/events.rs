//! Passes events on to the cluster, as `events.k8s.io/v1`.
//!
//! An event that is repeated within a while becomes a series of the first. One that every node
//! has to say has a name that follows from what it says, so that the cluster keeps it once.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{self as core, ObjectReference},
        events::v1::{Event as ApiEvent, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use tokio::time::{self, Instant};
use tracing::{debug, info, warn};

use super::{
    times::{Backoff, Times},
    watched::Watched,
};
use crate::{
    event::{self, Event, Kind},
    model::Reference,
    source::objects::Service,
};

/// Who reports.
const CONTROLLER: &str = "lb-agent";
/// An event that comes again within so long is one of a series.
const SERIES: Duration = Duration::from_secs(360);
/// So many events may come at once, …
const BURST: f64 = 25.0;
/// … and then one in so long.
const REFILL: Duration = Duration::from_secs(5);
/// An event is tried so often.
const TRIES: u32 = 4;
/// The API server takes no longer notes, in bytes.
const NOTE_MAX: usize = 1024;
/// Nor longer names; the end of ours tells events of one object apart.
const NAME_MAX: usize = 253 - 17;

/// Passes events on.
pub(super) struct Sink {
    client: Client,
    /// Name of this node.
    instance: String,
    times: Times,
    budget: Budget,
    /// What was passed on within a while.
    recent: HashMap<Event, Sent>,
    /// Whether the last one could not be passed on.
    is_failing: bool,
}

/// An event that was passed on.
struct Sent {
    name: String,
    count: i32,
    at: Instant,
}

/// Limits how many there are.
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let earned = (now - self.at).as_secs_f64() / REFILL.as_secs_f64();
        self.left = (self.left + earned).min(BURST);
        self.at = now;
        let is_enough = self.left >= 1.0;
        if is_enough {
            self.left -= 1.0;
        }
        is_enough
    }
}

impl Sink {
    /// Reports as the agent of the node called `instance`.
    pub(super) fn new(client: Client, instance: &str, times: Times) -> Self {
        Self {
            client,
            instance: instance.to_owned(),
            times,
            budget: Budget::new(Instant::now()),
            recent: HashMap::new(),
            is_failing: false,
        }
    }

    /// Runs until all senders are gone.
    pub(super) async fn run(mut self, mut receiver: event::Receiver) {
        while let Some(event) = receiver.recv().await {
            let now = Instant::now();
            self.recent.retain(|_, sent| now - sent.at < SERIES);
            if self.budget.take(now) {
                self.publish(event).await;
            } else {
                debug!("too many events; left out: {}", event.note);
            }
        }
    }

    async fn publish(&mut self, event: Event) {
        let mut backoff = Backoff::new(self.times);
        for _ in 0..TRIES {
            match self.try_publish(&event).await {
                Ok(()) => {
                    if std::mem::take(&mut self.is_failing) {
                        info!("the API server takes events again");
                    }
                    return;
                }
                Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    self.fail(&format!("{} ({})", status.message, status.code));
                    return;
                }
                Err(error) => {
                    self.fail(&error.to_string());
                    time::sleep(backoff.pause(Instant::now())).await;
                }
            }
        }
    }

    /// Says once that events cannot be passed on.
    fn fail(&mut self, reason: &str) {
        if std::mem::replace(&mut self.is_failing, true) {
            debug!("report an event: {reason}");
        } else {
            warn!("report an event: {reason}");
        }
    }

    async fn try_publish(&mut self, event: &Event) -> kube::Result<()> {
        let namespace = namespace(&event.regarding);
        let api = Api::<ApiEvent>::namespaced(self.client.clone(), namespace);
        if let Some(sent) = self.recent.get_mut(event) {
            if event.is_shared {
                return Ok(());
            }
            let series = EventSeries {
                count: sent.count + 1,
                last_observed_time: MicroTime(Timestamp::now()),
            };
            let patch = Patch::Merge(serde_json::json!({ "series": series }));
            api.patch(&sent.name, &PatchParams::default(), &patch)
                .await?;
            sent.count += 1;
            sent.at = Instant::now();
            return Ok(());
        }
        let uid = match &event.regarding.uid {
            Some(uid) => Some(uid.clone()),
            None => self.find_uid(&event.regarding).await,
        };
        let object = self.object(event, uid);
        let name = object.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                debug!("another node has said it: {}", event.note);
            }
            result => drop(result?),
        }
        let sent = Sent {
            name,
            count: 1,
            at: Instant::now(),
        };
        self.recent.insert(event.clone(), sent);
        Ok(())
    }

    /// The unique id of a Service: without it `kubectl describe` does not show the event.
    async fn find_uid(&self, regarding: &Reference) -> Option<String> {
        if regarding.kind != "Service" {
            return None;
        }
        let namespace = namespace(regarding);
        let api: Api<Watched<Service, core::Service>> =
            Api::namespaced(self.client.clone(), namespace);
        // A list, for that is what we may do.
        let params =
            ListParams::default().fields(&format!("metadata.name={}", regarding.name.name));
        let found = api.list(&params).await.ok()?;
        let mut uids = found
            .items
            .into_iter()
            .map(|object| kube::Resource::meta(&object).clone())
            .filter(|meta| meta.name.as_ref() == Some(&regarding.name.name));
        uids.next()?.uid
    }

    fn object(&self, event: &Event, uid: Option<String>) -> ApiEvent {
        let Event {
            regarding,
            kind,
            reason,
            note,
            is_shared,
        } = event;
        let now = Timestamp::now();
        let id = if *is_shared {
            let mut hasher = DefaultHasher::new();
            (&uid, reason, note).hash(&mut hasher);
            hasher.finish()
        } else {
            now.as_nanosecond() as u64
        };
        let prefix = cut(&regarding.name.name, NAME_MAX);
        ApiEvent {
            metadata: ObjectMeta {
                name: Some(format!("{prefix}.{id:016x}")),
                namespace: Some(namespace(regarding).to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            action: Some(reason.clone()),
            reason: Some(reason.clone()),
            regarding: Some(ObjectReference {
                kind: Some(regarding.kind.to_owned()),
                api_version: Some(api_version(regarding.kind).to_owned()),
                namespace: Some(regarding.name.namespace.clone()).filter(|n| !n.is_empty()),
                name: Some(regarding.name.name.clone()),
                uid,
                ..ObjectReference::default()
            }),
            note: Some(cut(note, NOTE_MAX).to_owned()),
            type_: Some(match kind {
                Kind::Normal => "Normal".to_owned(),
                Kind::Warning => "Warning".to_owned(),
            }),
            ..ApiEvent::default()
        }
    }
}

/// Where the events of an object are; those of objects without a namespace are in `default`.
fn namespace(regarding: &Reference) -> &str {
    match regarding.name.namespace.as_str() {
        "" => "default",
        namespace => namespace,
    }
}

fn api_version(kind: &str) -> &'static str {
    match kind {
        "EndpointSlice" => "discovery.k8s.io/v1",
        "ServiceCIDR" => "networking.k8s.io/v1",
        _ => "v1",
    }
}

/// The beginning of a text that has at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_a_burst_and_then_now_and_then() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        let taken = (0..100).filter(|_| budget.take(now)).count();
        assert_eq!(taken, BURST as usize);
        now += REFILL;
        assert!(budget.take(now) && !budget.take(now));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(cut("short", NOTE_MAX), "short");
        assert_eq!(cut("aäb", 2), "a");
    }
}
