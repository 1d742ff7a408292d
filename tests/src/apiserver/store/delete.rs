//! Deleting objects.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{Name, Object, is_terminating, items, metadata_mut, seconds, text};
use super::status::Status;
use super::{Kind, Store};

/// Seconds that a pod has if nobody says otherwise.
const GRACE: u64 = 30;

/// What a client asks of a deletion.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds that a pod has to end.
    pub grace: Option<u64>,
    /// Only the object with this UID.
    pub uid: Option<String>,
    /// Only the object in this version.
    pub version: Option<String>,
}

impl DeleteOptions {
    /// Reads the options in a request's body.
    #[must_use]
    pub fn of(body: &Value) -> Self {
        let owned = |pointer| {
            let text = text(body, pointer);
            (!text.is_empty()).then(|| text.to_owned())
        };
        Self {
            grace: body["gracePeriodSeconds"].as_u64(),
            uid: owned("/preconditions/uid"),
            version: owned("/preconditions/resourceVersion"),
        }
    }
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Deletion {
    /// It is no more; this is how it was last.
    Gone(Object),
    /// It waits until it is let go.
    Terminating(Object),
}

impl Store {
    /// Deletes an object, or lets it terminate.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` if it is not the one that is meant.
    pub fn delete(
        &mut self,
        kind: Kind,
        name: &Name,
        options: &DeleteOptions,
        now: Timestamp,
    ) -> Result<Deletion, Status> {
        let not_found = || Status::not_found(kind, &name.name);
        let object = self.get(kind, name).cloned().ok_or_else(not_found)?;
        for (pointer, asked) in [
            ("/metadata/uid", &options.uid),
            ("/metadata/resourceVersion", &options.version),
        ] {
            if let Some(asked) = asked
                && text(&object, pointer) != asked
            {
                let why = format!("Precondition failed: {asked} is not the object's {pointer}");
                return Err(Status::conflict(kind, &name.name, &why));
            }
        }
        let grace = self.grace(kind, &object, options);
        if grace == 0 && items(&object, "/metadata/finalizers").is_empty() {
            if kind == Kind::Namespace {
                self.empty_namespace(&name.name);
            }
            return self
                .remove(kind, name)
                .map(Deletion::Gone)
                .ok_or_else(not_found);
        }
        if is_terminating(&object) && grace != 0 {
            return Ok(Deletion::Terminating(object));
        }
        let mut terminating = object.as_ref().clone();
        let metadata = metadata_mut(&mut terminating);
        metadata.insert("deletionTimestamp".to_owned(), seconds(now));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
        Ok(Deletion::Terminating(self.inject(kind, terminating)))
    }

    /// Seconds that the object has to end; 0 for all but pods on nodes.
    fn grace(&self, kind: Kind, object: &Value, options: &DeleteOptions) -> u64 {
        let is_running = kind == Kind::Pod && !text(object, "/spec/nodeName").is_empty();
        if !is_running || !self.settings.pods_linger {
            return 0;
        }
        let of_pod = object.pointer("/spec/terminationGracePeriodSeconds");
        let of_pod = of_pod.and_then(Value::as_u64).unwrap_or(GRACE);
        options.grace.unwrap_or(of_pod)
    }

    fn empty_namespace(&mut self, namespace: &str) {
        for kind in Kind::ALL {
            let inside = self.objects(kind).map(|(name, _)| name);
            let inside = inside.filter(|name| name.namespace == namespace).cloned();
            for name in inside.collect::<Vec<_>>() {
                self.remove(kind, &name);
            }
        }
    }
}
