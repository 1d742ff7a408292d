//! Which endpoints serve a Service port (SEMANTICS B).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::Protocol;

use crate::model::{Endpoint, Slice};

/// An endpoint of one Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) local: bool,
}

/// Endpoints of one Service port by address and port.
pub(super) type Candidates = BTreeMap<(IpAddr, u16), Candidate>;

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
) -> Candidates {
    let mut found = Candidates::new();
    for slice in slices {
        let ports: BTreeSet<u16> = slice
            .ports
            .iter()
            .filter(|port| port.name == name && port.protocol == protocol && port.port != 0)
            .map(|port| port.port)
            .collect();
        for endpoint in slice.endpoints.iter().filter(|e| e.addr.is_ipv4() == is_v4) {
            for port in &ports {
                add(
                    &mut found,
                    (endpoint.addr, *port),
                    candidate(endpoint, node),
                );
            }
        }
    }
    found
}

fn candidate(endpoint: &Endpoint, node: &str) -> Candidate {
    Candidate {
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        local: endpoint.node.as_deref() == Some(node),
    }
}

fn add(found: &mut Candidates, key: (IpAddr, u16), candidate: Candidate) {
    let known = found.entry(key).or_insert_with(|| candidate.clone());
    if known.terminating && !candidate.terminating {
        *known = candidate;
    }
}

/// Ready endpoints; if there is none anywhere, those that serve while they terminate (item 13).
pub(super) fn cluster_set(candidates: &Candidates) -> BTreeSet<(IpAddr, u16)> {
    choose(candidates, |_| true)
}

/// The same among this node's endpoints, independently of the others (item 14).
pub(super) fn local_set(candidates: &Candidates) -> BTreeSet<(IpAddr, u16)> {
    choose(candidates, |candidate| candidate.local)
}

fn choose(
    candidates: &Candidates,
    eligible: impl Fn(&Candidate) -> bool,
) -> BTreeSet<(IpAddr, u16)> {
    let select = |wanted: &dyn Fn(&Candidate) -> bool| -> BTreeSet<_> {
        candidates
            .iter()
            .filter(|(_, c)| eligible(c) && wanted(c))
            .map(|(key, _)| *key)
            .collect()
    };
    let ready = select(&|c| c.ready);
    if ready.is_empty() {
        select(&|c| c.serving && c.terminating)
    } else {
        ready
    }
}

/// Whether it may serve clients somewhere, if not here (item 16).
pub(super) fn is_usable(candidate: &Candidate) -> bool {
    candidate.ready || candidate.serving && candidate.terminating
}

/// Whether packets may be sent to this address on a Service's behalf. A slice that anybody with
/// rights in a namespace may write must not reach the node itself (CVE-2021-25737).
pub(super) fn is_allowed(addr: IpAddr) -> bool {
    let link_local = match addr {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: u8 = 1;
    const SERVING: u8 = 2;
    const TERMINATING: u8 = 4;
    const LOCAL: u8 = 8;

    #[track_caller]
    fn check(endpoints: &[u8], cluster: &[u8], local: &[u8]) {
        let candidates: Candidates = endpoints
            .iter()
            .zip(1..)
            .map(|(bits, last)| {
                let candidate = Candidate {
                    ready: bits & READY != 0,
                    serving: bits & SERVING != 0,
                    terminating: bits & TERMINATING != 0,
                    local: bits & LOCAL != 0,
                };
                ((IpAddr::from([10, 0, 0, last]), 80), candidate)
            })
            .collect();
        let set = |lasts: &[u8]| -> BTreeSet<_> {
            lasts
                .iter()
                .map(|last| (IpAddr::from([10, 0, 0, *last]), 80))
                .collect()
        };
        assert_eq!(cluster_set(&candidates), set(cluster), "cluster set");
        assert_eq!(local_set(&candidates), set(local), "local set");
    }

    #[test]
    fn s13_cluster_set_is_the_ready_endpoints() {
        check(&[READY | SERVING, SERVING, 0], &[1], &[]);
    }

    #[test]
    fn s13_cluster_set_falls_back_to_serving_terminating() {
        check(&[SERVING | TERMINATING, TERMINATING, SERVING], &[1], &[]);
    }

    #[test]
    fn s14_local_set_falls_back_independently_of_the_cluster_set() {
        check(
            &[READY | SERVING, LOCAL | SERVING | TERMINATING],
            &[1],
            &[2],
        );
    }

    #[test]
    fn s10_a_ready_endpoint_counts_though_it_terminates() {
        // publishNotReadyAddresses: the controller says ready of terminating pods.
        check(&[READY | SERVING | TERMINATING | LOCAL], &[1], &[1]);
    }

    #[test]
    fn s8_of_two_mentions_the_one_that_is_not_terminating_wins() {
        let endpoint = |terminating: bool| Endpoint {
            addr: [10, 0, 0, 1].into(),
            ready: !terminating,
            serving: true,
            terminating,
            node: None,
            for_zones: BTreeSet::new(),
            for_nodes: BTreeSet::new(),
        };
        let slice = |terminating| Slice {
            ports: vec![crate::model::SlicePort {
                name: "web".into(),
                protocol: 6,
                port: 8000,
            }],
            endpoints: vec![endpoint(terminating)],
            triggered: None,
        };
        for order in [[true, false], [false, true]] {
            let slices = order.map(slice);
            let found = candidates(&slices, "web", 6, true, "node1");
            assert_eq!(found.len(), 1);
            assert!(found.values().all(|c| !c.terminating));
        }
    }
}
