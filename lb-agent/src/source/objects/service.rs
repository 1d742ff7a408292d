//! `v1` Service.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use lb_common::Protocol;
use serde::Deserialize;

use super::{Fields, Metadata, Object};
use crate::{
    model::{self, Algorithm, ServiceKind, ServicePort, TrafficPolicy},
    source::{
        address,
        lenient::{Lenient, List, Strings},
    },
};

/// Session affinity lasts this long by default, in seconds (item 49).
const DEFAULT_AFFINITY_TIMEOUT_S: u32 = 10_800;
/// The API server accepts no longer affinity, in seconds.
const MAX_AFFINITY_TIMEOUT_S: i64 = 86_400;

/// Key of the annotation that says how a Service's backends are chosen.
pub const ALGORITHM: &str = "lb-agent.io/algorithm";

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    metadata: Lenient<Metadata>,
    spec: Lenient<Spec>,
    status: Lenient<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type")]
    kind: Lenient<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Lenient<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: List<String>,
    #[serde(rename = "externalIPs")]
    external_ips: List<String>,
    ports: List<Port>,
    selector: Strings,
    internal_traffic_policy: Lenient<String>,
    external_traffic_policy: Lenient<String>,
    session_affinity: Lenient<String>,
    session_affinity_config: Lenient<AffinityConfig>,
    load_balancer_source_ranges: List<String>,
    health_check_node_port: Lenient<i64>,
    publish_not_ready_addresses: Lenient<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    name: Lenient<String>,
    protocol: Lenient<String>,
    port: Lenient<i64>,
    target_port: Lenient<TargetPort>,
    node_port: Lenient<i64>,
}

/// Port of the pods, as a Service names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// By number; 0 means the Service's own port.
    Number(u16),
    /// By the name of a container's port.
    Name(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Lenient<ClientIpConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientIpConfig {
    timeout_seconds: Lenient<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    load_balancer: Lenient<LoadBalancer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: List<Ingress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ingress {
    ip: Lenient<String>,
    ip_mode: Lenient<String>,
}

/// What a Service with a selector asks of its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Labels that a pod must have, all of them; never empty.
    pub labels: BTreeMap<String, String>,
    /// Pods that are not ready count as ready.
    pub publish_not_ready: bool,
    /// The ports to find in each pod.
    pub ports: Vec<SelectedPort>,
}

/// A port of a Service, as its pods see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedPort {
    /// Name of the Service's port.
    pub name: String,
    /// IP protocol number.
    pub protocol: Protocol,
    /// Where the pods listen.
    pub target: TargetPort,
}

impl Object for Service {
    const KIND: &'static str = "Service";
    type Model = model::Service;

    fn metadata(&self) -> &Lenient<Metadata> {
        &self.metadata
    }

    fn convert(&self, fields: &mut Fields) -> Option<model::Service> {
        let spec = match fields.read("spec", &self.spec) {
            Some(spec) => spec,
            None if self.spec.is_present() => return None,
            None => &Spec::default(),
        };
        let kind = spec.kind(fields)?;
        let source_ranges = spec.source_ranges(fields);
        let ingress_ips = self.load_balancer_ips(fields);
        Some(model::Service {
            kind,
            cluster_ips: spec.cluster_ips(fields),
            external_ips: spec.external_ips(fields),
            // Without its filter an address would let in everyone.
            load_balancer_ips: source_ranges.as_ref().map_or(Vec::new(), |_| ingress_ips),
            ports: spec.ports(kind, fields),
            internal_policy: policy(
                "spec.internalTrafficPolicy",
                &spec.internal_traffic_policy,
                fields,
            ),
            external_policy: policy(
                "spec.externalTrafficPolicy",
                &spec.external_traffic_policy,
                fields,
            ),
            affinity_timeout_s: spec.affinity_timeout_s(fields),
            source_ranges: source_ranges.unwrap_or_default(),
            health_check_node_port: optional_port(
                "spec.healthCheckNodePort",
                &spec.health_check_node_port,
                fields,
            ),
            algorithm: self.algorithm(fields),
        })
    }
}

impl Service {
    /// Whether the Service is headless by its own word (`clusterIP: None`).
    pub fn is_headless(&self) -> bool {
        let spec = self.spec.valid();
        spec.and_then(|spec| spec.cluster_ip.valid())
            .is_some_and(|addr| addr == "None")
    }

    /// What the Service asks of its pods; `None` without a selector.
    ///
    /// Says nothing about wrong ports: the conversion of the Service has rejected them.
    pub fn selection(&self, fields: &mut Fields) -> Option<Selection> {
        let spec = self.spec.valid()?;
        let mut labels = BTreeMap::new();
        for (key, value) in fields.read("spec.selector", &spec.selector)? {
            // A selector that lost a label would select too many pods.
            let value = fields.read(format_args!("spec.selector.{key}"), value)?;
            labels.insert(key.clone(), value.clone());
        }
        if labels.is_empty() {
            return None;
        }
        let publish_not_ready = fields.read(
            "spec.publishNotReadyAddresses",
            &spec.publish_not_ready_addresses,
        );
        Some(Selection {
            labels,
            publish_not_ready: publish_not_ready.copied().unwrap_or(false),
            ports: spec.selected_ports(fields),
        })
    }

    /// What the annotation [`ALGORITHM`] asks for.
    fn algorithm(&self, fields: &mut Fields) -> Algorithm {
        let annotations = self
            .metadata
            .valid()
            .and_then(|metadata| metadata.annotations.valid());
        let wanted = annotations
            .and_then(|annotations| fields.read(annotation(ALGORITHM), &annotations.algorithm));
        match wanted.map(String::as_str) {
            None | Some("maglev") => Algorithm::Maglev,
            Some("random") => Algorithm::Random,
            Some(other) => {
                let reason = format!("`{other}`: use maglev or random; maglev is used");
                fields.reject(annotation(ALGORITHM), reason);
                Algorithm::Maglev
            }
        }
    }

    /// Addresses of the load balancer in VIP mode (item 23).
    fn load_balancer_ips(&self, fields: &mut Fields) -> Vec<IpAddr> {
        let mut addrs = Vec::new();
        let Some(balancer) = fields
            .read("status", &self.status)
            .and_then(|status| fields.read("status.loadBalancer", &status.load_balancer))
        else {
            return addrs;
        };
        for (i, ingress) in fields.list("status.loadBalancer.ingress", &balancer.ingress) {
            let field = format!("status.loadBalancer.ingress[{i}]");
            let Some(ip) = fields.read(format_args!("{field}.ip"), &ingress.ip) else {
                continue;
            };
            let mode = fields.read(format_args!("{field}.ipMode"), &ingress.ip_mode);
            if !ip.is_empty() && mode.is_none_or(|mode| mode == "VIP") {
                add_new(&mut addrs, fields.address(format_args!("{field}.ip"), ip));
            }
        }
        addrs
    }
}

/// The field that holds the annotation `key`.
fn annotation(key: &str) -> String {
    format!("metadata.annotations.{key}")
}

impl Spec {
    fn kind(&self, fields: &mut Fields) -> Option<ServiceKind> {
        if !self.kind.is_present() {
            return Some(ServiceKind::ClusterIp);
        }
        let kind = match fields.read("spec.type", &self.kind)?.as_str() {
            "ClusterIP" => ServiceKind::ClusterIp,
            "NodePort" => ServiceKind::NodePort,
            "LoadBalancer" => ServiceKind::LoadBalancer,
            "ExternalName" => ServiceKind::ExternalName,
            other => {
                let reason =
                    format!("`{other}`: use ClusterIP, NodePort, LoadBalancer or ExternalName");
                fields.reject("spec.type", reason);
                return None;
            }
        };
        Some(kind)
    }

    /// The first address of each family (item 67); empty for headless Services.
    fn cluster_ips(&self, fields: &mut Fields) -> Vec<IpAddr> {
        let first = fields.read("spec.clusterIP", &self.cluster_ip);
        if first.is_some_and(|addr| addr == "None") {
            return Vec::new();
        }
        let first = first.map(|addr| ("spec.clusterIP".to_owned(), addr));
        let list = fields.list("spec.clusterIPs", &self.cluster_ips);
        let list = list
            .into_iter()
            .map(|(i, addr)| (format!("spec.clusterIPs[{i}]"), addr));
        let mut addrs: Vec<IpAddr> = Vec::new();
        for (field, text) in first.into_iter().chain(list) {
            if text.is_empty() || text == "None" {
                continue;
            }
            let Some(addr) = fields.address(&field, text) else {
                continue;
            };
            match addrs.iter().find(|a| a.is_ipv4() == addr.is_ipv4()) {
                None => addrs.push(addr),
                Some(same) if *same == addr => {}
                Some(other) => {
                    fields.reject(
                        field,
                        format!("`{addr}`: {other} is the family's address already"),
                    );
                }
            }
        }
        addrs
    }

    fn external_ips(&self, fields: &mut Fields) -> Vec<IpAddr> {
        let mut addrs = Vec::new();
        for (i, text) in fields.list("spec.externalIPs", &self.external_ips) {
            let addr = fields.address(format_args!("spec.externalIPs[{i}]"), text);
            add_new(&mut addrs, addr);
        }
        addrs
    }

    fn ports(&self, kind: ServiceKind, fields: &mut Fields) -> Vec<ServicePort> {
        let ports = fields.list("spec.ports", &self.ports);
        ports
            .into_iter()
            .filter_map(|(i, port)| port.convert(&format!("spec.ports[{i}]"), kind, fields))
            .collect()
    }

    /// Ports whose numbers do not fit are left out, as they are from the Service itself.
    fn selected_ports(&self, fields: &mut Fields) -> Vec<SelectedPort> {
        let mut selected = Vec::new();
        for (i, port) in self.ports.valid().into_iter().flatten().enumerate() {
            let quiet = &mut Fields::new(Service::KIND, fields.name().clone());
            let Some(port) = port.valid() else { continue };
            let Some(converted) = port.convert("", ServiceKind::NodePort, quiet) else {
                continue;
            };
            let field = format!("spec.ports[{i}].targetPort");
            let target = match fields.read(&field, &port.target_port) {
                None if port.target_port.is_present() => continue,
                None | Some(TargetPort::Number(0)) => TargetPort::Number(converted.port),
                Some(TargetPort::Name(name)) if name.is_empty() => {
                    TargetPort::Number(converted.port)
                }
                Some(target) => target.clone(),
            };
            selected.push(SelectedPort {
                name: converted.name,
                protocol: converted.protocol,
                target,
            });
        }
        selected
    }

    fn affinity_timeout_s(&self, fields: &mut Fields) -> Option<u32> {
        let affinity = fields.read("spec.sessionAffinity", &self.session_affinity)?;
        match affinity.as_str() {
            "ClientIP" => {}
            "" | "None" => return None,
            other => {
                fields.reject(
                    "spec.sessionAffinity",
                    format!("`{other}`: use ClientIP or None"),
                );
                return None;
            }
        }
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let config = fields.read("spec.sessionAffinityConfig", &self.session_affinity_config);
        let config =
            config.and_then(|c| fields.read("spec.sessionAffinityConfig.clientIP", &c.client_ip));
        let timeout = config.and_then(|c| fields.read(field, &c.timeout_seconds));
        match timeout {
            None => Some(DEFAULT_AFFINITY_TIMEOUT_S),
            Some(timeout @ 1..=MAX_AFFINITY_TIMEOUT_S) => u32::try_from(*timeout).ok(),
            Some(timeout) => {
                let reason = format!(
                    "{timeout} is not from 1 to {MAX_AFFINITY_TIMEOUT_S}; {DEFAULT_AFFINITY_TIMEOUT_S} is used"
                );
                fields.reject(field, reason);
                Some(DEFAULT_AFFINITY_TIMEOUT_S)
            }
        }
    }

    /// The ranges, or `None` if one of them cannot be read: what it would have let in, or kept
    /// out, is not known.
    fn source_ranges(&self, fields: &mut Fields) -> Option<Vec<IpNet>> {
        let field = "spec.loadBalancerSourceRanges";
        if !self.load_balancer_source_ranges.is_present() {
            return Some(Vec::new());
        }
        let list = fields.read(field, &self.load_balancer_source_ranges)?;
        let mut ranges = Vec::with_capacity(list.len());
        for (i, text) in list.iter().enumerate() {
            let field = format!("{field}[{i}]");
            let text = fields.read(&field, text)?;
            let range = address::parse_net(text);
            if range.is_none() {
                let reason = format!(
                    "`{text}` is not an address prefix; the load balancer's addresses are not served"
                );
                fields.reject(field, reason);
            }
            ranges.push(range?);
        }
        Some(ranges)
    }
}

impl Port {
    fn convert(&self, at: &str, kind: ServiceKind, fields: &mut Fields) -> Option<ServicePort> {
        if !self.port.is_present() {
            fields.reject(format_args!("{at}.port"), "is missing");
        }
        let port = fields.port(format_args!("{at}.port"), &self.port)?;
        let protocol = fields.protocol(format_args!("{at}.protocol"), &self.protocol)?;
        // A port under another name would be joined with other endpoints.
        let name = match fields.read(format_args!("{at}.name"), &self.name) {
            Some(name) => name.clone(),
            None if self.name.is_present() => return None,
            None => String::new(),
        };
        let field = format!("{at}.nodePort");
        let mut node_port = optional_port(&field, &self.node_port, fields);
        let has_node_port = matches!(kind, ServiceKind::NodePort | ServiceKind::LoadBalancer);
        if node_port != 0 && !has_node_port {
            fields.reject(field, format!("a Service of type {kind} has none"));
            node_port = 0;
        }
        Some(ServicePort {
            name,
            protocol,
            port,
            node_port,
        })
    }
}

fn policy(field: &str, value: &Lenient<String>, fields: &mut Fields) -> TrafficPolicy {
    match fields.read(field, value).map(String::as_str) {
        Some("Local") => TrafficPolicy::Local,
        Some("Cluster" | "") | None => TrafficPolicy::Cluster,
        Some(other) => {
            fields.reject(field, format!("`{other}`: use Cluster or Local"));
            TrafficPolicy::Cluster
        }
    }
}

/// A port, or 0 for none.
fn optional_port(field: impl fmt::Display, value: &Lenient<i64>, fields: &mut Fields) -> u16 {
    match value {
        Lenient::Valid(0) => 0,
        value => fields.port(field, value).unwrap_or(0),
    }
}

fn add_new(addrs: &mut Vec<IpAddr>, addr: Option<IpAddr>) {
    addrs.extend(addr.filter(|addr| !addrs.contains(addr)));
}

#[cfg(test)]
mod tests;
