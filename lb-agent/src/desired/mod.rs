//! What the maps ought to hold: Service semantics, decided in pure code.

mod compile;
mod endpoints;
#[cfg(test)]
pub(crate) mod fixture;
mod frontends;
mod health;
mod ids;
mod index;
mod nets;
mod node;
mod ranges;
mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use lb_common::{
    Addr, Backend, BackendRef, FrontendKey, Interface, Protocol, ServiceNets, SourceRange, Vip,
    protocol,
};

pub use self::{
    compile::{Changes, Compiler},
    endpoints::is_allowed,
    health::{LocalEndpoints, LocalReady, NoLocalEndpoints},
    ids::{Full, Ids},
    node::{ExternalIps, NodePortAddresses, NodeView},
};
pub use crate::model::Rejection;
use crate::{
    flat::{FlatMap, FlatSet},
    model::ObjectName,
};

/// The content of the maps, before it is laid out in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// Service ports by their id.
    pub ports: BTreeMap<u32, Port>,
    /// Service ports, by their id, that cannot get what they should have: they go on with what
    /// they have.
    pub kept: BTreeSet<u32>,
    /// Devices that packets leave by with the node's own address, by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Addresses of Services that are none of the node's own.
    pub vips: BTreeMap<Addr, Vip>,
    /// Where cluster addresses can be.
    pub service_nets: ServiceNets,
}

/// One port of a Service in one family: what is committed at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Whose port it is.
    pub name: Arc<PortName>,
    /// Every endpoint that the slices name, in a set or not.
    pub backends: FlatMap<u32, Backend>,
    /// Backends that traffic of policy `Cluster` may reach.
    pub cluster: Members,
    /// Backends that traffic of policy `Local` may reach.
    pub local: Members,
    /// What clients dial.
    pub frontends: FlatMap<FrontendKey, FrontendSpec>,
    /// Whose connections the frontends with the flag `SOURCE_RANGES` take.
    pub source_ranges: FlatSet<SourceRange>,
}

impl Port {
    /// The backends of a scope.
    #[must_use]
    pub fn members(&self, scope: Scope) -> &Members {
        match scope {
            Scope::Cluster => &self.cluster,
            Scope::Local => &self.local,
        }
    }
}

/// References to the backends of one look-up table.
pub type Members = FlatSet<BackendRef>;

/// Which of a port's two sets of backends serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Backends of every node.
    Cluster,
    /// Backends of this node.
    Local,
}

/// A frontend before its tables have a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendSpec {
    /// Who serves clients outside the node.
    pub outside: Scope,
    /// Who serves pods and processes of this node.
    pub inside: Scope,
    /// Session affinity in seconds; 0 is off.
    pub affinity_timeout_s: u32,
    /// Bits of `lb_common::frontend::flags`.
    pub flags: u32,
}

/// Names a Service port in one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName {
    /// The Service.
    pub service: ObjectName,
    /// Name of the port; empty for a single one.
    pub port: String,
    /// IP protocol number.
    pub protocol: Protocol,
    /// Whether it is the IPv4 half of it.
    pub is_v4: bool,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            port,
            protocol,
            is_v4,
        } = self;
        let separator = if port.is_empty() { "" } else { ":" };
        let family = if *is_v4 { "IPv4" } else { "IPv6" };
        let protocol = protocol::name(*protocol);
        write!(f, "{service}{separator}{port}/{protocol} ({family})")
    }
}
