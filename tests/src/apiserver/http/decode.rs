//! Objects as their types allow them.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    networking::v1 as networking,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::call::Call;
use crate::apiserver::store::{Kind, Resource, Status};

/// Drops the fields that objects of the resource do not have, or refuses them if the client wants
/// that.
///
/// # Errors
/// `BadRequest`, if a field has another type than it must have, too.
pub(super) fn decode(resource: &Resource, call: &Call, object: Value) -> Result<Value, Status> {
    let known = match (resource.storage, resource.group) {
        (Kind::Service, _) => known::<core::Service>(&object),
        (Kind::EndpointSlice, _) => known::<discovery::EndpointSlice>(&object),
        (Kind::Node, _) => known::<core::Node>(&object),
        (Kind::Namespace, _) => known::<core::Namespace>(&object),
        (Kind::ServiceCidr, _) => known::<networking::ServiceCIDR>(&object),
        (Kind::Event, "") => known::<core::Event>(&object),
        (Kind::Event, _) => known::<events::Event>(&object),
        // Their quantities may be numbers, which these types do not know.
        (Kind::Pod | Kind::Deployment, _) => return Ok(object),
    };
    let known = known.map_err(|error| {
        let (version, kind) = (resource.version, resource.kind);
        Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {error}"
        ))
    })?;
    if call.query.get("fieldValidation") == "Strict" {
        let mut unknown = BTreeSet::new();
        compare("", &object, &known, &mut unknown);
        let unknown: Vec<_> = unknown
            .iter()
            .map(|path| format!("unknown field \"{path}\""))
            .collect();
        if !unknown.is_empty() {
            let (version, kind) = (resource.version, resource.kind);
            return Err(Status::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
                unknown.join(", ")
            )));
        }
    }
    Ok(known)
}

/// What of an object its type knows.
fn known<T: DeserializeOwned + Serialize>(object: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(T::deserialize(object)?)
}

/// Finds what is there and not known.
fn compare(path: &str, object: &Value, known: &Value, unknown: &mut BTreeSet<String>) {
    match (object, known) {
        (Value::Object(fields), Value::Object(known)) => {
            for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match known.get(key) {
                    Some(known) => compare(&path, value, known, unknown),
                    None if is_empty(value) => {}
                    None => drop(unknown.insert(path)),
                }
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (index, (item, known)) in items.iter().zip(known).enumerate() {
                compare(&format!("{path}[{index}]"), item, known, unknown);
            }
        }
        _ => {}
    }
}

/// What types leave out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
