//! Objects as bytes: in full, as metadata alone, or as rows of a table.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use hyper::body::Bytes;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value, json};

use super::table;
use super::view;
use crate::apiserver::store::{Object, Page, Resource};

/// How a client wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Full,
    /// Their metadata.
    Metadata,
    /// A row for each, with this of the object in it.
    Table(Included),
}

/// What a row has of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Included {
    Nothing,
    Metadata,
    Object,
}

impl Form {
    /// The first that the client accepts.
    pub(super) fn accepted(accept: &str, include: &str) -> Self {
        let of = |media: &str| {
            let mut parameters = media.split(';').map(str::trim).skip(1);
            let form = parameters.find_map(|parameter| parameter.strip_prefix("as="));
            match form {
                Some("Table") => Self::Table(match include {
                    "None" => Included::Nothing,
                    "Object" => Included::Object,
                    _ => Included::Metadata,
                }),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Self::Metadata,
                _ => Self::Full,
            }
        };
        accept.split(',').next().map_or(Self::Full, of)
    }

    /// A single object, or an object of a watch. `has_columns` tells the names of a table's
    /// columns, too.
    pub(super) fn object(self, resource: &Resource, object: &Value, has_columns: bool) -> Value {
        match self {
            Self::Full => view::shown(resource, object).into_owned(),
            Self::Metadata => metadata(object),
            Self::Table(included) => {
                let rows = [object];
                table::table(
                    resource,
                    rows.into_iter(),
                    included,
                    has_columns,
                    &json!({
                        "resourceVersion": object["metadata"]["resourceVersion"],
                    }),
                )
            }
        }
    }

    /// A list.
    pub(super) fn list(self, resource: &Resource, page: &Page) -> Vec<u8> {
        let mut list_metadata = Map::new();
        list_metadata.insert(
            "resourceVersion".to_owned(),
            json!(page.revision.to_string()),
        );
        if let Some(token) = &page.continuation {
            list_metadata.insert("continue".to_owned(), json!(token));
        }
        if let Some(remaining) = page.remaining {
            list_metadata.insert("remainingItemCount".to_owned(), json!(remaining));
        }
        let list_metadata = Value::Object(list_metadata);
        let objects = page.objects.iter().map(Object::as_ref);
        match self {
            Self::Full => bytes(&List {
                resource,
                metadata: &list_metadata,
                page,
            }),
            Self::Metadata => bytes(&json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": list_metadata,
                "items": objects.map(metadata).collect::<Vec<_>>(),
            })),
            Self::Table(included) => bytes(&table::table(
                resource,
                objects,
                included,
                true,
                &list_metadata,
            )),
        }
    }
}

/// An object's metadata, as an object.
pub(super) fn metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// A list in full. Its elements do not say what they are.
struct List<'a> {
    resource: &'a Resource,
    metadata: &'a Value,
    page: &'a Page,
}

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("kind", &format!("{}List", self.resource.kind))?;
        map.serialize_entry("apiVersion", &self.resource.api_version())?;
        map.serialize_entry("metadata", self.metadata)?;
        let items = self.page.objects.iter();
        let items = items.map(|object| Item(self.resource, object));
        map.serialize_entry("items", &items.collect::<Vec<_>>())?;
        map.end()
    }
}

struct Item<'a>(&'a Resource, &'a Value);

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let object = view::shown(self.0, self.1);
        let fields = object.as_object().into_iter().flatten();
        let fields = fields.filter(|(key, _)| !["kind", "apiVersion"].contains(&key.as_str()));
        serializer.collect_map(fields)
    }
}

/// What cannot fail: there are only JSON values in it.
pub(super) fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A line of a watch.
pub(super) fn event(event_type: &str, object: &Value) -> Vec<u8> {
    let mut line = Vec::with_capacity(1024);
    line.extend_from_slice(br#"{"type":""#);
    line.extend_from_slice(event_type.as_bytes());
    line.extend_from_slice(br#"","object":"#);
    line.extend_from_slice(&bytes(object));
    line.extend_from_slice(b"}\n");
    line
}

/// A gzip member.
pub(super) fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    let written = encoder.write_all(plain).and_then(|()| encoder.finish());
    written.unwrap_or_default().into()
}
