//! Chains of iptables: KUBE-SERVICES leads to a chain for each Service, and that to one for each of
//! its backends, by chance.

use std::fmt::Write as _;

use super::MASQUERADE;
use crate::perf::services::{Family, NODE_PORT, PORT, Service, Services};

/// What `iptables-restore` reads.
pub(super) fn script(services: &Services, family: Family) -> String {
    let protocol = services.protocol.name();
    let mut chains = String::new();
    let mut dispatch = String::new();
    let mut rules = String::new();
    let mut node_ports = String::new();
    for service in services.of(family) {
        let name = format!("KUBE-SVC-{:016X}", service.number);
        let _ = writeln!(chains, ":{name} - [0:0]");
        lead(&mut dispatch, &service, protocol, &name);
        if service.external_ip.is_some() {
            let external = external_chain(&service);
            let _ = writeln!(chains, ":{external} - [0:0]");
            let _ = writeln!(
                rules,
                "-A {external} -j KUBE-MARK-MASQ\n-A {external} -j {name}"
            );
            let _ = writeln!(
                node_ports,
                "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {NODE_PORT} -j {external}"
            );
        }
        choose(&mut chains, &mut rules, &service, protocol, &name);
    }
    format!(
        "{HEAD}{chains}{}{dispatch}{LOCAL}{node_ports}{rules}COMMIT\n{}",
        masquerade(),
        filter()
    )
}

/// The entry points of the table `nat`.
const HEAD: &str = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

/// Node ports come after all Services.
const LOCAL: &str = "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";

fn masquerade() -> String {
    let mark = format!("{MASQUERADE:#x}");
    format!(
        "-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark {mark}/{mark} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {mark}
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark {mark}
"
    )
}

/// What connections that netfilter has taken for invalid, or has accepted before, meet.
fn filter() -> String {
    let mark = format!("{MASQUERADE:#x}");
    format!(
        "*filter
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark {mark}/{mark} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"
    )
}

/// The rules of KUBE-SERVICES that lead to a Service.
fn lead(dispatch: &mut String, service: &Service, protocol: &str, name: &str) {
    let external = service
        .external_ip
        .map(|addr| (addr, external_chain(service)));
    let all = [(service.cluster_ip, name.to_owned())]
        .into_iter()
        .chain(external);
    for (addr, chain) in all {
        let _ = writeln!(
            dispatch,
            "-A KUBE-SERVICES -d {addr} -p {protocol} -m {protocol} --dport {PORT} -j {chain}"
        );
    }
}

fn external_chain(service: &Service) -> String {
    format!("KUBE-EXT-{:016X}", service.number)
}

/// The chain of a Service, which leads to one of its backends, and the chains of these.
fn choose(chains: &mut String, rules: &mut String, service: &Service, protocol: &str, name: &str) {
    let count = service.backends.len();
    for (index, backend) in service.backends.iter().enumerate() {
        let chain = format!("KUBE-SEP-{:010X}{index:06X}", service.number);
        let _ = writeln!(chains, ":{chain} - [0:0]");
        let rest = count - index;
        let chance = if rest == 1 {
            String::new()
        } else {
            let probability = 1.0 / rest as f64;
            format!(" -m statistic --mode random --probability {probability:.11}")
        };
        let _ = writeln!(rules, "-A {name}{chance} -j {chain}");
        let _ = writeln!(rules, "-A {chain} -s {} -j KUBE-MARK-MASQ", backend.ip());
        let _ = writeln!(
            rules,
            "-A {chain} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::services;
    use super::*;

    #[test]
    fn service_in_use_comes_last() {
        let script = script(&services(), Family::V4);
        let at = |text: &str| {
            script
                .find(text)
                .unwrap_or_else(|| panic!("{text} in {script}"))
        };
        assert!(at("-A KUBE-SERVICES -d 10.96.0.1 ") < at("-A KUBE-SERVICES -d 10.96.0.2 "));
        assert!(at("-A KUBE-SERVICES -d 198.51.100.7 ") < at("-j KUBE-NODEPORTS"));
    }

    #[test]
    fn each_backend_has_its_chance() {
        let script = script(&services(), Family::V4);
        assert!(script.contains("--probability 0.50000000000 -j KUBE-SEP-0000000001000000"));
        assert!(script.contains("\n-A KUBE-SVC-0000000000000001 -j KUBE-SEP-0000000001000001\n"));
        assert!(script.contains("--to-destination 10.244.2.2:9001"));
    }
}
