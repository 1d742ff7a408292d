//! Patches of all the kinds that clients send.

use serde_json::{Map, Value, json};

use super::Kind;
use super::status::Status;

/// A kind of patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Merges lists whose elements have keys.
    Strategic,
    /// What its sender wants the fields to be: here merged like a strategic patch, without
    /// remembering whose field is whose.
    Apply,
}

impl PatchType {
    /// The kind that a request's content type names.
    ///
    /// # Errors
    /// `UnsupportedMediaType`.
    pub fn of(content_type: &str) -> Result<Self, Status> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/json-patch+json" => Ok(Self::Json),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => Err(Status::new(
                415,
                "UnsupportedMediaType",
                format!("the body of the request was in an unknown format: {other}"),
            )),
        }
    }
}

/// Applies a patch to an object.
///
/// # Errors
/// `BadRequest` or `Invalid` if that cannot be done.
pub fn apply(
    kind: Kind,
    object: &mut Value,
    patch: &Value,
    patch_type: PatchType,
) -> Result<(), Status> {
    match patch_type {
        PatchType::Merge => json_patch::merge(object, patch),
        PatchType::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
            json_patch::patch(object, &operations).map_err(|error| {
                Status::new(
                    422,
                    "Invalid",
                    format!(
                        "the server rejected our request due to an error in our request: {error}"
                    ),
                )
            })?;
        }
        PatchType::Strategic | PatchType::Apply => merge(kind, "", object, patch),
    }
    Ok(())
}

/// Lists that are merged: kind (all, if none is said), path, and the keys of their elements; of
/// elements without keys, the value itself is the key.
const MERGED: [(Option<Kind>, &str, &[&str]); 15] = [
    (None, "metadata.finalizers", &[]),
    (None, "metadata.ownerReferences", &["uid"]),
    (None, "status.conditions", &["type"]),
    (Some(Kind::Service), "spec.ports", &["port", "protocol"]),
    (Some(Kind::Node), "status.addresses", &["type"]),
    (Some(Kind::Pod), "status.podIPs", &["ip"]),
    (Some(Kind::Pod), "spec.containers", &["name"]),
    (
        Some(Kind::Pod),
        "spec.containers.ports",
        &["containerPort", "protocol"],
    ),
    (Some(Kind::Pod), "spec.containers.env", &["name"]),
    (Some(Kind::Pod), "spec.volumes", &["name"]),
    (Some(Kind::Pod), "spec.tolerations", &["key"]),
    (
        Some(Kind::Deployment),
        "spec.template.spec.containers",
        &["name"],
    ),
    (
        Some(Kind::Deployment),
        "spec.template.spec.containers.ports",
        &["containerPort", "protocol"],
    ),
    (
        Some(Kind::Deployment),
        "spec.template.spec.containers.env",
        &["name"],
    ),
    (
        Some(Kind::Deployment),
        "spec.template.spec.volumes",
        &["name"],
    ),
];

fn merge_keys(kind: Kind, path: &str) -> Option<&'static [&'static str]> {
    let mut lists = MERGED.iter();
    let found = lists.find(|(of, list, _)| of.is_none_or(|of| of == kind) && *list == path);
    found.map(|(_, _, keys)| *keys)
}

/// Merges `patch` into what stands at `path`.
fn merge(kind: Kind, path: &str, target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = Value::Object(without_directives(patch));
            return;
        }
        Some("delete") => {
            *target = Value::Null;
            return;
        }
        _ => {}
    }
    let fields = super::object::fields_mut(target);
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|key, _| kept.iter().any(|kept| kept == key));
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (fields.get_mut(list), value) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !key.starts_with('$') {
            merge_field(kind, &join(path, key), fields, key, value);
        }
    }
    for (key, order) in patch {
        let list = key.strip_prefix("$setElementOrder/");
        let list = list.and_then(|list| Some((list, fields.get_mut(list)?.as_array_mut()?)));
        if let (Some((list, items)), Value::Array(order)) = (list, order) {
            let keys = merge_keys(kind, &join(path, list)).unwrap_or_default();
            let place = |item: &Value| {
                order
                    .iter()
                    .position(|ordered| is_same(keys, item, ordered))
            };
            items.sort_by_key(|item| place(item).unwrap_or(usize::MAX));
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn merge_field(kind: Kind, path: &str, fields: &mut Map<String, Value>, key: &str, value: &Value) {
    match (value, merge_keys(kind, path)) {
        (Value::Null, _) => drop(fields.remove(key)),
        (Value::Array(elements), Some(keys)) => {
            let list = fields.entry(key).or_insert_with(|| json!([]));
            if !list.is_array() {
                *list = json!([]);
            }
            if let Value::Array(list) = list {
                merge_list(kind, path, keys, list, elements);
            }
        }
        (Value::Object(_), _) => {
            let field = fields.entry(key).or_insert(Value::Null);
            merge(kind, path, field, value);
            if field.is_null() {
                fields.remove(key);
            }
        }
        _ => drop(fields.insert(key.to_owned(), value.clone())),
    }
}

fn merge_list(kind: Kind, path: &str, keys: &[&str], list: &mut Vec<Value>, elements: &[Value]) {
    if elements
        .iter()
        .any(|element| *element == json!({"$patch": "replace"}))
    {
        list.clear();
    }
    for element in elements {
        match element["$patch"].as_str() {
            Some("delete") => {
                list.retain(|item| !is_same(keys, item, element));
                continue;
            }
            Some("replace") => continue,
            _ => {}
        }
        match list.iter_mut().find(|item| is_same(keys, item, element)) {
            Some(item) => merge(kind, path, item, element),
            None => {
                let mut item = Value::Null;
                merge(kind, path, &mut item, element);
                list.push(item);
            }
        }
    }
}

/// Whether two elements are the same one; what one of them leaves out may be anything.
fn is_same(keys: &[&str], a: &Value, b: &Value) -> bool {
    match keys.split_first() {
        None => a == b,
        Some((first, others)) => {
            let is_equal = |key: &&str| a.get(*key) == b.get(*key);
            let is_open = |key: &&str| a.get(*key).is_none() || b.get(*key).is_none();
            is_equal(first) && others.iter().all(|key| is_equal(key) || is_open(key))
        }
    }
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    let fields = patch.iter().filter(|(key, _)| !key.starts_with('$'));
    fields
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, before: Value, patch: Value, after: Value) {
        let mut object = before;
        apply(kind, &mut object, &patch, PatchType::Strategic).unwrap();
        assert_eq!(object, after);
    }

    #[test]
    fn ports_of_services_are_merged_by_port_and_protocol() {
        let tcp = json!({"name": "t", "port": 53, "protocol": "TCP", "nodePort": 30_001});
        let udp = json!({"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30_001});
        check(
            Kind::Service,
            json!({"spec": {"ports": [tcp, udp]}}),
            json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "v"}, {"port": 80}]}}),
            json!({"spec": {"ports": [
                {"name": "t", "port": 53, "protocol": "TCP", "nodePort": 30_001},
                {"name": "v", "port": 53, "protocol": "UDP", "nodePort": 30_001},
                {"port": 80},
            ]}}),
        );
    }

    #[test]
    fn elements_are_deleted_ordered_and_replaced_on_request() {
        let before = json!({"spec": {"ports": [{"port": 1}, {"port": 2}, {"port": 3}]}});
        check(
            Kind::Service,
            before.clone(),
            json!({"spec": {
                "$setElementOrder/ports": [{"port": 3}, {"port": 4}, {"port": 1}],
                "ports": [{"port": 2, "$patch": "delete"}, {"port": 4}],
            }}),
            json!({"spec": {"ports": [{"port": 3}, {"port": 4}, {"port": 1}]}}),
        );
        check(
            Kind::Service,
            before.clone(),
            json!({"spec": {"ports": [{"$patch": "replace"}, {"port": 9}]}}),
            json!({"spec": {"ports": [{"port": 9}]}}),
        );
        check(
            Kind::Service,
            before,
            json!({"spec": {"$patch": "replace", "type": "NodePort"}}),
            json!({"spec": {"type": "NodePort"}}),
        );
    }

    #[test]
    fn endpoints_of_slices_are_replaced_as_a_whole() {
        check(
            Kind::EndpointSlice,
            json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 1}]}),
            json!({"endpoints": [{"addresses": ["10.0.0.2"]}]}),
            json!({"endpoints": [{"addresses": ["10.0.0.2"]}], "ports": [{"port": 1}]}),
        );
    }

    #[test]
    fn null_removes_and_finalizers_are_a_set() {
        check(
            Kind::Pod,
            json!({"metadata": {"labels": {"a": "b", "c": "d"}, "finalizers": ["x", "y"]}}),
            json!({"metadata": {"labels": {"a": null}, "$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"]}}),
            json!({"metadata": {"labels": {"c": "d"}, "finalizers": ["y", "z"]}}),
        );
    }

    #[test]
    fn conditions_are_merged_by_type() {
        check(
            Kind::Pod,
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "X"}]}}),
        );
    }

    #[test]
    fn the_other_kinds_of_patches_are_what_their_standards_say() {
        let mut object = json!({"spec": {"ports": [{"port": 1}], "a": 1}});
        let patch = json!({"spec": {"ports": [{"port": 2}], "a": null}});
        apply(Kind::Service, &mut object, &patch, PatchType::Merge).unwrap();
        assert_eq!(object, json!({"spec": {"ports": [{"port": 2}]}}));
        let patch = json!([{"op": "add", "path": "/spec/ports/-", "value": {"port": 3}}]);
        apply(Kind::Service, &mut object, &patch, PatchType::Json).unwrap();
        assert_eq!(
            object,
            json!({"spec": {"ports": [{"port": 2}, {"port": 3}]}})
        );
        let patch = json!([{"op": "test", "path": "/spec/a", "value": 1}]);
        let error = apply(Kind::Service, &mut object, &patch, PatchType::Json).unwrap_err();
        assert_eq!(error.code, 422);
    }
}
