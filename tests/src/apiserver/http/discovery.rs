//! What the server says it serves.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::apiserver::store::{RESOURCES, Resource, Status};

/// Verbs of whole objects.
const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// The version that this is like.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": "36",
        "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": "v1.36.0-standin",
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// The versions of the core group.
pub(super) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// All groups but the core one, with their version.
fn named_groups() -> BTreeMap<&'static str, &'static str> {
    let named = RESOURCES
        .iter()
        .filter(|resource| !resource.group.is_empty());
    named
        .map(|resource| (resource.group, resource.version))
        .collect()
}

/// All groups but the core one.
pub(super) fn groups() -> Value {
    let groups = named_groups().into_iter();
    let groups: Vec<_> = groups
        .map(|(group, version)| describe_group(group, version))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// One of them.
pub(super) fn group(name: &str) -> Result<Value, Status> {
    let groups = named_groups();
    let version = groups.get(name).ok_or_else(Status::no_such_path)?;
    let mut group = describe_group(name, version);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Ok(group)
}

fn describe_group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

/// The resources of a group and version.
pub(super) fn resources(group: &str, version: &str) -> Result<Value, Status> {
    let mut list = Vec::new();
    let mut group_version = None;
    for resource in members(group, version) {
        group_version = Some(resource.api_version());
        list.push(json!({
            "name": resource.plural, "singularName": resource.singular,
            "namespaced": resource.is_namespaced, "kind": resource.kind,
            "verbs": VERBS, "shortNames": resource.short_names,
        }));
        list.extend(
            resource
                .subresources
                .iter()
                .map(|part| subresource(resource, part)),
        );
    }
    let group_version = group_version.ok_or_else(Status::no_such_path)?;
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": list,
    }))
}

/// The resources themselves.
pub(super) fn members(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    let all = RESOURCES.into_iter();
    all.filter(move |resource| (resource.group, resource.version) == (group, version))
}

fn subresource(resource: &Resource, part: &str) -> Value {
    let mut described = json!({
        "name": format!("{}/{part}", resource.plural), "singularName": "",
        "namespaced": resource.is_namespaced, "kind": resource.kind,
        "verbs": ["get", "patch", "update"],
    });
    if part == "scale" {
        described["group"] = json!("autoscaling");
        described["version"] = json!("v1");
        described["kind"] = json!("Scale");
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the real server says about the resources that are served here.
    #[track_caller]
    fn check(recorded: &str, ours: &Value, ignored: &[&str]) {
        let recorded: Value = serde_json::from_str(recorded).unwrap();
        let find = |list: &Value, name: &Value| {
            let mut resources = list["resources"].as_array().unwrap().iter();
            resources
                .find(|resource| resource["name"] == *name)
                .cloned()
        };
        for resource in ours["resources"].as_array().unwrap() {
            let mut real = find(&recorded, &resource["name"]).unwrap();
            let mut ours = resource.clone();
            for key in ignored {
                real.as_object_mut().unwrap().remove(*key);
                ours.as_object_mut().unwrap().remove(*key);
            }
            assert_eq!(ours, real);
        }
    }

    #[test]
    fn resources_are_described_as_the_real_server_does() {
        let ignored = ["storageVersionHash", "categories", "shortNames", "verbs"];
        let core = include_str!("../../../data/api/discovery-v1.json");
        check(core, &resources("", "v1").unwrap(), &ignored);
        let slices = include_str!("../../../data/api/discovery-discovery-v1.json");
        check(
            slices,
            &resources("discovery.k8s.io", "v1").unwrap(),
            &ignored,
        );
    }

    #[test]
    fn groups_are_among_those_of_the_real_server() {
        let recorded = include_str!("../../../data/api/discovery-apis.json");
        let recorded: Value = serde_json::from_str(recorded).unwrap();
        for group in groups()["groups"].as_array().unwrap() {
            assert!(
                recorded["groups"].as_array().unwrap().contains(group),
                "{group}"
            );
        }
        assert_eq!(resources("nothing", "v1").unwrap_err().code, 404);
    }
}
