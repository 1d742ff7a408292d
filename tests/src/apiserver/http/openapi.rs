//! Descriptions of the resources: only what kubectl looks for before it sends an object, namely
//! that the server itself checks the fields.

use serde_json::{Map, Value, json};

use super::discovery::members;
use crate::apiserver::store::{RESOURCES, Resource, Status};

/// Where the descriptions are.
pub(super) fn index() -> Value {
    let mut paths = Map::new();
    for resource in RESOURCES {
        let path = base(resource);
        let url = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
        paths.insert(path, url);
    }
    json!({"paths": paths})
}

fn base(resource: &Resource) -> String {
    match resource.group {
        "" => format!("api/{}", resource.version),
        group => format!("apis/{group}/{}", resource.version),
    }
}

/// The description of a group and version.
pub(super) fn describe(group: &str, version: &str) -> Result<Value, Status> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in members(group, version) {
        let place = if resource.is_namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let collection = format!("/{}/{place}{}", base(resource), resource.plural);
        let type_ = json!([{"group": group, "version": version, "kind": resource.kind}]);
        let operation = |verb: &str| {
            json!({
                "operationId": format!("{verb}{}", resource.kind),
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-action": verb,
                "x-kubernetes-group-version-kind": type_[0],
            })
        };
        paths.insert(collection.clone(), json!({"post": operation("post")}));
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({"put": operation("put"), "patch": operation("patch")}),
        );
        let schema = json!({"type": "object", "x-kubernetes-group-version-kind": type_});
        schemas.insert(format!("standin.{}", resource.kind), schema);
    }
    if paths.is_empty() {
        return Err(Status::no_such_path());
    }
    Ok(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}
