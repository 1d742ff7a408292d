//! Cluster addresses and node ports: who has which.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::Value;

use crate::apiserver::store::object::{Name, items, number, strings};

/// Where node ports come from.
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// The first of them that are left to those who ask for one.
const STATIC_PORTS: u16 = 86;

/// The first addresses of a network that are left to those who ask for one.
const STATIC_ADDRESSES: u128 = 256;

/// What Services hold.
#[derive(Clone, Debug)]
pub(in crate::apiserver::store) struct Allocations {
    networks: Vec<IpNet>,
    addresses: HashMap<IpAddr, Name>,
    ports: HashMap<u16, Name>,
    next_address: u128,
    next_port: u16,
}

impl Allocations {
    /// Nobody holds anything of `networks`.
    pub(in crate::apiserver::store) fn new(networks: Vec<IpNet>) -> Self {
        Self {
            networks,
            addresses: HashMap::new(),
            ports: HashMap::new(),
            next_address: STATIC_ADDRESSES,
            next_port: NODE_PORTS.start() + STATIC_PORTS,
        }
    }

    /// The networks of cluster addresses.
    pub(in crate::apiserver::store) fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Whether `name` may have `address`.
    pub(super) fn may_have_address(&self, address: IpAddr, name: &Name) -> Result<(), String> {
        if !self
            .networks
            .iter()
            .any(|network| network.contains(&address))
        {
            let networks: Vec<_> = self.networks.iter().map(IpNet::to_string).collect();
            return Err(format!(
                "failed to allocate IP {address}: the provided IP is not in the valid range. \
                 The range of valid IPs is {}",
                networks.join(", ")
            ));
        }
        match self.addresses.get(&address) {
            Some(owner) if owner != name => Err(format!(
                "failed to allocate IP {address}: provided IP is already allocated"
            )),
            _ => Ok(()),
        }
    }

    /// Whether `name` may have the node port `port`.
    pub(super) fn may_have_port(&self, port: u16, name: &Name) -> Result<(), String> {
        if !NODE_PORTS.contains(&port) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            ));
        }
        match self.ports.get(&port) {
            Some(owner) if owner != name => Err("provided port is already allocated".to_owned()),
            _ => Ok(()),
        }
    }

    /// An address of this family that nobody has.
    pub(super) fn free_address(&mut self, is_ipv4: bool) -> Option<IpAddr> {
        let network = *self
            .networks
            .iter()
            .find(|network| network.addr().is_ipv4() == is_ipv4)?;
        let bits = u32::from(network.max_prefix_len() - network.prefix_len());
        // The last address of an IPv4 network is its broadcast address.
        let size = (1_u128 << bits.min(64)) - 1;
        for _ in 0..size {
            let offset = self.next_address % size;
            self.next_address += 1;
            let address = nth(network, offset);
            if offset != 0 && !self.addresses.contains_key(&address) {
                return Some(address);
            }
        }
        None
    }

    /// A node port that nobody has, and none of `taken`.
    pub(super) fn free_port(&mut self, taken: &[u16]) -> Option<u16> {
        for _ in NODE_PORTS {
            let port = self.next_port;
            self.next_port = match port {
                last if last == *NODE_PORTS.end() => *NODE_PORTS.start(),
                port => port + 1,
            };
            if !self.ports.contains_key(&port) && !taken.contains(&port) {
                return Some(port);
            }
        }
        None
    }

    /// Takes back what the Service held, and notes what it holds now.
    pub(in crate::apiserver::store) fn replace(
        &mut self,
        name: &Name,
        before: Option<&Value>,
        after: Option<&Value>,
    ) {
        if let Some(before) = before {
            for address in addresses(before) {
                self.addresses.remove(&address);
            }
            for port in ports(before) {
                self.ports.remove(&port);
            }
        }
        if let Some(after) = after {
            let addresses = addresses(after).into_iter();
            self.addresses
                .extend(addresses.map(|address| (address, name.clone())));
            self.ports
                .extend(ports(after).into_iter().map(|port| (port, name.clone())));
        }
    }
}

fn nth(network: IpNet, offset: u128) -> IpAddr {
    match network.network() {
        IpAddr::V4(first) => {
            let offset = u32::try_from(offset).unwrap_or_default();
            IpAddr::V4((u32::from(first).wrapping_add(offset)).into())
        }
        IpAddr::V6(first) => IpAddr::V6((u128::from(first).wrapping_add(offset)).into()),
    }
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let addresses = strings(service, "/spec/clusterIPs");
    addresses.iter().filter_map(|ip| ip.parse().ok()).collect()
}

fn ports(service: &Value) -> Vec<u16> {
    let ports = items(service, "/spec/ports").iter();
    let ports = ports.map(|port| number(port, "/nodePort"));
    let all = ports.chain([number(service, "/spec/healthCheckNodePort")]);
    all.filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .collect()
}
