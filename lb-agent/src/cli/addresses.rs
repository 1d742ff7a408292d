//! Flags that take a word or networks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::run::Error;
use crate::{
    agent::SnatAddresses,
    desired::{ExternalIps, NodePortAddresses, is_allowed},
};

/// `--nodeport-addresses`.
pub(super) fn node_ports(values: &[String]) -> Result<NodePortAddresses, Error> {
    match values {
        [word] if word == "primary" => Ok(NodePortAddresses::Primary),
        _ => networks("--nodeport-addresses", values, "primary").map(NodePortAddresses::Within),
    }
}

/// `--external-ips`.
pub(super) fn external_ips(values: &[String]) -> Result<ExternalIps, Error> {
    match values {
        [word] if word == "allow" => Ok(ExternalIps::All),
        [word] if word == "deny" => Ok(ExternalIps::Within(Vec::new())),
        _ => networks("--external-ips", values, "allow or deny").map(ExternalIps::Within),
    }
}

/// `--snat-address`.
pub(super) fn snat(values: &[IpAddr]) -> Result<SnatAddresses, Error> {
    let mut snat = SnatAddresses::default();
    for value in values {
        if !is_allowed(*value) {
            return Err(Error::SnatAddress(*value, "no host can have it"));
        }
        let family = match value {
            IpAddr::V4(_) => &mut snat.v4,
            IpAddr::V6(_) => &mut snat.v6,
        };
        if family.replace((*value).into()).is_some() {
            return Err(Error::SnatAddress(
                *value,
                "there is another one of its family",
            ));
        }
    }
    Ok(snat)
}

/// Networks; an address is the network that holds it alone.
fn networks(
    flag: &'static str,
    values: &[String],
    words: &'static str,
) -> Result<Vec<IpNet>, Error> {
    let network = |value: &String| {
        let address = || value.parse::<IpAddr>().ok().map(IpNet::from);
        let network = value.parse().ok().or_else(address);
        network.ok_or_else(|| Error::Network {
            flag,
            value: value.clone(),
            words,
        })
    };
    values.iter().map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    fn nets(text: &str) -> Vec<IpNet> {
        text.split(',').map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn s21_node_ports_are_on_primary_addresses_or_in_networks() {
        let given = |text| node_ports(&values(text)).ok();
        assert_eq!(given("primary"), Some(NodePortAddresses::Primary));
        assert_eq!(
            given("10.0.0.0/8,fd00::1"),
            Some(NodePortAddresses::Within(nets("10.0.0.0/8,fd00::1/128")))
        );
        assert_eq!(given("primary,10.0.0.0/8"), None);
        assert_eq!(given(""), None);
    }

    #[test]
    fn s25_external_addresses_are_allowed_denied_or_in_networks() {
        let given = |text| external_ips(&values(text)).ok();
        assert_eq!(given("allow"), Some(ExternalIps::All));
        assert_eq!(given("deny"), Some(ExternalIps::Within(Vec::new())));
        let within = ExternalIps::Within(nets("203.0.113.0/24"));
        assert_eq!(given("203.0.113.0/24"), Some(within));
        assert_eq!(given("allow,203.0.113.0/24"), None);
    }

    #[test]
    fn snat_has_an_address_of_its_own_in_each_family_at_most() {
        let given = |text: &str| {
            let values: Vec<IpAddr> = text.split(',').map(|ip| ip.parse().unwrap()).collect();
            snat(&values).map_err(|error| error.to_string())
        };
        let addr = |text: &str| Some(text.parse::<IpAddr>().unwrap().into());
        let both = SnatAddresses {
            v4: addr("192.0.2.1"),
            v6: addr("2001:db8::1"),
        };
        assert_eq!(given("2001:db8::1,192.0.2.1"), Ok(both));
        let v4 = SnatAddresses { v6: None, ..both };
        assert_eq!(given("192.0.2.1"), Ok(v4));
        assert_eq!(snat(&[]).ok(), Some(SnatAddresses::default()));
        for (text, complaint) in [
            ("192.0.2.1,192.0.2.2", "there is another one of its family"),
            ("127.0.0.1", "no host can have it"),
            ("fe80::1", "no host can have it"),
            ("255.255.255.255", "no host can have it"),
        ] {
            assert!(
                given(text).is_err_and(|error| error.ends_with(complaint)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_mistake_is_told_with_what_would_be_right() {
        let error = external_ips(&values("10.0.0.0/33")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--external-ips: 10.0.0.0/33 is no network, as 192.0.2.0/24 is, nor allow or deny alone"
        );
    }
}
