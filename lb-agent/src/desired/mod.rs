//! What the maps ought to hold: Service semantics, decided in pure code.

mod compile;
mod endpoints;
mod health;
mod ids;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::{Backend, BackendRef, FrontendKey, Interface, Protocol, protocol};

pub use self::{
    compile::compile,
    health::{LocalReady, NoLocalEndpoints, local_ready_endpoints, no_local_endpoints},
    ids::{Full, Ids},
};
use crate::model::ObjectName;
pub use crate::model::Rejection;

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
}

/// One port of a Service in one family: what is committed at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Whose port it is.
    pub name: PortName,
    /// Every endpoint that the slices name, in a set or not.
    pub backends: BTreeMap<u32, Backend>,
    /// Backends that traffic of policy `Cluster` may reach.
    pub cluster: Members,
    /// Backends that traffic of policy `Local` may reach.
    pub local: Members,
    /// What clients dial.
    pub frontends: BTreeMap<FrontendKey, FrontendSpec>,
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
pub type Members = BTreeSet<BackendRef>;

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

/// This node, as `compile` needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name: endpoints with this node name are local (item 9).
    pub name: String,
    /// Addresses on which NodePorts are served (item 21).
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Networks whose pods are on this node, whatever their endpoints say of their node: replies
    /// from there come back through it.
    pub pod_networks: BTreeSet<IpNet>,
    /// Whether processes of the node reach NodePorts on loopback addresses (item 22).
    pub localhost_node_ports: bool,
    /// Devices that packets leave by with the node's own address, by index.
    pub interfaces: BTreeMap<u32, Interface>,
}
