//! Endpoints of a Service from the Pods that it selects.

use std::net::IpAddr;

use crate::{
    model::{Endpoint, Service, Slice, SlicePort},
    source::objects::{PodEndpoint, Selection},
};

/// The slices that a cluster's controller would make for a Service called `name`.
///
/// One for each family of the Service and each set of port numbers: a named port may be another
/// number in another Pod (item 7). They are called after the Service and the family, and counted
/// from the second of a family on.
pub(super) fn slices<'a>(
    name: &str,
    service: &Service,
    selection: &Selection,
    pods: impl Iterator<Item = &'a PodEndpoint>,
) -> Vec<(String, Slice)> {
    let has_family = |addr: &&IpAddr| {
        let mut vips = service.cluster_ips.iter();
        vips.any(|vip| vip.is_ipv4() == addr.is_ipv4())
    };
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for pod in pods.filter(|pod| is_selected(pod, selection)) {
        let ports = resolve(pod, selection);
        for addr in pod.addrs.iter().filter(has_family) {
            let slices = if addr.is_ipv4() { &mut v4 } else { &mut v6 };
            add(slices, &ports, endpoint(pod, *addr, selection));
        }
    }
    let name_all = |family: &'static str, slices: Vec<Slice>| {
        slices
            .into_iter()
            .enumerate()
            .map(move |(index, slice)| match index {
                0 => (format!("{name}-{family}"), slice),
                _ => (format!("{name}-{family}-{}", index + 1), slice),
            })
    };
    name_all("ipv4", v4).chain(name_all("ipv6", v6)).collect()
}

fn is_selected(pod: &PodEndpoint, selection: &Selection) -> bool {
    let mut labels = selection.labels.iter();
    labels.all(|(key, value)| pod.has_label(key, value))
}

/// The Service's ports as the Pod numbers them, without those that it does not have.
fn resolve(pod: &PodEndpoint, selection: &Selection) -> Vec<SlicePort> {
    let ports = selection.ports.iter();
    ports
        .filter_map(|port| {
            Some(SlicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: pod.resolve(port)?,
            })
        })
        .collect()
}

/// Puts an endpoint into the slice that has its ports; an endpoint without ports is of no use.
fn add(slices: &mut Vec<Slice>, ports: &[SlicePort], endpoint: Endpoint) {
    if ports.is_empty() {
        return;
    }
    match slices.iter_mut().find(|slice| slice.ports == ports) {
        Some(slice) => slice.endpoints.push(endpoint),
        None => slices.push(Slice {
            triggered: None,
            ports: ports.to_vec(),
            endpoints: vec![endpoint],
        }),
    }
}

fn endpoint(pod: &PodEndpoint, addr: IpAddr, selection: &Selection) -> Endpoint {
    Endpoint {
        addr,
        // For a terminating Pod, too (item 10).
        ready: selection.publish_not_ready || (pod.ready && !pod.terminating),
        serving: pod.ready,
        terminating: pod.terminating,
        node: pod.node.as_deref().map(Into::into),
        for_zones: Default::default(),
        for_nodes: Default::default(),
    }
}
