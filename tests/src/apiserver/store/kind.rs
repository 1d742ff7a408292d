//! Which resources there are.

use std::fmt;

/// A kind of objects, whatever group and version they are read in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Namespaces.
    Namespace,
    /// Nodes.
    Node,
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// Pods.
    Pod,
    /// Events, of both groups.
    Event,
    /// The networks of cluster addresses.
    ServiceCidr,
    /// Deployments.
    Deployment,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Event,
        Self::ServiceCidr,
        Self::Deployment,
    ];

    /// The resource that its objects are kept as.
    #[must_use]
    pub fn resource(self) -> &'static Resource {
        match self {
            Self::Namespace => &NAMESPACES,
            Self::Node => &NODES,
            Self::Service => &SERVICES,
            Self::EndpointSlice => &ENDPOINT_SLICES,
            Self::Pod => &PODS,
            Self::Event => &EVENTS,
            Self::ServiceCidr => &SERVICE_CIDRS,
            Self::Deployment => &DEPLOYMENTS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource().kind)
    }
}

/// A resource of the API: a kind in a group and version.
#[derive(Debug)]
pub struct Resource {
    /// Whose objects these are.
    pub storage: Kind,
    /// Empty for the core group.
    pub group: &'static str,
    /// The version, such as `v1`.
    pub version: &'static str,
    /// As it stands in paths.
    pub plural: &'static str,
    /// For one of them.
    pub singular: &'static str,
    /// As it stands in objects.
    pub kind: &'static str,
    /// Whether its objects live in namespaces.
    pub is_namespaced: bool,
    /// What kubectl takes for the plural.
    pub short_names: &'static [&'static str],
    /// Parts with a path of their own.
    pub subresources: &'static [&'static str],
    /// What field selectors may name beside name and namespace, and where it stands.
    pub fields: &'static [(&'static str, &'static str)],
}

const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("reason", "/reason"),
    ("type", "/type"),
];

static NAMESPACES: Resource = Resource {
    storage: Kind::Namespace,
    group: "",
    version: "v1",
    plural: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    is_namespaced: false,
    short_names: &["ns"],
    subresources: &["status"],
    fields: &[("status.phase", "/status/phase")],
};

static NODES: Resource = Resource {
    storage: Kind::Node,
    group: "",
    version: "v1",
    plural: "nodes",
    singular: "node",
    kind: "Node",
    is_namespaced: false,
    short_names: &["no"],
    subresources: &["status"],
    fields: &[("spec.unschedulable", "/spec/unschedulable")],
};

static SERVICES: Resource = Resource {
    storage: Kind::Service,
    group: "",
    version: "v1",
    plural: "services",
    singular: "service",
    kind: "Service",
    is_namespaced: true,
    short_names: &["svc"],
    subresources: &["status"],
    fields: &[
        ("spec.clusterIP", "/spec/clusterIP"),
        ("spec.type", "/spec/type"),
    ],
};

static PODS: Resource = Resource {
    storage: Kind::Pod,
    group: "",
    version: "v1",
    plural: "pods",
    singular: "pod",
    kind: "Pod",
    is_namespaced: true,
    short_names: &["po"],
    subresources: &["status"],
    fields: &[
        ("spec.nodeName", "/spec/nodeName"),
        ("status.phase", "/status/phase"),
        ("status.podIP", "/status/podIP"),
    ],
};

static EVENTS: Resource = Resource {
    storage: Kind::Event,
    group: "",
    version: "v1",
    plural: "events",
    singular: "event",
    kind: "Event",
    is_namespaced: true,
    short_names: &["ev"],
    subresources: &[],
    fields: EVENT_FIELDS,
};

static NEW_EVENTS: Resource = Resource {
    storage: Kind::Event,
    group: "events.k8s.io",
    version: "v1",
    plural: "events",
    singular: "event",
    kind: "Event",
    is_namespaced: true,
    short_names: &["ev"],
    subresources: &[],
    fields: EVENT_FIELDS,
};

static ENDPOINT_SLICES: Resource = Resource {
    storage: Kind::EndpointSlice,
    group: "discovery.k8s.io",
    version: "v1",
    plural: "endpointslices",
    singular: "endpointslice",
    kind: "EndpointSlice",
    is_namespaced: true,
    short_names: &[],
    subresources: &[],
    fields: &[],
};

static SERVICE_CIDRS: Resource = Resource {
    storage: Kind::ServiceCidr,
    group: "networking.k8s.io",
    version: "v1",
    plural: "servicecidrs",
    singular: "servicecidr",
    kind: "ServiceCIDR",
    is_namespaced: false,
    short_names: &[],
    subresources: &["status"],
    fields: &[],
};

static DEPLOYMENTS: Resource = Resource {
    storage: Kind::Deployment,
    group: "apps",
    version: "v1",
    plural: "deployments",
    singular: "deployment",
    kind: "Deployment",
    is_namespaced: true,
    short_names: &["deploy"],
    subresources: &["scale", "status"],
    fields: &[],
};

/// Everything that is served.
pub static RESOURCES: [&Resource; 9] = [
    &NAMESPACES,
    &NODES,
    &SERVICES,
    &PODS,
    &EVENTS,
    &NEW_EVENTS,
    &ENDPOINT_SLICES,
    &SERVICE_CIDRS,
    &DEPLOYMENTS,
];

impl Resource {
    /// The resource with this name in this group and version.
    #[must_use]
    pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES.into_iter().find(|resource| {
            (resource.group, resource.version, resource.plural) == (group, version, plural)
        })
    }

    /// The resource that an object says it is of.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<&'static Self> {
        RESOURCES
            .into_iter()
            .find(|resource| resource.kind == kind && resource.api_version() == api_version)
    }

    /// Group and version, as objects say them.
    #[must_use]
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// How messages call it.
    #[must_use]
    pub fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }
}
