//! Which Services are refused.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{is_external, is_headless, needs_address, needs_health_port, needs_node_ports};
use crate::apiserver::store::object::{items, number, strings, text};
use crate::apiserver::store::status::Cause;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];

/// A client stays with its endpoint for a day at most.
const MAX_AFFINITY: u64 = 86_400;

/// All that is wrong with it.
pub(super) fn check(service: &Value, old: Option<&Value>) -> Result<(), Vec<Cause>> {
    let mut causes = Vec::new();
    words(service, &mut causes);
    ports(service, &mut causes);
    addresses(service, old, &mut causes);
    external(service, old, &mut causes);
    if causes.is_empty() {
        Ok(())
    } else {
        Err(causes)
    }
}

fn words(service: &Value, causes: &mut Vec<Cause>) {
    let mut one_of = |field: &str, words: &[&str]| {
        let value = text(service, &format!("/{}", field.replace('.', "/")));
        if !value.is_empty() && !words.contains(&value) {
            causes.push(Cause::unsupported(field, value, words));
        }
    };
    one_of("spec.type", &TYPES);
    one_of("spec.sessionAffinity", &["ClientIP", "None"]);
    one_of("spec.internalTrafficPolicy", &POLICIES);
    one_of("spec.externalTrafficPolicy", &POLICIES);
    one_of("spec.ipFamilyPolicy", &FAMILY_POLICIES);
    let timeout = "/spec/sessionAffinityConfig/clientIP/timeoutSeconds";
    if service.pointer(timeout).is_some() && !(1..=MAX_AFFINITY).contains(&number(service, timeout))
    {
        causes.push(Cause::invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            &service.pointer(timeout).cloned().unwrap_or_default(),
            "must be greater than 0 and less than or equal to 86400",
        ));
    }
    if text(service, "/spec/type") == "ExternalName"
        && text(service, "/spec/externalName").is_empty()
    {
        causes.push(Cause::required("spec.externalName", ""));
    }
}

fn ports(service: &Value, causes: &mut Vec<Cause>) {
    let ports = items(service, "/spec/ports");
    if ports.is_empty() && needs_address(service) && !is_headless(service) {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        if !(1..=65_535).contains(&number(port, "/port")) {
            let detail = "must be between 1 and 65535, inclusive";
            causes.push(Cause::invalid(&field("port"), &port["port"], detail));
        }
        if !PROTOCOLS.contains(&text(port, "/protocol")) {
            causes.push(Cause::unsupported(
                &field("protocol"),
                text(port, "/protocol"),
                &PROTOCOLS,
            ));
        }
        if ports.len() > 1 && text(port, "/name").is_empty() {
            causes.push(Cause::required(&field("name"), ""));
        }
        if number(port, "/nodePort") != 0
            && !needs_node_ports(service)
            && text(service, "/spec/type") != "LoadBalancer"
        {
            let kind = text(service, "/spec/type");
            let detail = format!("may not be used when `type` is '{kind}'");
            causes.push(Cause::forbidden(&field("nodePort"), &detail));
        }
        duplicates(port, &ports[..index], &field, causes);
    }
}

fn duplicates(
    port: &Value,
    earlier: &[Value],
    field: &dyn Fn(&str) -> String,
    causes: &mut Vec<Cause>,
) {
    let same = |other: &&Value, key: &str| other[key] == port[key];
    let name = text(port, "/name");
    if !name.is_empty() && earlier.iter().any(|other| same(&other, "name")) {
        causes.push(Cause::duplicate(&field("name"), &port["name"]));
    }
    let of_protocol = || earlier.iter().filter(|other| same(other, "protocol"));
    if of_protocol().any(|other| same(&other, "port")) {
        let value = json!({"port": port["port"], "protocol": port["protocol"]});
        let place = field("");
        causes.push(Cause::duplicate(place.trim_end_matches('.'), &value));
    }
    if number(port, "/nodePort") != 0 && of_protocol().any(|other| same(&other, "nodePort")) {
        causes.push(Cause::duplicate(&field("nodePort"), &port["nodePort"]));
    }
}

fn addresses(service: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let addresses = strings(service, "/spec/clusterIPs");
    let address = text(service, "/spec/clusterIP");
    if !needs_address(service) {
        if !address.is_empty() && address != "None" {
            causes.push(Cause::forbidden(
                "spec.clusterIPs",
                "may not be set when `type` is 'ExternalName'",
            ));
        }
        return;
    }
    let all = addresses.iter().map(String::as_str).chain([address]);
    for ip in all.filter(|ip| !ip.is_empty() && *ip != "None") {
        if ip.parse::<IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(Cause::invalid("spec.clusterIPs[0]", &json!(ip), detail));
            return;
        }
    }
    let before = old.filter(|old| needs_address(old));
    let before = before
        .map(|old| text(old, "/spec/clusterIP"))
        .unwrap_or_default();
    let first = addresses.first().map_or(address, String::as_str);
    if !before.is_empty() && before != first {
        let detail = "may not change once set";
        causes.push(Cause::invalid(
            "spec.clusterIPs[0]",
            &json!(addresses),
            detail,
        ));
    } else if !address.is_empty() && first != address {
        let detail = "first value must match `clusterIP`";
        causes.push(Cause::invalid("spec.clusterIPs", &json!(addresses), detail));
    }
}

fn external(service: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if !text(service, "/spec/externalTrafficPolicy").is_empty() && !is_external(service) {
        causes.push(Cause::invalid(
            "spec.externalTrafficPolicy",
            &service["spec"]["externalTrafficPolicy"],
            "may only be set for externally-accessible services",
        ));
    }
    for (index, ip) in strings(service, "/spec/externalIPs").iter().enumerate() {
        if ip.parse::<IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(Cause::invalid(
                &format!("spec.externalIPs[{index}]"),
                &json!(ip),
                detail,
            ));
        }
    }
    for (index, range) in strings(service, "/spec/loadBalancerSourceRanges")
        .iter()
        .enumerate()
    {
        if range.trim().parse::<IpNet>().is_err() {
            let field = format!("spec.loadBalancerSourceRanges[{index}]");
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(&field, &json!(range), detail));
        }
    }
    let health = number(service, "/spec/healthCheckNodePort");
    let field = "spec.healthCheckNodePort";
    if health != 0 && !needs_health_port(service) {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.push(Cause::invalid(field, &json!(health), detail));
    }
    let before = old.map_or(0, |old| number(old, "/spec/healthCheckNodePort"));
    if health != 0 && before != 0 && health != before {
        causes.push(Cause::invalid(field, &json!(health), "field is immutable"));
    }
}
