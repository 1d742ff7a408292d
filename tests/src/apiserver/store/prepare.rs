//! Defaults and checks, kind by kind.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Kind;
use super::object::{Name, default, fields_mut, items, object_mut, strings, text};
use super::service::{self, Allocations};
use super::status::{Cause, Status};

/// Endpoints that a slice may have.
const MAX_ENDPOINTS: usize = 1000;

/// Makes `new` what is stored, if it may be.
pub(super) fn prepare(
    kind: Kind,
    new: &mut Value,
    old: Option<&Value>,
    allocations: &mut Allocations,
) -> Result<(), Status> {
    match kind {
        Kind::Service => service::prepare(new, old, allocations),
        Kind::EndpointSlice => slice(new, old),
        Kind::Pod => {
            pod(new);
            Ok(())
        }
        Kind::Deployment => {
            deployment(new);
            Ok(())
        }
        Kind::Namespace => {
            default(object_mut(new, "status"), "phase", "Active");
            Ok(())
        }
        Kind::Node | Kind::Event | Kind::ServiceCidr => Ok(()),
    }
}

fn slice(new: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let fields = fields_mut(new);
    for key in ["endpoints", "ports"] {
        fields.entry(key).or_insert_with(|| json!([]));
    }
    let ports = fields.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().map(fields_mut) {
        port.entry("name").or_insert_with(|| json!(""));
        default(port, "protocol", "TCP");
    }
    let mut causes = Vec::new();
    let family = text(new, "/addressType");
    if family.is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else if !["FQDN", "IPv4", "IPv6"].contains(&family) {
        causes.push(Cause::unsupported(
            "addressType",
            family,
            &["FQDN", "IPv4", "IPv6"],
        ));
    }
    if let Some(old) = old
        && old["addressType"] != new["addressType"]
    {
        causes.push(Cause::invalid(
            "addressType",
            &new["addressType"],
            "field is immutable",
        ));
    }
    let endpoints = items(new, "/endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        causes.push(Cause::invalid(
            "endpoints",
            &json!(endpoints.len()),
            "must have at most 1000 items",
        ));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        causes.extend(endpoint_cause(
            &format!("endpoints[{index}].addresses"),
            family,
            endpoint,
        ));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(
            Kind::EndpointSlice,
            &Name::of(new).name,
            &causes,
        ))
    }
}

fn endpoint_cause(field: &str, family: &str, endpoint: &Value) -> Option<Cause> {
    let addresses = strings(endpoint, "/addresses");
    if addresses.is_empty() {
        return Some(Cause::required(field, "must contain at least 1 address"));
    }
    let is_good = |address: &String| match family {
        "IPv4" => address.parse().is_ok_and(|ip: IpAddr| ip.is_ipv4()),
        "IPv6" => address.parse().is_ok_and(|ip: IpAddr| ip.is_ipv6()),
        _ => true,
    };
    let bad = addresses.iter().find(|address| !is_good(address))?;
    let detail = format!("must be a valid {family} address");
    Some(Cause::invalid(&format!("{field}[0]"), &json!(bad), &detail))
}

fn pod(new: &mut Value) {
    let spec = object_mut(new, "spec");
    default(spec, "restartPolicy", "Always");
    spec.entry("terminationGracePeriodSeconds")
        .or_insert_with(|| json!(30));
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        let ports = container.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            default(fields_mut(port), "protocol", "TCP");
        }
    }
    default(object_mut(new, "status"), "phase", "Pending");
}

fn deployment(new: &mut Value) {
    let spec = object_mut(new, "spec");
    spec.entry("replicas").or_insert_with(|| json!(1));
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    object_mut(new, "status");
}
