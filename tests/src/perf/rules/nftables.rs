//! A table of nftables: a verdict map leads to a chain for each Service, and `numgen` to one for each
//! of its backends.

use std::fmt::Write as _;

use super::MASQUERADE;
use crate::perf::services::{Family, NODE_PORT, PORT, Service, Services};

/// Services of one transaction: `nft` takes much longer for one large one.
const CHUNK: usize = 1000;

/// What `nft -f -` reads, piece by piece.
pub(super) fn scripts(services: &Services, family: Family) -> Vec<String> {
    let table = table(family);
    let protocol = services.protocol.name();
    let all: Vec<_> = services.of(family).collect();
    let mut scripts = vec![base(table, ip(family))];
    scripts.extend(
        all.chunks(CHUNK)
            .map(|services| chains(services, table, protocol)),
    );
    scripts.push(elements(&all, table, protocol));
    scripts
}

fn table(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip kube-proxy",
        Family::V6 => "ip6 kube-proxy",
    }
}

/// How the family's header is called.
fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Maps, and the chains that lead to them.
fn base(table: &str, ip: &str) -> String {
    let addr = if ip == "ip" { "ipv4_addr" } else { "ipv6_addr" };
    let mark = format!("{MASQUERADE:#x}");
    format!(
        "table {table} {{
  set cluster-ips {{ type {addr}; }}
  map service-ips {{ type {addr} . inet_proto . inet_service : verdict; }}
  map service-nodeports {{ type inet_proto . inet_service : verdict; }}
  map no-endpoint-services {{ type {addr} . inet_proto . inet_service : verdict; }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
  map firewall-ips {{ type {addr} . inet_proto . inet_service : verdict; }}
  chain mark-for-masquerade {{ meta mark set meta mark or {mark}; }}
  chain masquerading {{
    meta mark & {mark} == 0 return
    meta mark set meta mark ^ {mark}
    masquerade fully-random
  }}
  chain services {{
    {ip} daddr . meta l4proto . th dport vmap @service-ips
    fib daddr type local meta l4proto . th dport vmap @service-nodeports
  }}
  chain service-endpoints-check {{
    {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services
    fib daddr type local meta l4proto . th dport vmap @no-endpoint-nodeports
  }}
  chain firewall-check {{ {ip} daddr . meta l4proto . th dport vmap @firewall-ips; }}
  chain cluster-ips-check {{ {ip} daddr @cluster-ips reject; }}
  chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
  chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
  chain filter-forward {{
    type filter hook forward priority -110
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
}}
"
    )
}

/// The chains of some Services.
fn chains(services: &[Service], table: &str, protocol: &str) -> String {
    let mut text = format!("table {table} {{\n");
    for service in services {
        let Service {
            number, backends, ..
        } = service;
        for (index, backend) in backends.iter().enumerate() {
            let header = if backend.is_ipv4() { "ip" } else { "ip6" };
            let _ = writeln!(
                text,
                "chain endpoint-{number}-{index} {{ {header} saddr {} jump mark-for-masquerade; \
                 meta l4proto {protocol} dnat to {}; }}",
                backend.ip(),
                backend,
            );
        }
        let ways: Vec<_> = (0..backends.len())
            .map(|index| format!("{index} : goto endpoint-{number}-{index}"))
            .collect();
        let (count, ways) = (ways.len(), ways.join(", "));
        let _ = writeln!(
            text,
            "chain service-{number} {{ numgen random mod {count} vmap {{ {ways} }}; }}"
        );
        if service.external_ip.is_some() {
            let _ = writeln!(
                text,
                "chain external-{number} {{ jump mark-for-masquerade; goto service-{number}; }}"
            );
        }
    }
    text + "}\n"
}

/// The elements of the maps.
fn elements(services: &[Service], table: &str, protocol: &str) -> String {
    let mut text = String::new();
    for services in services.chunks(CHUNK) {
        let addresses: Vec<_> = services.iter().map(|s| s.cluster_ip.to_string()).collect();
        let ways: Vec<_> = services.iter().flat_map(|s| ways(s, protocol)).collect();
        let (addresses, ways) = (addresses.join(", "), ways.join(", "));
        let _ = writeln!(text, "add element {table} cluster-ips {{ {addresses} }}");
        let _ = writeln!(text, "add element {table} service-ips {{ {ways} }}");
    }
    for service in services.iter().filter(|s| s.external_ip.is_some()) {
        let _ = writeln!(
            text,
            "add element {table} service-nodeports {{ {protocol} . {NODE_PORT} : goto external-{} }}",
            service.number
        );
    }
    text
}

/// The addresses that lead to a Service.
fn ways(service: &Service, protocol: &str) -> impl Iterator<Item = String> {
    let number = service.number;
    let within = format!(
        "{} . {protocol} . {PORT} : goto service-{number}",
        service.cluster_ip
    );
    let outside = service
        .external_ip
        .map(|addr| format!("{addr} . {protocol} . {PORT} : goto external-{number}"));
    [within].into_iter().chain(outside)
}

#[cfg(test)]
mod tests {
    use super::super::tests::services;
    use super::*;

    #[test]
    fn maps_lead_to_chains_that_come_before() {
        let scripts = scripts(&services(), Family::V4);
        let script = scripts.concat();
        let at = |text: &str| {
            script
                .find(text)
                .unwrap_or_else(|| panic!("{text} in {script}"))
        };
        assert!(at("chain service-1 ") < at("10.96.0.2 . udp . 80 : goto service-1"));
        assert!(at("chain external-1 ") < at("198.51.100.7 . udp . 80 : goto external-1"));
        assert!(
            script.contains(
                "numgen random mod 2 vmap { 0 : goto endpoint-1-0, 1 : goto endpoint-1-1 }"
            )
        );
    }

    #[test]
    fn ports_of_v6_are_set_apart_from_addresses() {
        let script = scripts(&services(), Family::V6).concat();
        assert!(script.contains("dnat to [fd00:10:244:2::2]:9000"));
    }
}
