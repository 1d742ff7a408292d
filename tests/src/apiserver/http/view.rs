//! Events are read and written in two groups that call their fields differently.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::apiserver::store::object::fields_mut;
use crate::apiserver::store::{Kind, Resource};

/// Names of a field: stored, which is the core group's, and in the group events.k8s.io.
const FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn is_renamed(resource: &Resource) -> bool {
    resource.storage == Kind::Event && !resource.group.is_empty()
}

/// A stored object as the resource's readers see it.
pub(super) fn shown<'a>(resource: &Resource, object: &'a Value) -> Cow<'a, Value> {
    if !is_renamed(resource) {
        return Cow::Borrowed(object);
    }
    let mut object = object.clone();
    let fields = fields_mut(&mut object);
    fields.insert("apiVersion".to_owned(), json!(resource.api_version()));
    for (stored, shown) in FIELDS {
        if let Some(value) = fields.remove(stored) {
            fields.insert(shown.to_owned(), value);
        }
    }
    Cow::Owned(object)
}

/// What the resource's writers sent, as it is stored.
pub(super) fn stored(resource: &Resource, mut object: Value) -> Value {
    if is_renamed(resource) {
        let fields = fields_mut(&mut object);
        for (stored, shown) in FIELDS {
            if let Some(value) = fields.remove(shown) {
                fields.insert(stored.to_owned(), value);
            }
        }
    }
    object
}
