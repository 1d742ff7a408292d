//! Services, endpoints and nodes in our own words.
//!
//! Every source translates into these types; nothing behind them knows where an object came from.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc, time::SystemTime};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::IpNet;
use lb_common::Protocol;

mod name;
mod names;
mod slices;

pub use self::{
    name::{ObjectName, Parts},
    names::Names,
    slices::Slices,
};

/// The state of the cluster as far as this node's Services need it.
///
/// A copy shares all that it has in common with its original, and where two copies differ is found
/// without a look at the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Services that a proxy has to serve (items 2 and 4 are applied by `compile`).
    pub services: OrdMap<ObjectName, Arc<Service>>,
    /// Endpoint slices by Service; the slices' own names keep them apart (items 5 and 7).
    pub slices: OrdMap<ObjectName, Slices>,
    /// This node, once it is known.
    pub node: Option<Arc<Node>>,
    /// Networks that cluster addresses are allocated from (item 44); empty if nobody says.
    pub service_cidrs: BTreeSet<IpNet>,
}

impl Model {
    /// The Services that `later` has otherwise, itself or its slices.
    #[must_use]
    pub fn changed_services(&self, later: &Self) -> BTreeSet<ObjectName> {
        let services = self.services.diff(&later.services);
        let services = services.map(|item| changed_key(&item).clone());
        let slices = self.slices.diff(&later.slices);
        let slices = slices.map(|item| changed_key(&item).clone());
        services.chain(slices).collect()
    }
}

/// The key of what two maps have otherwise.
#[must_use]
pub fn changed_key<'a, K, V>(item: &DiffItem<'a, 'a, K, V>) -> &'a K {
    match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key,
        DiffItem::Update { new: (key, _), .. } => key,
    }
}

/// A Service object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Type of the Service.
    pub kind: ServiceKind,
    /// Cluster addresses, at most one a family; empty for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs` (item 25).
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses in VIP mode (item 23).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Ports, in the object's order.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// Session affinity by client address, in seconds (item 49).
    pub affinity_timeout_s: Option<u32>,
    /// `spec.loadBalancerSourceRanges` (item 46).
    pub source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort`; 0 is none.
    pub health_check_node_port: u16,
    /// How backends are chosen for new connections.
    pub algorithm: Algorithm,
}

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// By the connection's hash: the same on every node, and again after its record was lost.
    #[default]
    Maglev,
    /// By chance.
    Random,
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Reached by its cluster address.
    ClusterIp,
    /// Reached by a port of every node, too.
    NodePort,
    /// Reached by a load balancer's address, too.
    LoadBalancer,
    /// A name for something else; not ours (item 4).
    ExternalName,
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        })
    }
}

/// Which backends a class of traffic may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any node's.
    #[default]
    Cluster,
    /// Only this node's.
    Local,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Joins it with the ports of slices (item 7); empty for a single port.
    pub name: String,
    /// IP protocol number.
    pub protocol: Protocol,
    /// Port of the VIPs.
    pub port: u16,
    /// Port of the nodes; 0 is none.
    pub node_port: u16,
}

/// An EndpointSlice object.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    /// Ports that every endpoint of the slice serves.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When the change that led to this state was made
    /// (annotation `endpoints.kubernetes.io/last-change-trigger-time`, item 69).
    pub triggered: Option<SystemTime>,
}

/// When a change was made does not make it one (item 12).
impl PartialEq for Slice {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            ports,
            endpoints,
            triggered: _,
        } = self;
        (ports, endpoints) == (&other.ports, &other.endpoints)
    }
}

impl Eq for Slice {}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Joins it with a port of the Service (item 7).
    pub name: String,
    /// IP protocol number.
    pub protocol: Protocol,
    /// Port of the endpoints.
    pub port: u16,
}

/// One endpoint, with the defaults of item 10 applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first address; the others are never used (item 8).
    pub addr: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, whether or not it is going away.
    pub serving: bool,
    /// Is going away.
    pub terminating: bool,
    /// Node that it runs on.
    pub node: Option<Arc<str>>,
    /// Zones that should use it (item 17).
    pub for_zones: Names,
    /// Nodes that should use it (item 17).
    pub for_nodes: Names,
}

/// This node's object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `InternalIP` addresses: where NodePorts are served under `primary` (item 21).
    pub internal_ips: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone` (item 17).
    pub zone: Option<String>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Neither being deleted nor about to be removed by the cluster autoscaler (item 55).
    pub eligible: bool,
}

/// Names an object of the cluster, of whatever kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Kind of the object.
    pub kind: &'static str,
    /// Its name; the namespace is empty for objects of the whole cluster.
    pub name: ObjectName,
    /// Its unique id, where that is known.
    pub uid: Option<String>,
}

impl Reference {
    /// Names an object by its kind.
    #[must_use]
    pub fn new(kind: &'static str, name: ObjectName) -> Self {
        Self {
            kind,
            name,
            uid: None,
        }
    }

    /// Names a Service.
    #[must_use]
    pub fn service(name: ObjectName) -> Self {
        Self::new("Service", name)
    }

    /// Names a node.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self {
            kind: "Node",
            name: ObjectName::new("", name),
            // Whoever shows the events of a node asks for this id, too.
            uid: Some(name.to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, uid: _ } = self;
        if name.namespace.is_empty() {
            write!(f, "{kind} {}", name.name)
        } else {
            write!(f, "{kind} {name}")
        }
    }
}

/// Why something was rejected, in a word: the reason of an Event, and a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// A field does not say what it ought to.
    InvalidObject,
    /// An endpoint has an address that none may have.
    InvalidEndpointAddress,
    /// A Service asks for an address that it may not have.
    ForbiddenAddress,
    /// Another Service has the address and port.
    ConflictingFrontend,
    /// It is right, and not served yet.
    UnsupportedFeature,
    /// A map has no room for it.
    ServiceMapFull,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::InvalidObject => "InvalidObject",
            Self::InvalidEndpointAddress => "InvalidEndpointAddress",
            Self::ForbiddenAddress => "ForbiddenAddress",
            Self::ConflictingFrontend => "ConflictingFrontend",
            Self::UnsupportedFeature => "UnsupportedFeature",
            Self::ServiceMapFull => "ServiceMapFull",
        })
    }
}

/// Something in an object that cannot be used; everything else is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rejection {
    /// Where it is: kind, namespace and name, and for manifests the file and the document.
    pub object: String,
    /// Path of the field, or the position in the file; empty if the whole object is meant.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub reason: String,
    /// The same in a word.
    pub cause: Cause,
    /// The object whose users want to know: of a slice, its Service. None for what is no object.
    pub regarding: Option<Box<Reference>>,
}

impl Rejection {
    /// Rejects something of a Service as a whole.
    #[must_use]
    pub fn of_service(name: &ObjectName, cause: Cause, reason: impl Into<String>) -> Self {
        let service = Reference::service(name.clone());
        Self {
            object: service.to_string(),
            field: String::new(),
            reason: reason.into(),
            cause,
            regarding: Some(service.into()),
        }
    }

    /// Rejects something that is no object, such as a file.
    #[must_use]
    pub fn of_file(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            object: object.into(),
            field: String::new(),
            reason: reason.into(),
            cause: Cause::InvalidObject,
            regarding: None,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            object,
            field,
            reason,
            ..
        } = self;
        if field.is_empty() {
            write!(f, "{object}: {reason}")
        } else {
            write!(f, "{object}: {field}: {reason}")
        }
    }
}
