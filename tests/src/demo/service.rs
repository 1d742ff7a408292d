//! The Service of the documents' example, and the manifests of its Pods.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use lb_common::{FrontendKey, protocol};
use serde::Deserialize;

use crate::lab::{Place as _, Pod};
use crate::tool::Protocol;

/// The example, which the demo takes the Service of: its Pods have addresses of their own here.
const EXAMPLE: &str = include_str!("../../../docs/examples/alpaca-prod.yaml");
/// What stands between two documents.
const NEXT_DOCUMENT: &str = "\n---\n";

/// A Service, as far as the demo speaks of it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Service {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: [IpAddr; 2],
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    protocol: String,
    port: u16,
    target_port: u16,
    node_port: u16,
}

impl Service {
    /// Reads the example.
    pub(super) fn read() -> Result<Self> {
        let service: Self =
            serde_saphyr::from_str(document()).context("read the example's Service")?;
        service.spec.ports.first().context("it has no port")?;
        Ok(service)
    }

    pub(super) fn name(&self) -> &str {
        &self.metadata.name
    }

    pub(super) fn kind(&self) -> &str {
        &self.spec.kind
    }

    /// What clients in the cluster dial: IPv4, then IPv6.
    pub(super) fn cluster_addresses(&self) -> [SocketAddr; 2] {
        let port = self.spec.ports[0].port;
        self.spec.cluster_ips.map(|ip| SocketAddr::new(ip, port))
    }

    /// The port that the pods listen on.
    pub(super) fn target_port(&self) -> u16 {
        self.spec.ports[0].target_port
    }

    /// The port on every node.
    pub(super) fn node_port(&self) -> u16 {
        self.spec.ports[0].node_port
    }

    /// The ports, as `kubectl` writes them, one a line.
    pub(super) fn ports(&self) -> String {
        let ports = self.spec.ports.iter();
        let texts = ports.map(|port| format!("{}:{}/{}", port.port, port.node_port, port.protocol));
        texts.collect::<Vec<_>>().join("\n")
    }

    /// How many backends a pod is, in the maps of a node: one for each port and family.
    pub(super) fn backends_per_pod(&self) -> usize {
        self.spec.ports.len() * self.spec.cluster_ips.len()
    }

    /// The keys of the cluster addresses in the map `FRONTENDS`.
    pub(super) fn frontend_keys(&self) -> Vec<FrontendKey> {
        let pairs = Self::over_all(self.cluster_addresses());
        let key = |(protocol, to): (Protocol, SocketAddr)| {
            let number = match protocol {
                Protocol::Tcp => protocol::TCP,
                Protocol::Udp => protocol::UDP,
            };
            FrontendKey::new(to.ip().into(), to.port(), number)
        };
        pairs.map(key).collect()
    }

    /// Both protocols to both addresses.
    pub(super) fn over_all(
        addresses: [SocketAddr; 2],
    ) -> impl Iterator<Item = (Protocol, SocketAddr)> {
        let both = move |to| Protocol::ALL.map(|protocol| (protocol, to));
        addresses.into_iter().flat_map(both)
    }
}

/// The example's Service, in YAML.
pub(super) fn document() -> &'static str {
    EXAMPLE
        .split_once(NEXT_DOCUMENT)
        .map_or(EXAMPLE, |(service, _)| service)
}

/// What a Pod's manifest says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is to get requests.
    Ready,
    /// It is being deleted, and still there.
    Terminating,
}

/// The manifests of the Service and of its Pods.
pub(super) fn manifests<'a>(pods: impl Iterator<Item = (&'a Pod, State)>) -> String {
    let mut text = document().to_owned();
    for (pod, state) in pods {
        text += NEXT_DOCUMENT;
        text += &pod_manifest(pod, state);
    }
    text.push('\n');
    text
}

/// The manifest of a Pod.
pub(super) fn pod_manifest(pod: &Pod, state: State) -> String {
    let deletion = match state {
        State::Ready => "",
        State::Terminating => "\n  deletionTimestamp: 2026-01-01T00:00:00Z",
    };
    let [v4, v6] = pod.addresses();
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {}
  labels: {{app: alpaca, env: prod}}{deletion}
spec:
  nodeName: {}
  containers: [{{name: alpaca, image: alpaca}}]
status:
  phase: Running
  podIP: {v4}
  podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]
  conditions: [{{type: Ready, status: \"True\"}}]",
        pod.name(),
        pod.node().name(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_what_the_demo_speaks_of() {
        let service = Service::read().unwrap();
        assert_eq!(service.name(), "alpaca-prod");
        assert_eq!(service.node_port(), 30366);
        let [v4, v6] = service.cluster_addresses();
        assert_eq!(v4, "10.96.0.17:8000".parse().unwrap());
        assert_eq!(v6, "[fd00:10:96::11]:8000".parse().unwrap());
        assert_eq!(service.backends_per_pod(), 4);
    }
}
