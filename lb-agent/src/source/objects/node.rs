//! `v1` Node.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::{Fields, Metadata, Object};
use crate::{
    model,
    source::lenient::{Lenient, List},
};

/// Label of the zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The cluster autoscaler taints a node with it before it removes the node (item 55).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    metadata: Lenient<Metadata>,
    spec: Lenient<Spec>,
    status: Lenient<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Lenient<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: List<String>,
    taints: List<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: Lenient<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: List<Address>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: Lenient<String>,
    address: Lenient<String>,
}

impl Object for Node {
    const KIND: &'static str = "Node";
    type Model = model::Node;

    fn metadata(&self) -> &Lenient<Metadata> {
        &self.metadata
    }

    fn convert(&self, fields: &mut Fields) -> Option<model::Node> {
        let metadata = self.metadata.valid()?;
        let spec = fields.read("spec", &self.spec).cloned().unwrap_or_default();
        let taints = fields.list("spec.taints", &spec.taints);
        let mut keys = taints.iter().filter_map(|(_, taint)| taint.key.valid());
        Some(model::Node {
            internal_ips: self.internal_ips(fields),
            zone: metadata
                .label(ZONE)
                .filter(|zone| !zone.is_empty())
                .map(str::to_owned),
            pod_cidrs: spec.pod_cidrs(fields),
            eligible: !metadata.deletion_timestamp.is_present()
                && !keys.any(|key| key == TO_BE_DELETED),
        })
    }
}

impl Node {
    fn internal_ips(&self, fields: &mut Fields) -> Vec<IpAddr> {
        let Some(status) = fields.read("status", &self.status) else {
            return Vec::new();
        };
        let mut addrs = Vec::new();
        for (i, address) in fields.list("status.addresses", &status.addresses) {
            if address.kind.valid().is_none_or(|kind| kind != "InternalIP") {
                continue;
            }
            let field = format!("status.addresses[{i}].address");
            let text = fields.read(&field, &address.address);
            addrs.extend(text.and_then(|text| fields.address(field, text)));
        }
        addrs
    }
}

impl Spec {
    fn pod_cidrs(&self, fields: &mut Fields) -> Vec<IpNet> {
        let list = fields.list("spec.podCIDRs", &self.pod_cidrs);
        let mut texts: Vec<(String, &str)> = list
            .into_iter()
            .map(|(i, text)| (format!("spec.podCIDRs[{i}]"), text.as_str()))
            .collect();
        if texts.is_empty() {
            let first = fields.read("spec.podCIDR", &self.pod_cidr);
            let first = first.filter(|text| !text.is_empty());
            texts.extend(first.map(|text| ("spec.podCIDR".to_owned(), text.as_str())));
        }
        texts
            .into_iter()
            .filter_map(|(field, text)| fields.net(field, text))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::objects::tests::{convert, convert_good};

    #[test]
    fn a_node_has_addresses_zone_and_pod_ranges() {
        let node = convert_good::<Node>(
            "
metadata: {name: node1, labels: {topology.kubernetes.io/zone: a}}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:10:244:1::/64']}
status:
  addresses:
  - {type: InternalIP, address: 10.88.0.2}
  - {type: InternalIP, address: 'fd00:88::2'}
  - {type: ExternalIP, address: 203.0.113.2}
  - {type: Hostname, address: node1}
",
        );
        let expected = model::Node {
            internal_ips: vec!["10.88.0.2".parse().unwrap(), "fd00:88::2".parse().unwrap()],
            zone: Some("a".to_owned()),
            pod_cidrs: vec![
                "10.244.1.0/24".parse().unwrap(),
                "fd00:10:244:1::/64".parse().unwrap(),
            ],
            eligible: true,
        };
        assert_eq!(node, expected);
    }

    #[test]
    fn a_node_about_to_go_is_not_eligible() {
        for (yaml, eligible) in [
            ("{metadata: {name: n}}", true),
            (
                "{metadata: {name: n, deletionTimestamp: '2026-01-01T00:00:00Z'}}",
                false,
            ),
            (
                "{metadata: {name: n}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler}]}}",
                false,
            ),
            (
                "{metadata: {name: n}, spec: {taints: [{key: node.kubernetes.io/not-ready}]}}",
                true,
            ),
        ] {
            assert_eq!(convert_good::<Node>(yaml).eligible, eligible, "{yaml}");
        }
    }

    #[test]
    fn a_single_pod_range_is_enough() {
        let node = convert_good::<Node>("{metadata: {name: n}, spec: {podCIDR: 10.0.0.0/24}}");
        assert_eq!(node.pod_cidrs, ["10.0.0.0/24".parse().unwrap()]);
    }

    #[test]
    fn bad_fields_cost_themselves_only() {
        let (node, rejections) = convert::<Node>(
            "
metadata: {name: n, labels: {topology.kubernetes.io/zone: b}}
spec: {podCIDRs: [10.0.0.0/99, 10.1.0.0/16]}
status: {addresses: [{type: InternalIP, address: x}, 7, {type: InternalIP, address: 10.0.0.1}]}
",
        );
        let node = node.unwrap();
        assert_eq!((node.internal_ips.len(), node.pod_cidrs.len()), (1, 1));
        assert_eq!(rejections.len(), 3, "{rejections:?}");
    }
}
