//! What a cluster has before anybody has made anything.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde_json::json;

use super::store::{Kind, Status, Store};

const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Makes the namespaces, the networks of cluster addresses, and the server's own Service.
pub(super) fn plant(
    store: &mut Store,
    address: SocketAddr,
    networks: &[String],
) -> Result<(), Status> {
    let now = Timestamp::now();
    for name in NAMESPACES {
        let labels = json!({"kubernetes.io/metadata.name": name});
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        store.create(Kind::Namespace, namespace, now)?;
    }
    let ready = json!({"type": "Ready", "status": "True", "reason": "",
        "message": "Kubernetes Service CIDR is ready"});
    let cidrs = json!({
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": networks},
        "status": {"conditions": [ready]},
    });
    store.create(Kind::ServiceCidr, cidrs, now)?;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let port = json!({"name": "https", "port": 443, "targetPort": address.port()});
    let mut service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {"ports": [port]},
    });
    // The first address of the network, if it is the usual one.
    if networks
        .first()
        .is_some_and(|network| network == "10.96.0.0/16")
    {
        service["spec"]["clusterIP"] = json!("10.96.0.1");
    }
    store.create(Kind::Service, service, now)?;
    let ip = address.ip();
    if ip.is_loopback() || ip.is_unspecified() {
        // No slice may name such an address.
        return Ok(());
    }
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": address.port()}],
    });
    store.create(Kind::EndpointSlice, slice, now)?;
    Ok(())
}
