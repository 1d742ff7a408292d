//! What a path is about.

use hyper::Method;

use super::call::Query;
use crate::apiserver::faults::Verb;
use crate::apiserver::store::{Name, Resource, Status};

/// What a path is about.
#[derive(Debug)]
pub(super) enum Route {
    /// How the server is.
    Health,
    /// Its version.
    Version,
    /// The versions of the core group.
    CoreVersions,
    /// The other groups.
    Groups,
    /// One of them.
    Group(String),
    /// The resources of a group and version.
    Resources(String, String),
    /// The description of them, of the second format.
    OpenApiV2,
    /// Where their descriptions of the third format are.
    OpenApiIndex,
    /// One of them.
    OpenApi(String, String),
    /// Objects.
    Objects(Target),
}

/// Objects that a request is about.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) resource: &'static Resource,
    /// Only those of this one.
    pub(super) namespace: Option<String>,
    /// Only this one.
    pub(super) name: Option<String>,
    /// Only this part of it.
    pub(super) subresource: Option<String>,
}

impl Target {
    /// What is done to them.
    pub(super) fn verb(&self, method: &Method, query: &Query) -> Result<Verb, Status> {
        let is_one = self.name.is_some();
        match (method.as_str(), is_one) {
            ("GET", true) => Ok(Verb::Get),
            ("GET", false) if query.is_true("watch") => Ok(Verb::Watch),
            ("GET", false) => Ok(Verb::List),
            ("POST", false) => Ok(Verb::Create),
            ("PUT", true) => Ok(Verb::Replace),
            ("PATCH", true) => Ok(Verb::Patch),
            ("DELETE", _) => Ok(Verb::Delete),
            _ => Err(Status::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )),
        }
    }

    /// The object's name.
    pub(super) fn object(&self) -> Name {
        Name::new(
            self.namespace.as_deref().unwrap_or_default(),
            self.name.as_deref().unwrap_or_default(),
        )
    }
}

impl Route {
    /// Reads a path.
    pub(super) fn parse(path: &str) -> Result<Self, Status> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let owned = |text: &&str| (*text).to_owned();
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Ok(Self::Health),
            ["version"] => Ok(Self::Version),
            ["openapi", "v2"] => Ok(Self::OpenApiV2),
            ["openapi", "v3"] => Ok(Self::OpenApiIndex),
            ["openapi", "v3", "api", version] => Ok(Self::OpenApi(String::new(), owned(version))),
            ["openapi", "v3", "apis", group, version] => {
                Ok(Self::OpenApi(owned(group), owned(version)))
            }
            ["api"] => Ok(Self::CoreVersions),
            ["api", version] => Ok(Self::Resources(String::new(), owned(version))),
            ["apis"] => Ok(Self::Groups),
            ["apis", group] => Ok(Self::Group(owned(group))),
            ["apis", group, version] => Ok(Self::Resources(owned(group), owned(version))),
            ["api", version, rest @ ..] => objects("", version, rest),
            ["apis", group, version, rest @ ..] => objects(group, version, rest),
            _ => Err(Status::no_such_path()),
        }
    }
}

fn objects(group: &str, version: &str, rest: &[&str]) -> Result<Route, Status> {
    let (namespace, rest) = match rest {
        // The status of a namespace is no resource in it.
        ["namespaces", _, "status"] => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        _ => (None, rest),
    };
    let (plural, name, subresource) = match *rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(name), None),
        [plural, name, subresource] => (plural, Some(name), Some(subresource)),
        _ => return Err(Status::no_such_path()),
    };
    let resource = Resource::find(group, version, plural).ok_or_else(Status::no_such_path)?;
    let is_known = subresource.is_none_or(|part| resource.subresources.contains(&part));
    let is_placed = resource.is_namespaced || namespace.is_none();
    let is_whole = !resource.is_namespaced || name.is_none() || namespace.is_some();
    if !(is_known && is_placed && is_whole) {
        return Err(Status::no_such_path());
    }
    Ok(Route::Objects(Target {
        resource,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        path: &str,
        plural: &str,
        namespace: Option<&str>,
        name: Option<&str>,
        part: Option<&str>,
    ) {
        let Route::Objects(target) = Route::parse(path).unwrap() else {
            panic!("{path} is about no objects");
        };
        assert_eq!(target.resource.plural, plural);
        assert_eq!(target.namespace.as_deref(), namespace);
        assert_eq!(target.name.as_deref(), name);
        assert_eq!(target.subresource.as_deref(), part);
    }

    #[test]
    fn paths_name_resources_namespaces_and_parts() {
        check("/api/v1/services", "services", None, None, None);
        check("/api/v1/nodes/node1", "nodes", None, Some("node1"), None);
        check("/api/v1/namespaces", "namespaces", None, None, None);
        check("/api/v1/namespaces/a", "namespaces", None, Some("a"), None);
        check(
            "/api/v1/namespaces/a/status",
            "namespaces",
            None,
            Some("a"),
            Some("status"),
        );
        check(
            "/api/v1/namespaces/a/services",
            "services",
            Some("a"),
            None,
            None,
        );
        let path = "/api/v1/namespaces/a/services/b/status";
        check(path, "services", Some("a"), Some("b"), Some("status"));
        let path = "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/b";
        check(path, "endpointslices", Some("a"), Some("b"), None);
    }

    #[test]
    fn other_paths_are_not_found() {
        for path in [
            "/",
            "/api/v1/secrets",
            "/api/v2/services",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/services/b",
            "/api/v1/namespaces/a/services/b/scale",
            "/apis/apps/v1/services",
        ] {
            assert_eq!(Route::parse(path).unwrap_err().code, 404, "{path}");
        }
    }
}
