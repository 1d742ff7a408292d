//! What the API server makes of a Service before it stores it.
//!
//! Defaults, what an update leaves out and keeps, what a change of type drops, address
//! families, then addresses and ports out of the [`Allocations`].

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::kind::Kind;
use super::object::{Name, default, is_unset, items, number, object_mut, strings, text};
use super::status::{Cause, Status};

mod allocations;
mod families;
mod transition;
mod validate;

pub(super) use self::allocations::Allocations;
pub use self::allocations::NODE_PORTS;

/// Seconds that a client stays with its endpoint.
const AFFINITY_TIMEOUT: u64 = 10_800;

/// Makes `new` what is stored, if it may be.
pub(super) fn prepare(
    new: &mut Value,
    old: Option<&Value>,
    allocations: &mut Allocations,
) -> Result<(), Status> {
    let name = Name::of(new);
    let invalid = |causes: Vec<Cause>| Status::invalid(Kind::Service, &name.name, &causes);
    set_defaults(new);
    if let Some(old) = old {
        transition::keep_allocated(new, old);
        transition::drop_unneeded(new, old);
    }
    if new["status"].pointer("/loadBalancer").is_none() || text(new, "/spec/type") != "LoadBalancer"
    {
        new["status"] = json!({"loadBalancer": {}});
    }
    validate::check(new, old).map_err(invalid)?;
    families::settle(new, old, allocations.networks()).map_err(|cause| invalid(vec![cause]))?;
    allocate_addresses(new, &name, allocations).map_err(|cause| invalid(vec![cause]))?;
    allocate_ports(new, &name, allocations).map_err(|cause| invalid(vec![cause]))
}

/// Whether the Service has a cluster address, if it is not headless.
fn needs_address(service: &Value) -> bool {
    text(service, "/spec/type") != "ExternalName"
}

fn is_headless(service: &Value) -> bool {
    needs_address(service) && text(service, "/spec/clusterIP") == "None"
}

fn needs_node_ports(service: &Value) -> bool {
    match text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => {
            service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&json!(false))
        }
        _ => false,
    }
}

fn needs_health_port(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer"
        && text(service, "/spec/externalTrafficPolicy") == "Local"
}

/// Whether clients outside of the cluster may reach it.
fn is_external(service: &Value) -> bool {
    match text(service, "/spec/type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !items(service, "/spec/externalIPs").is_empty(),
        _ => false,
    }
}

fn set_defaults(service: &mut Value) {
    let spec = object_mut(service, "spec");
    spec.retain(|_, value| !value.is_null());
    default(spec, "sessionAffinity", "None");
    default(spec, "type", "ClusterIP");
    match spec["sessionAffinity"].as_str() {
        Some("None") => drop(spec.remove("sessionAffinityConfig")),
        Some("ClientIP") if is_unset(spec.get("sessionAffinityConfig")) => {
            let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_TIMEOUT}});
            spec.insert("sessionAffinityConfig".to_owned(), config);
        }
        _ => {}
    }
    for port in ports_mut(spec) {
        default(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        default(port, "targetPort", number);
    }
    if spec["type"] == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if spec["type"] != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if is_external(service) {
        default(
            object_mut(service, "spec"),
            "externalTrafficPolicy",
            "Cluster",
        );
    }
}

fn ports_mut(spec: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    ports.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn allocate_addresses(
    service: &mut Value,
    name: &Name,
    allocations: &mut Allocations,
) -> Result<(), Cause> {
    if !needs_address(service) || is_headless(service) {
        return Ok(());
    }
    let mut addresses = strings(service, "/spec/clusterIPs");
    for address in addresses.iter().filter_map(|ip| ip.parse().ok()) {
        allocations
            .may_have_address(address, name)
            .map_err(|detail| Cause::invalid("spec.clusterIPs", &json!(addresses), &detail))?;
    }
    for family in strings(service, "/spec/ipFamilies")
        .iter()
        .skip(addresses.len())
    {
        let address: IpAddr = allocations
            .free_address(family == "IPv4")
            .ok_or_else(|| Cause::invalid("spec.clusterIPs", &json!([]), "range is full"))?;
        addresses.push(address.to_string());
    }
    let spec = object_mut(service, "spec");
    spec.insert("clusterIP".to_owned(), json!(addresses.first()));
    spec.insert("clusterIPs".to_owned(), json!(addresses));
    Ok(())
}

fn allocate_ports(
    service: &mut Value,
    name: &Name,
    allocations: &mut Allocations,
) -> Result<(), Cause> {
    let asked = items(service, "/spec/ports").iter().enumerate();
    let asked = asked.map(|(i, port)| {
        (
            format!("spec.ports[{i}].nodePort"),
            number(port, "/nodePort"),
        )
    });
    let health = (
        "spec.healthCheckNodePort".to_owned(),
        number(service, "/spec/healthCheckNodePort"),
    );
    let asked: Vec<_> = asked
        .chain([health])
        .filter(|(_, port)| *port != 0)
        .collect();
    let mut taken = Vec::new();
    for (field, port) in asked {
        let number = u16::try_from(port).unwrap_or(u16::MAX);
        allocations
            .may_have_port(number, name)
            .map_err(|detail| Cause::invalid(&field, &json!(port), &detail))?;
        taken.push(number);
    }
    let full = || Cause::invalid("spec.ports", &json!(0), "range is full");
    if needs_node_ports(service) {
        for index in 0..items(service, "/spec/ports").len() {
            let port = &service["spec"]["ports"][index];
            if number(port, "/nodePort") != 0 {
                continue;
            }
            let sibling = sibling_port(service, port);
            let port =
                sibling.map_or_else(|| allocations.free_port(&taken).ok_or_else(full), Ok)?;
            taken.push(port);
            service["spec"]["ports"][index]["nodePort"] = json!(port);
        }
    }
    if needs_health_port(service) && number(service, "/spec/healthCheckNodePort") == 0 {
        let port = allocations.free_port(&taken).ok_or_else(full)?;
        service["spec"]["healthCheckNodePort"] = json!(port);
    }
    Ok(())
}

/// The node port of the same port with another protocol, if this protocol is free there.
fn sibling_port(service: &Value, port: &Value) -> Option<u16> {
    let ports = || items(service, "/spec/ports").iter();
    let sibling = ports()
        .filter(|other| other["port"] == port["port"] && other["protocol"] != port["protocol"])
        .map(|other| number(other, "/nodePort"))
        .find(|port| *port != 0)?;
    let is_free = !ports().any(|other| {
        number(other, "/nodePort") == sibling && other["protocol"] == port["protocol"]
    });
    is_free.then(|| u16::try_from(sibling).ok())?
}

#[cfg(test)]
mod tests;
