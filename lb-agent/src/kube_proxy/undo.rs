//! What iptables has to be told so that kube-proxy's chains are gone. Pure.

use std::{collections::BTreeSet, fmt::Write as _};

/// Chains of kube-proxy alone. The others that begin with `KUBE-` are, or may be, the kubelet's.
const CHAINS: [&str; 7] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
];
/// Beginnings of the names of those that belong to a port or to an endpoint.
const PREFIXES: [&str; 6] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-EXT-",
    "KUBE-XLB-",
    "KUBE-FW-",
    "KUBE-SEP-",
];

/// Input of `iptables-restore --noflush` that removes kube-proxy's chains, and the rules that lead to
/// them, from what `iptables-save` has saved; except those in `stay`. Empty if there are none.
pub(super) fn undo(saved: &str, stay: &[&str]) -> String {
    let mut text = String::new();
    let tables = saved.split('*').skip(1);
    for table in tables {
        let (name, lines) = table.split_once('\n').unwrap_or((table, ""));
        let chains = lines.lines().filter_map(declared);
        let chains: BTreeSet<&str> = chains.filter(|chain| !stay.contains(chain)).collect();
        if chains.is_empty() {
            continue;
        }
        let _ = writeln!(text, "*{name}");
        for chain in &chains {
            // To declare a chain empties it.
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        let rules = lines.lines().filter_map(|line| line.strip_prefix("-A "));
        for rule in rules.filter(|rule| leads_to(rule, &chains)) {
            let _ = writeln!(text, "-D {rule}");
        }
        for chain in &chains {
            let _ = writeln!(text, "-X {chain}");
        }
        let _ = writeln!(text, "COMMIT");
    }
    text
}

/// The chain of kube-proxy that a line declares.
fn declared(line: &str) -> Option<&str> {
    let chain = line.strip_prefix(':')?.split(' ').next()?;
    let is_ours = CHAINS.contains(&chain) || PREFIXES.iter().any(|p| chain.starts_with(p));
    is_ours.then_some(chain)
}

/// Whether a rule of another chain jumps to one of `chains`.
fn leads_to(rule: &str, chains: &BTreeSet<&str>) -> bool {
    let mut words = rule.split(' ');
    let is_within = words.next().is_some_and(|chain| chains.contains(chain));
    let target = words
        .skip_while(|word| *word != "-j" && *word != "-g")
        .nth(1);
    !is_within && target.is_some_and(|target| chains.contains(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_kube_proxy_go_with_the_rules_that_lead_to_them_and_others_stay() {
        let saved = "# Generated\n\
            *filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n\
            -A INPUT -j KUBE-FIREWALL\nCOMMIT\n\
            *nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-SERVICES - [0:0]\n\
            :KUBE-SVC-ABC - [0:0]\n:OTHER - [0:0]\n\
            -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
            -A PREROUTING -j OTHER\n\
            -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-ABC\n\
            -A KUBE-SVC-ABC -j KUBE-MARK-MASQ\nCOMMIT\n";
        assert_eq!(
            undo(saved, &[]),
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-ABC - [0:0]\n\
             -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -X KUBE-SERVICES\n-X KUBE-SVC-ABC\nCOMMIT\n"
        );
    }

    #[test]
    fn nothing_is_to_be_done_where_there_is_nothing() {
        assert_eq!(undo("", &[]), "");
        assert_eq!(undo("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", &[]), "");
    }

    #[test]
    fn a_chain_stays_with_the_rules_that_lead_to_it() {
        let saved = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
            -A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
            -A KUBE-POSTROUTING -j MASQUERADE\nCOMMIT\n";
        assert_eq!(
            undo(saved, &["KUBE-POSTROUTING"]),
            "*nat\n:KUBE-SERVICES - [0:0]\n-D OUTPUT -j KUBE-SERVICES\n-X KUBE-SERVICES\nCOMMIT\n"
        );
    }
}
