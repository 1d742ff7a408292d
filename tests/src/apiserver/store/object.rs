//! Objects, and what is read out of them everywhere.

use std::fmt;
use std::sync::Arc;

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde_json::{Map, Value, json};

/// An object as it is stored: never changed, only replaced.
pub type Object = Arc<Value>;

/// What tells an object from the others of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Empty for what lives in none.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

impl Name {
    /// The name `name` in `namespace`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The name that `object` says it has.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        Self::new(
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name"),
        )
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// The string at a JSON pointer, or "".
#[must_use]
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The number at a JSON pointer, or 0.
#[must_use]
pub fn number(object: &Value, pointer: &str) -> u64 {
    object
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

/// The elements of the list at a JSON pointer.
#[must_use]
pub fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The strings of the list at a JSON pointer.
#[must_use]
pub fn strings(object: &Value, pointer: &str) -> Vec<String> {
    items(object, pointer)
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// The label `key`.
#[must_use]
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// All labels.
#[must_use]
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.pointer("/metadata/labels")?.as_object()
}

/// The field `key` as an object; whatever else stood there makes way for it.
pub fn object_mut<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let field = fields_mut(value)
        .entry(key)
        .or_insert_with(|| Value::Object(Map::new()));
    fields_mut(field)
}

/// The fields of an object; whatever else stood there makes way for it.
pub fn fields_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("it has just been made an object"),
    }
}

/// Its metadata, to be changed.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    object_mut(object, "metadata")
}

/// Sets a field that is not there, or is null or "".
pub fn default(fields: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if is_unset(fields.get(key)) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Whether a field is as if it was not there.
#[must_use]
pub fn is_unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Number(number)) => number.as_u64() == Some(0),
        _ => false,
    }
}

/// Whether it has been deleted, and waits for somebody to let it go.
#[must_use]
pub fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// A time as metadata has it: to the second.
#[must_use]
pub fn seconds(now: Timestamp) -> Value {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(0));
    json!(PRINTER.timestamp_to_string(&now))
}
