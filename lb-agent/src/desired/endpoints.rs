//! Which endpoints serve a Service port (SEMANTICS B).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{Protocol, backend::sets};

use super::{NodeView, Scope};
use crate::model::{Endpoint, Names, Slice};

/// An endpoint of one Service port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// Whether it says that it is on this node (item 9).
    pub(super) local: bool,
}

/// Endpoints of one Service port by address and port.
pub(super) type Candidates<'a> = BTreeMap<(IpAddr, u16), Candidate<'a>>;

/// The endpoints that serve the port `name` in one family, from all slices of the Service.
///
/// Joined by port name and protocol (item 7). An endpoint that stands in several slices counts
/// once, as the one that is not terminating (item 8).
pub(super) fn candidates<'a>(
    slices: impl IntoIterator<Item = &'a Slice>,
    name: &str,
    protocol: Protocol,
    is_v4: bool,
    node: &str,
) -> Candidates<'a> {
    let mut found = Candidates::new();
    for slice in slices {
        let ports: BTreeSet<u16> = slice
            .ports
            .iter()
            .filter(|port| port.name == name && port.protocol == protocol && port.port != 0)
            .map(|port| port.port)
            .collect();
        for endpoint in slice.endpoints.iter().filter(|e| e.addr.is_ipv4() == is_v4) {
            let local = endpoint.node.as_deref() == Some(node);
            for port in &ports {
                let key = (endpoint.addr, *port);
                add(&mut found, key, Candidate { endpoint, local });
            }
        }
    }
    found
}

fn add<'a>(found: &mut Candidates<'a>, key: (IpAddr, u16), candidate: Candidate<'a>) {
    let known = found.entry(key).or_insert(candidate);
    if known.endpoint.terminating && !candidate.endpoint.terminating {
        *known = candidate;
    }
}

impl Candidate<'_> {
    fn is_ready(&self) -> bool {
        self.endpoint.ready
    }

    /// Whether it may serve where nobody is ready.
    fn is_last_resort(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating
    }

    /// Whether it may serve clients somewhere, if not here (item 16).
    pub(super) fn is_usable(&self) -> bool {
        self.is_ready() || self.is_last_resort()
    }
}

/// The sets that endpoints are in, by address and port, as bits of `lb_common::backend::sets`. A
/// set that no client uses has no endpoints (item 15).
pub(super) fn memberships(
    found: &Candidates<'_>,
    used: &BTreeSet<Scope>,
    node: &NodeView,
) -> BTreeMap<(IpAddr, u16), u8> {
    let mut members = BTreeMap::new();
    let mut join = |set, keys: Vec<&(IpAddr, u16)>| {
        for key in keys {
            *members.entry(*key).or_insert(0) |= set;
        }
    };
    if used.contains(&Scope::Cluster) {
        join(sets::CLUSTER, cluster_set(found, node));
    }
    if used.contains(&Scope::Local) {
        join(sets::LOCAL, local_set(found));
    }
    members
}

/// Ready endpoints that are meant for this node; if there is no ready one anywhere, those that
/// serve while they terminate (item 13).
fn cluster_set<'f>(found: &'f Candidates<'_>, node: &NodeView) -> Vec<&'f (IpAddr, u16)> {
    let preference = Preference::new(found, node);
    let is_meant = |c: &Candidate<'_>| c.is_ready() && preference.allows(c);
    let ready = select(found, is_meant);
    if ready.is_empty() {
        select(found, |c| c.is_last_resort())
    } else {
        ready
    }
}

/// The same among this node's endpoints, independently of the others and of hints (item 14).
fn local_set<'f>(found: &'f Candidates<'_>) -> Vec<&'f (IpAddr, u16)> {
    let ready = select(found, |c| c.local && c.is_ready());
    if ready.is_empty() {
        select(found, |c| c.local && c.is_last_resort())
    } else {
        ready
    }
}

fn select<'f>(
    found: &'f Candidates<'_>,
    wanted: impl Fn(&Candidate<'_>) -> bool,
) -> Vec<&'f (IpAddr, u16)> {
    let wanted = found.iter().filter(|(_, candidate)| wanted(candidate));
    wanted.map(|(key, _)| key).collect()
}

/// Whom the hints of the ready endpoints mean for this node (item 17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preference<'a> {
    /// Those with this node's name.
    SameNode(&'a str),
    /// Those with this node's zone.
    SameZone(&'a str),
    /// Everybody: not all have hints, or none of them is for us.
    None,
}

impl<'a> Preference<'a> {
    fn new(found: &Candidates<'_>, node: &'a NodeView) -> Self {
        let ready = || found.values().filter(|c| c.is_ready()).map(|c| c.endpoint);
        let all_say = |hints: fn(&Endpoint) -> &Names, ours: &str| {
            ready().all(|endpoint| !hints(endpoint).is_empty())
                && ready().any(|endpoint| hints(endpoint).contains(ours))
        };
        if all_say(|endpoint| &endpoint.for_nodes, &node.name) {
            return Self::SameNode(&node.name);
        }
        match node.zone.as_deref() {
            Some(zone) if all_say(|endpoint| &endpoint.for_zones, zone) => Self::SameZone(zone),
            _ => Self::None,
        }
    }

    fn allows(self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::SameNode(name) => candidate.endpoint.for_nodes.contains(name),
            Self::SameZone(zone) => candidate.endpoint.for_zones.contains(zone),
            Self::None => true,
        }
    }
}

/// Whether packets may be sent to this address on a Service's behalf. A slice that anybody with
/// rights in a namespace may write must not reach the node itself (CVE-2021-25737).
#[must_use]
pub fn is_allowed(addr: IpAddr) -> bool {
    let link_local = match addr {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() || link_local)
}

#[cfg(test)]
mod tests;
