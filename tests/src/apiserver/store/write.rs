//! Creating and replacing objects.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{
    Name, Object, fields_mut, is_terminating, items, metadata_mut, number, seconds, text,
};
use super::prepare::prepare;
use super::status::{Cause, Status};
use super::{Change, Kind, Store};

/// What of an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All but what the server or another path owns.
    Main,
    /// The status only.
    Status,
}

/// Metadata that is the server's.
const OWNED: [&str; 6] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "uid",
];

impl Store {
    /// Stores a new object.
    ///
    /// # Errors
    /// `AlreadyExists`, `Invalid` and so on, as the real server says.
    pub fn create(
        &mut self,
        kind: Kind,
        mut object: Value,
        now: Timestamp,
    ) -> Result<Object, Status> {
        self.settle_identity(kind, &mut object)?;
        let name = Name::of(&object);
        if self.get(kind, &name).is_some() {
            return Err(Status::already_exists(kind, &name.name));
        }
        if !text(&object, "/metadata/resourceVersion").is_empty() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let uid = uid(self.revision + 1);
        let metadata = metadata_mut(&mut object);
        for key in OWNED.iter().filter(|key| **key != "generateName") {
            metadata.remove(*key);
        }
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("creationTimestamp".to_owned(), seconds(now));
        if has_generation(kind) {
            metadata.insert("generation".to_owned(), json!(1));
        }
        prepare(kind, &mut object, None, &mut self.allocations)?;
        Ok(self.commit(kind, name, object))
    }

    /// Stores a new state of an object.
    ///
    /// A version in the object must be that of the state that it replaces.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid` and so on, as the real server says.
    pub fn replace(
        &mut self,
        kind: Kind,
        name: &Name,
        mut object: Value,
        part: Part,
    ) -> Result<Object, Status> {
        let Some(old) = self.get(kind, name).cloned() else {
            return Err(Status::not_found(kind, &name.name));
        };
        let metadata = metadata_mut(&mut object);
        metadata.entry("name").or_insert_with(|| json!(name.name));
        self.settle_identity(kind, &mut object)?;
        check_precondition(kind, name, &old, &object)?;
        let mut object = match part {
            Part::Main => object,
            Part::Status => {
                let mut new = old.as_ref().clone();
                new["status"] = object["status"].take();
                new
            }
        };
        keep_owned(&mut object, &old);
        if part == Part::Main {
            keep_status(kind, &mut object, &old);
            prepare(kind, &mut object, Some(&old), &mut self.allocations)?;
        }
        if object == *old {
            return Ok(old);
        }
        if has_generation(kind) && content(&object) != content(&old) {
            let generation = number(&old, "/metadata/generation") + 1;
            metadata_mut(&mut object).insert("generation".to_owned(), json!(generation));
        }
        if is_terminating(&object) && is_let_go(&object) {
            return Ok(self.remove(kind, name).unwrap_or(old));
        }
        Ok(self.commit(kind, name.clone(), object))
    }

    /// Changes an object, or leaves it alone.
    ///
    /// # Errors
    /// As [`Store::replace`], and what `change` says.
    pub fn update(
        &mut self,
        kind: Kind,
        name: &Name,
        part: Part,
        change: impl FnOnce(&mut Value) -> Result<(), Status>,
    ) -> Result<Object, Status> {
        let Some(old) = self.get(kind, name) else {
            return Err(Status::not_found(kind, &name.name));
        };
        let mut object = old.as_ref().clone();
        change(&mut object)?;
        self.replace(kind, name, object, part)
    }

    /// Stores whatever it is, under the name that it has: what no real server would do.
    pub fn inject(&mut self, kind: Kind, object: Value) -> Object {
        self.commit(kind, Name::of(&object), object)
    }

    /// Stores a state and notes the change.
    fn commit(&mut self, kind: Kind, name: Name, mut object: Value) -> Object {
        self.revision += 1;
        let revision = self.revision;
        let version = json!(revision.to_string());
        metadata_mut(&mut object).insert("resourceVersion".to_owned(), version);
        let after = Arc::new(object);
        let limit = self.settings.history_limit;
        let table = self.table_mut(kind);
        let before = table.objects.insert(name.clone(), Arc::clone(&after));
        let change = Change {
            revision,
            before: before.clone(),
            after: Some(Arc::clone(&after)),
        };
        table.history.push(change, limit);
        if kind == Kind::Service {
            self.allocations
                .replace(&name, before.as_deref(), Some(&after));
        }
        after
    }

    /// Removes an object and notes the change; returns it as it was last.
    pub(super) fn remove(&mut self, kind: Kind, name: &Name) -> Option<Object> {
        let before = self.table_mut(kind).objects.remove(name)?;
        self.revision += 1;
        let change = Change {
            revision: self.revision,
            before: Some(Arc::clone(&before)),
            after: None,
        };
        let limit = self.settings.history_limit;
        self.table_mut(kind).history.push(change, limit);
        if kind == Kind::Service {
            self.allocations.replace(name, Some(&before), None);
        }
        Some(before)
    }

    /// Gives the object the kind, namespace and name that it must have, and refuses others.
    fn settle_identity(&self, kind: Kind, object: &mut Value) -> Result<(), Status> {
        let resource = kind.resource();
        let fields = fields_mut(object);
        fields.insert("kind".to_owned(), json!(resource.kind));
        fields.insert("apiVersion".to_owned(), json!(resource.api_version()));
        let next = self.revision + 1;
        let metadata = metadata_mut(object);
        metadata.remove("managedFields");
        metadata.retain(|_, value| !value.is_null());
        if resource.is_namespaced {
            metadata
                .entry("namespace")
                .or_insert_with(|| json!("default"));
        } else {
            metadata.remove("namespace");
        }
        let generated = metadata.get("generateName").and_then(Value::as_str);
        if let (None, Some(prefix)) = (metadata.get("name"), generated) {
            let name = format!("{prefix}{}", suffix(next));
            metadata.insert("name".to_owned(), json!(name));
        }
        let name = Name::of(object);
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        let cause = match name.name.as_str() {
            "" => Some(Cause::required(
                "metadata.name",
                "name or generateName is required",
            )),
            word if !word.chars().all(is_allowed) => Some(Cause::invalid(
                "metadata.name",
                &json!(word),
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'",
            )),
            _ => None,
        };
        if let Some(cause) = cause {
            return Err(Status::invalid(kind, &name.name, &[cause]));
        }
        let namespace = Name::new("", &name.namespace);
        if resource.is_namespaced && self.get(Kind::Namespace, &namespace).is_none() {
            return Err(Status::not_found(Kind::Namespace, &name.namespace));
        }
        Ok(())
    }
}

fn check_precondition(kind: Kind, name: &Name, old: &Value, new: &Value) -> Result<(), Status> {
    if Name::of(new) != *name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            Name::of(new)
        )));
    }
    let version = text(new, "/metadata/resourceVersion");
    if !version.is_empty() && version != text(old, "/metadata/resourceVersion") {
        return Err(Status::conflict(
            kind,
            &name.name,
            "the object has been modified; please apply your changes to the latest version and try again",
        ));
    }
    let uid = text(new, "/metadata/uid");
    if !uid.is_empty() && uid != text(old, "/metadata/uid") {
        return Err(Status::conflict(
            kind,
            &name.name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(old, "/metadata/uid")
            ),
        ));
    }
    Ok(())
}

/// What is not the client's to write stays.
fn keep_owned(new: &mut Value, old: &Value) {
    let metadata = metadata_mut(new);
    for key in OWNED.iter().chain(&["resourceVersion"]) {
        match old["metadata"].get(*key) {
            Some(value) => drop(metadata.insert((*key).to_owned(), value.clone())),
            None => drop(metadata.remove(*key)),
        }
    }
}

/// The status has a path of its own. But there is no kubelet here: a manifest may say how a pod
/// or a node is.
fn keep_status(kind: Kind, new: &mut Value, old: &Value) {
    let is_anybodys = matches!(kind, Kind::Pod | Kind::Node);
    let is_said = new.get("status").is_some_and(Value::is_object);
    if kind.resource().subresources.contains(&"status") && !(is_anybodys && is_said) {
        match old.get("status") {
            Some(status) => new["status"] = status.clone(),
            None => drop(fields_mut(new).remove("status")),
        }
    }
}

/// Whether nobody holds on to a deleted object any longer.
fn is_let_go(object: &Value) -> bool {
    items(object, "/metadata/finalizers").is_empty()
        && object
            .pointer("/metadata/deletionGracePeriodSeconds")
            .is_none_or(|grace| *grace == 0)
}

fn has_generation(kind: Kind) -> bool {
    matches!(kind, Kind::EndpointSlice | Kind::Pod | Kind::Deployment)
}

/// All but metadata and status.
fn content(object: &Value) -> impl PartialEq {
    let mut content = object.clone();
    let fields = fields_mut(&mut content);
    fields.remove("metadata");
    fields.remove("status");
    content
}

/// A name for an object that is made at this version: it looks random, and is the same each time.
fn uid(revision: u64) -> String {
    let (high, low) = (mix(revision), mix(!revision));
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

/// Five letters that stand for a number.
#[must_use]
pub(in crate::apiserver) fn suffix(number: u64) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = mix(number);
    let letters = (0..5).map(|_| {
        let index = usize::try_from(rest % 27).unwrap_or_default();
        rest /= 27;
        char::from(LETTERS[index])
    });
    letters.collect()
}

/// Spreads numbers over all 64 bits (the finalizer of SplitMix64).
pub(in crate::apiserver) fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
