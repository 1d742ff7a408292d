//! The network devices of this node, and what each of them is to the load balancer.
//!
//! Devices are found, not configured: [`classify`] decides from what the kernel says about them
//! (and from a few [`Overrides`]), [`watch`] follows the kernel's changes.

mod classify;
mod dump;
mod flaps;
mod netfilter;
mod routing;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::{Interface, Role};

pub use self::{
    classify::{AddressFacts, Kind, Link, Overrides, classify},
    routing::Routing,
    watch::{Error, watch},
};

/// Every device of the network namespace, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// All devices by interface index, those without a role too.
    pub devices: BTreeMap<u32, Device>,
    /// The uplinks' primary addresses: the node's own, where nothing else names them.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Every address of every device: packets for these come up to the node's processes.
    pub local_addresses: BTreeSet<IpAddr>,
    /// Networks of this node's bridges: pods there are this node's, whatever their endpoints say.
    pub pod_networks: BTreeSet<IpNet>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name; may change while the index stays.
    pub name: String,
    /// What it is to the load balancer, if anything.
    pub role: Option<Role>,
    /// What the kernel programs know about it: uplinks and tunnels, and pods at a bridge that
    /// netfilter does not see.
    pub interface: Option<Interface>,
    /// Whether it is a VLAN on another device: it has no driver, and so no XDP in one.
    pub vlan: bool,
}

impl State {
    /// Indexes of the devices that have `role`.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = u32> + '_ {
        self.devices
            .iter()
            .filter(move |(_, device)| device.role == Some(role))
            .map(|(&index, _)| index)
    }

    /// What `INTERFACES` is to hold, by interface index.
    #[must_use]
    pub fn interfaces(&self) -> BTreeMap<u32, Interface> {
        self.devices
            .iter()
            .filter_map(|(&index, device)| Some((index, device.interface?)))
            .collect()
    }
}
