//! Lists as tables: what `kubectl get` prints.

mod age;
mod columns;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::columns::Column;
use super::encode::{Included, metadata};
use super::view;
use crate::apiserver::store::Resource;

/// A table with a row for each object.
pub(super) fn table<'a>(
    resource: &Resource,
    objects: impl Iterator<Item = &'a Value>,
    included: Included,
    has_columns: bool,
    list_metadata: &Value,
) -> Value {
    let columns = columns::of(resource.storage);
    let now = Timestamp::now();
    let rows = objects.map(|object| {
        let cells = columns.iter().map(|column| (column.cell)(object, now));
        let mut row = json!({"cells": cells.collect::<Vec<_>>()});
        match included {
            Included::Nothing => {}
            Included::Metadata => row["object"] = metadata(object),
            Included::Object => row["object"] = view::shown(resource, object).into_owned(),
        }
        row
    });
    let rows: Vec<_> = rows.collect();
    let definitions: Vec<_> = columns
        .iter()
        .filter(|_| has_columns)
        .map(definition)
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": "string",
        "format": if column.name == "Name" { "name" } else { "" },
        "description": column.name,
        "priority": i32::from(column.is_wide),
    })
}
