//! Pods out of Deployments.
//!
//! The pods are made here and stay pending: whoever plays the kubelet gives them addresses.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::apiserver::store::object::{is_terminating, items, label, metadata_mut, number, text};
use crate::apiserver::store::{
    Change, DeleteOptions, Kind, Name, Object, Part, Store, mix, suffix,
};

/// Tells pods of one template from those of another.
const HASH: &str = "pod-template-hash";

/// Makes and removes pods of all Deployments that changes after `since` concern.
pub(super) fn follow(store: &mut Store, since: u64, now: Timestamp) {
    for name in concerned(store, since) {
        match store.get(Kind::Deployment, &name).cloned() {
            Some(deployment) => settle(store, &name, &deployment, now),
            None => remove(store, pods(store, &name), now),
        }
    }
}

fn concerned(store: &Store, since: u64) -> BTreeSet<Name> {
    let objects = |kind| {
        let changes = store.changes(kind, since).into_iter().flatten();
        changes.flat_map(|Change { before, after, .. }| before.iter().chain(after))
    };
    let owners = objects(Kind::Pod).filter_map(|pod| {
        let owner = owner(pod)?;
        Some(Name::new(text(pod, "/metadata/namespace"), owner))
    });
    let deployments = objects(Kind::Deployment).map(|deployment| Name::of(deployment));
    deployments.chain(owners).collect()
}

/// The Deployment that a pod is of.
fn owner(pod: &Value) -> Option<&str> {
    let mut owners = items(pod, "/metadata/ownerReferences").iter();
    let owner = owners.find(|owner| text(owner, "/kind") == "Deployment")?;
    Some(text(owner, "/name"))
}

fn pods(store: &Store, deployment: &Name) -> Vec<Object> {
    let pods = store.objects(Kind::Pod).filter(|(name, pod)| {
        name.namespace == deployment.namespace && owner(pod) == Some(&deployment.name)
    });
    pods.map(|(_, pod)| pod.clone()).collect()
}

/// A new template replaces all pods: first the new ones come, and as they get ready the old go.
fn settle(store: &mut Store, name: &Name, deployment: &Object, now: Timestamp) {
    let template = &deployment["spec"]["template"];
    let hash = template_hash(template);
    let wanted = usize::try_from(number(deployment, "/spec/replicas")).unwrap_or_default();
    let (mut new, mut old): (Vec<_>, Vec<_>) = pods(store, name)
        .into_iter()
        .filter(|pod| !is_terminating(pod))
        .partition(|pod| label(pod, HASH) == Some(&hash));
    // The youngest, and those that do not serve, go first.
    new.sort_by_key(|pod| (!is_ready(pod), number_of(pod)));
    let surplus = new.split_off(wanted.min(new.len()));
    let ready = new.iter().filter(|pod| is_ready(pod)).count();
    old.sort_by_key(|pod| (is_ready(pod), number_of(pod)));
    old.truncate(old.len().saturating_sub(wanted.saturating_sub(ready)));
    for _ in new.len()..wanted {
        let pod = pod(store.revision() + 1, name, deployment, &hash);
        // A pod that cannot be is not made: the status of the Deployment says so.
        drop(store.create(Kind::Pod, pod, now));
    }
    remove(store, surplus.into_iter().chain(old).collect(), now);
    write_status(store, name, &hash);
}

fn number_of(pod: &Value) -> u64 {
    text(pod, "/metadata/resourceVersion")
        .parse()
        .unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = items(pod, "/status/conditions").iter();
    conditions.any(|it| text(it, "/type") == "Ready" && text(it, "/status") == "True")
}

fn template_hash(template: &Value) -> String {
    let text = template.to_string();
    suffix(
        text.bytes()
            .fold(0, |hash, byte| mix(hash ^ u64::from(byte))),
    )
}

fn pod(number: u64, of: &Name, deployment: &Value, hash: &str) -> Value {
    let template = &deployment["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": template["metadata"], "spec": template["spec"],
    });
    let metadata = metadata_mut(&mut pod);
    let name = format!("{}-{hash}-{}", of.name, suffix(number));
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("namespace".to_owned(), json!(of.namespace));
    let labels = metadata
        .entry("labels")
        .or_insert_with(|| Value::Object(Map::new()));
    labels[HASH] = json!(hash);
    let owner = json!([{
        "apiVersion": "apps/v1", "kind": "Deployment", "name": of.name,
        "uid": deployment["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    }]);
    metadata.insert("ownerReferences".to_owned(), owner);
    pod
}

fn remove(store: &mut Store, pods: Vec<Object>, now: Timestamp) {
    for pod in pods.iter().filter(|pod| !is_terminating(pod)) {
        // It is there: it has just been found.
        let _ = store.delete(Kind::Pod, &Name::of(pod), &DeleteOptions::default(), now);
    }
}

fn write_status(store: &mut Store, name: &Name, hash: &str) {
    let pods = pods(store, name);
    let alive: Vec<_> = pods.iter().filter(|pod| !is_terminating(pod)).collect();
    let ready = alive.iter().filter(|pod| is_ready(pod)).count();
    let updated = alive
        .iter()
        .filter(|pod| label(pod, HASH) == Some(hash))
        .count();
    let total = alive.len();
    // It is there, and a status can always be written.
    let _ = store.update(Kind::Deployment, name, Part::Status, |deployment| {
        let wanted = number(deployment, "/spec/replicas");
        let is_available = u64::try_from(ready).is_ok_and(|ready| ready >= wanted);
        deployment["status"] = json!({
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": total, "updatedReplicas": updated,
            "readyReplicas": ready, "availableReplicas": ready,
            "unavailableReplicas": wanted.saturating_sub(u64::try_from(ready).unwrap_or_default()),
            "conditions": [{"type": "Available", "status": if is_available { "True" } else { "False" }}],
        });
        Ok(())
    });
}
