//! EndpointSlices out of Services and Pods.

mod desired;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::desired::{MANAGED_BY, MANAGER, SERVICE_NAME, desired};
use crate::apiserver::store::object::{label, metadata_mut, text};
use crate::apiserver::store::selector::LabelSelector;
use crate::apiserver::store::{Change, DeleteOptions, Kind, Name, Part, Store};

/// When the slice changed because of an object that changed.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Writes the slices of all Services that changes after `since` concern.
pub(super) fn follow(store: &mut Store, since: u64, now: Timestamp) {
    for service in concerned(store, since) {
        settle(store, &service, now);
    }
}

fn concerned(store: &Store, since: u64) -> BTreeSet<Name> {
    let mut services = BTreeSet::new();
    let objects = |kind| {
        let changes = store.changes(kind, since).into_iter().flatten();
        changes.flat_map(|Change { before, after, .. }| before.iter().chain(after))
    };
    services.extend(objects(Kind::Service).map(|service| Name::of(service)));
    for pod in objects(Kind::Pod) {
        let namespace = text(pod, "/metadata/namespace");
        let selecting = store.objects(Kind::Service).filter(|(name, service)| {
            name.namespace == namespace && selector(service).is_some_and(|s| s.matches(pod))
        });
        services.extend(selecting.map(|(name, _)| name.clone()));
    }
    for slice in objects(Kind::EndpointSlice) {
        if label(slice, MANAGED_BY) == Some(MANAGER) {
            let service = label(slice, SERVICE_NAME).unwrap_or_default();
            services.insert(Name::new(text(slice, "/metadata/namespace"), service));
        }
    }
    if objects(Kind::Node).next().is_some() {
        // The zone of endpoints may be another.
        services.extend(store.objects(Kind::Service).map(|(name, _)| name.clone()));
    }
    services
}

/// Which pods a Service selects; none, if somebody else writes its slices.
fn selector(service: &Value) -> Option<LabelSelector> {
    if text(service, "/spec/type") == "ExternalName" {
        return None;
    }
    let selector = service.pointer("/spec/selector")?.as_object()?;
    (!selector.is_empty()).then(|| LabelSelector::from_map(selector))
}

/// Makes the slices of a Service what they ought to be.
fn settle(store: &mut Store, name: &Name, now: Timestamp) {
    let wanted = match store.get(Kind::Service, name) {
        Some(service) => match selector(service) {
            Some(selector) => desired(store, service, &selector),
            None => Vec::new(),
        },
        None => Vec::new(),
    };
    let in_place = store
        .objects(Kind::EndpointSlice)
        .filter(|(slice, object)| {
            slice.namespace == name.namespace
                && label(object, MANAGED_BY) == Some(MANAGER)
                && label(object, SERVICE_NAME) == Some(&name.name)
        });
    let superfluous = in_place
        .map(|(slice, _)| slice)
        .filter(|slice| !wanted.iter().any(|wanted| Name::of(wanted) == **slice));
    for slice in superfluous.cloned().collect::<Vec<_>>() {
        // It is there: it has just been found.
        let _ = store.delete(Kind::EndpointSlice, &slice, &DeleteOptions::default(), now);
    }
    for slice in wanted {
        write(store, slice, now);
    }
}

/// Writes a slice, if it is not so already.
fn write(store: &mut Store, mut slice: Value, now: Timestamp) {
    let name = Name::of(&slice);
    let before = store.get(Kind::EndpointSlice, &name);
    if before.is_some_and(|before| is_same(before, &slice)) {
        return;
    }
    let is_there = before.is_some();
    metadata_mut(&mut slice).insert("annotations".to_owned(), json!({TRIGGER: now.to_string()}));
    let written = if is_there {
        store.replace(Kind::EndpointSlice, &name, slice, Part::Main)
    } else {
        store.create(Kind::EndpointSlice, slice, now)
    };
    // What a pod says may be no address: then its Service has no slice.
    drop(written);
}

fn is_same(before: &Value, wanted: &Value) -> bool {
    let same = |pointer| before.pointer(pointer) == wanted.pointer(pointer);
    let all = [
        "/endpoints",
        "/ports",
        "/metadata/labels",
        "/metadata/ownerReferences",
    ];
    all.into_iter().all(same)
}

#[cfg(test)]
mod tests;
