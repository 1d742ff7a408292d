//! `v1` Pod; read from manifests only (item 1).

use std::net::IpAddr;

use lb_common::Protocol;
use serde::Deserialize;

use super::{Fields, Metadata, Object, SelectedPort, TargetPort};
use crate::source::lenient::{Lenient, List};

/// A Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    metadata: Lenient<Metadata>,
    spec: Lenient<Spec>,
    status: Lenient<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Lenient<String>,
    containers: List<Container>,
    init_containers: List<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    ports: List<ContainerPort>,
    restart_policy: Lenient<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    name: Lenient<String>,
    protocol: Lenient<String>,
    container_port: Lenient<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Lenient<String>,
    #[serde(rename = "podIP")]
    pod_ip: Lenient<String>,
    #[serde(rename = "podIPs")]
    pod_ips: List<PodIp>,
    conditions: List<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: Lenient<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: Lenient<String>,
    status: Lenient<String>,
}

/// A Pod as an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEndpoint {
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Its addresses; the first of each family.
    pub addrs: Vec<IpAddr>,
    /// The `Ready` condition; a Pod with addresses and without conditions is ready.
    pub ready: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Node that it runs on.
    pub node: Option<String>,
    /// Ports of its containers that have a name.
    pub named_ports: Vec<NamedPort>,
}

/// A container's port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Name.
    pub name: String,
    /// IP protocol number.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

impl PodEndpoint {
    /// Number of the port that a Service means; `None` if the Pod has no port of that name.
    pub fn resolve(&self, port: &SelectedPort) -> Option<u16> {
        match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let mut named = self.named_ports.iter();
                let found = named.find(|n| n.name == *name && n.protocol == port.protocol)?;
                Some(found.port)
            }
        }
    }

    /// Whether the Pod has a label.
    pub fn has_label(&self, key: &str, value: &str) -> bool {
        self.labels.iter().any(|(k, v)| k == key && v == value)
    }
}

impl Object for Pod {
    const KIND: &'static str = "Pod";
    type Model = PodEndpoint;

    fn metadata(&self) -> &Lenient<Metadata> {
        &self.metadata
    }

    /// Pods that have ended, or have no address yet, are no endpoints.
    fn convert(&self, fields: &mut Fields) -> Option<PodEndpoint> {
        let metadata = self.metadata.valid()?;
        let status = fields.read("status", &self.status)?;
        let phase = fields.read("status.phase", &status.phase);
        if phase.is_some_and(|phase| phase == "Failed" || phase == "Succeeded") {
            return None;
        }
        let addrs = status.addrs(fields);
        if addrs.is_empty() {
            return None;
        }
        let mut labels = Vec::new();
        let all = fields.read("metadata.labels", &metadata.labels);
        for (key, value) in all.into_iter().flatten() {
            let value = fields.read(format_args!("metadata.labels.{key}"), value);
            labels.extend(value.map(|value| (key.clone(), value.clone())));
        }
        let spec = fields.read("spec", &self.spec).cloned().unwrap_or_default();
        Some(PodEndpoint {
            labels,
            addrs,
            ready: status.is_ready(fields),
            terminating: metadata.deletion_timestamp.is_present(),
            node: fields.read("spec.nodeName", &spec.node_name).cloned(),
            named_ports: spec.named_ports(fields),
        })
    }
}

impl Status {
    fn addrs(&self, fields: &mut Fields) -> Vec<IpAddr> {
        let list = fields.list("status.podIPs", &self.pod_ips);
        let mut texts: Vec<(String, &Lenient<String>)> = list
            .into_iter()
            .map(|(i, pod_ip)| (format!("status.podIPs[{i}].ip"), &pod_ip.ip))
            .collect();
        if texts.is_empty() {
            texts.push(("status.podIP".to_owned(), &self.pod_ip));
        }
        let mut addrs: Vec<IpAddr> = Vec::new();
        for (field, text) in texts {
            let text = fields.read(&field, text).filter(|text| !text.is_empty());
            let addr = text.and_then(|text| fields.endpoint_address(field, text));
            addrs.extend(addr.filter(|a| addrs.iter().all(|b| a.is_ipv4() != b.is_ipv4())));
        }
        addrs
    }

    fn is_ready(&self, fields: &mut Fields) -> bool {
        if !self.conditions.is_present() {
            return true;
        }
        let conditions = fields.list("status.conditions", &self.conditions);
        let is = |field: &Lenient<String>, text: &str| field.valid().is_some_and(|f| f == text);
        conditions
            .iter()
            .any(|(_, condition)| is(&condition.kind, "Ready") && is(&condition.status, "True"))
    }
}

impl Spec {
    /// The named ports of the containers, and of init containers that go on running.
    fn named_ports(&self, fields: &mut Fields) -> Vec<NamedPort> {
        let mut named = Vec::new();
        for (i, container) in fields.list("spec.containers", &self.containers) {
            named.extend(container.named_ports(&format!("spec.containers[{i}]"), fields));
        }
        for (i, container) in fields.list("spec.initContainers", &self.init_containers) {
            if container
                .restart_policy
                .valid()
                .is_some_and(|policy| policy == "Always")
            {
                named.extend(container.named_ports(&format!("spec.initContainers[{i}]"), fields));
            }
        }
        named
    }
}

impl Container {
    fn named_ports(&self, at: &str, fields: &mut Fields) -> Vec<NamedPort> {
        let ports = fields.list(format_args!("{at}.ports"), &self.ports);
        ports
            .into_iter()
            .filter_map(|(i, port)| port.convert(&format!("{at}.ports[{i}]"), fields))
            .collect()
    }
}

impl ContainerPort {
    fn convert(&self, at: &str, fields: &mut Fields) -> Option<NamedPort> {
        let name = fields.read(format_args!("{at}.name"), &self.name)?;
        let protocol = fields.protocol(format_args!("{at}.protocol"), &self.protocol)?;
        let port = fields.port(format_args!("{at}.containerPort"), &self.container_port)?;
        Some(NamedPort {
            name: name.clone(),
            protocol,
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::objects::tests::{convert, convert_good};

    #[track_caller]
    fn check_ready(conditions: &str, expected: bool) {
        let yaml = format!(
            "{{metadata: {{name: p}}, status: {{podIPs: [{{ip: 10.0.0.1}}]{conditions}}}}}"
        );
        assert_eq!(convert_good::<Pod>(&yaml).ready, expected, "{conditions}");
    }

    #[test]
    fn readiness_is_the_ready_condition() {
        check_ready("", true);
        check_ready(", conditions: []", false);
        check_ready(", conditions: [{type: Initialized, status: 'True'}]", false);
        check_ready(", conditions: [{type: Ready, status: 'False'}]", false);
        check_ready(", conditions: [{type: Ready, status: 'True'}]", true);
    }

    #[test]
    fn pods_without_address_or_with_an_end_are_no_endpoints() {
        for status in [
            "{}",
            "{podIPs: []}",
            "{podIP: ''}",
            "{phase: Succeeded, podIP: 10.0.0.1}",
            "{phase: Failed, podIP: 10.0.0.1}",
        ] {
            let yaml = format!("{{metadata: {{name: p}}, status: {status}}}");
            assert_eq!(convert::<Pod>(&yaml), (None, Vec::new()), "{status}");
        }
    }

    #[test]
    fn a_pod_has_an_address_of_each_family() {
        let pod = convert_good::<Pod>(
            "{metadata: {name: p}, spec: {nodeName: node1},
              status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}, {ip: 10.0.0.2}]}}",
        );
        let expected: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(pod.addrs, expected);
        assert_eq!(pod.node.as_deref(), Some("node1"));
        assert!(!pod.terminating);
    }

    #[test]
    fn a_deleted_pod_is_terminating() {
        let yaml = "{metadata: {name: p, deletionTimestamp: 2026-01-01T00:00:00Z},
                     status: {podIP: 10.0.0.1}}";
        assert!(convert_good::<Pod>(yaml).terminating);
    }

    #[test]
    fn named_ports_come_from_containers_that_run() {
        let pod = convert_good::<Pod>(
            "
metadata: {name: p}
spec:
  initContainers:
  - {ports: [{name: once, containerPort: 1}]}
  - {restartPolicy: Always, ports: [{name: proxy, containerPort: 2}]}
  containers:
  - {ports: [{name: web, containerPort: 3}, {name: web, protocol: UDP, containerPort: 4}]}
  - {ports: [{containerPort: 5}]}
status: {podIP: 10.0.0.1}
",
        );
        let resolve = |name: &str, protocol| {
            pod.resolve(&SelectedPort {
                name: String::new(),
                protocol,
                target: TargetPort::Name(name.to_owned()),
            })
        };
        assert_eq!(resolve("web", lb_common::protocol::TCP), Some(3));
        assert_eq!(resolve("web", lb_common::protocol::UDP), Some(4));
        assert_eq!(resolve("proxy", lb_common::protocol::TCP), Some(2));
        assert_eq!(resolve("once", lb_common::protocol::TCP), None);
    }
}
