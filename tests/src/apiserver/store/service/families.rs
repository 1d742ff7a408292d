//! Of which families a Service is.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{is_headless, needs_address, object_mut};
use crate::apiserver::store::object::{strings, text};
use crate::apiserver::store::status::Cause;

const FIELD: &str = "spec.ipFamilyPolicy";

/// Fills in policy, families and the list of addresses, as far as they are asked for.
pub(super) fn settle(
    service: &mut Value,
    old: Option<&Value>,
    networks: &[IpNet],
) -> Result<(), Cause> {
    if !needs_address(service) {
        return Ok(());
    }
    let mut addresses = strings(service, "/spec/clusterIPs");
    let address = text(service, "/spec/clusterIP");
    if addresses.is_empty() && !address.is_empty() {
        addresses.push(address.to_owned());
    }
    let policy = policy(service);
    let mut families = asked_families(service, &addresses, networks);
    if policy == "SingleStack" && families.len() > 1 {
        // A second family goes if nobody has just asked for it.
        if old.is_none_or(|old| old["spec"]["ipFamilies"] != service["spec"]["ipFamilies"]) {
            return Err(Cause::invalid(
                FIELD,
                &json!(policy),
                "must be RequireDualStack or PreferDualStack when multiple families are specified",
            ));
        }
        families.truncate(1);
        addresses.truncate(1);
    }
    let served: Vec<_> = networks
        .iter()
        .map(|network| family(network.addr()))
        .collect();
    if policy != "SingleStack" && families.len() == 1 {
        let other = served.iter().find(|family| **family != families[0]);
        match other {
            Some(other) => families.push((*other).to_owned()),
            None if policy == "RequireDualStack" => {
                let detail = "this cluster is not configured for dual-stack services";
                return Err(Cause::invalid(FIELD, &json!(policy), detail));
            }
            None => {}
        }
    }
    if let Some(family) = families
        .iter()
        .find(|family| !served.contains(&family.as_str()))
    {
        let detail = "not configured on this cluster";
        return Err(Cause::invalid("spec.ipFamilies[0]", &json!(family), detail));
    }
    let spec = object_mut(service, "spec");
    spec.insert("ipFamilyPolicy".to_owned(), json!(policy));
    spec.insert("ipFamilies".to_owned(), json!(families));
    spec.insert("clusterIPs".to_owned(), json!(addresses));
    Ok(())
}

fn policy(service: &Value) -> String {
    let is_without_selector = service.pointer("/spec/selector").is_none();
    match text(service, "/spec/ipFamilyPolicy") {
        "" if is_headless(service) && is_without_selector => "RequireDualStack".to_owned(),
        "" => "SingleStack".to_owned(),
        policy => policy.to_owned(),
    }
}

/// The families that are asked for, by name or by addresses; otherwise the cluster's first.
fn asked_families(service: &Value, addresses: &[String], networks: &[IpNet]) -> Vec<String> {
    let asked = strings(service, "/spec/ipFamilies");
    let of_addresses = addresses
        .iter()
        .filter_map(|ip| ip.parse().ok())
        .map(family);
    let of_addresses: Vec<_> = of_addresses.map(str::to_owned).collect();
    if asked.len() >= of_addresses.len().max(1) {
        asked
    } else if !of_addresses.is_empty() {
        of_addresses
    } else {
        let first = networks.iter().take(1);
        first
            .map(|network| family(network.addr()).to_owned())
            .collect()
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
