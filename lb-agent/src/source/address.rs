//! Addresses as Kubernetes writes them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Parses an address as leniently as Kubernetes does (item 68).
///
/// Leading zeros of an IPv4 octet are decimal, and an IPv4 address inside an IPv6 one
/// (`::ffff:192.0.2.1`) is the IPv4 address.
pub(super) fn parse(text: &str) -> Option<IpAddr> {
    let addr: IpAddr = text
        .parse()
        .ok()
        .or_else(|| without_leading_zeros(text)?.parse().ok())?;
    Some(addr.to_canonical())
}

/// Parses a prefix as leniently as [`parse`]; bits beyond the prefix length are cleared.
pub(super) fn parse_net(text: &str) -> Option<IpNet> {
    let (addr, len) = text.trim().split_once('/')?;
    if !len.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let len: u8 = len.parse().ok()?;
    // The length counts the bits of the family as written, so no canonical form here.
    let addr: IpAddr = addr
        .parse()
        .ok()
        .or_else(|| without_leading_zeros(addr)?.parse().ok())?;
    Some(IpNet::new(addr, len).ok()?.trunc())
}

/// Whether an endpoint may have this address, by the rules of the API server.
///
/// An endpoint on a loopback or link-local address would expose what the node keeps to itself.
pub(super) fn may_be_endpoint(addr: IpAddr) -> bool {
    let link_local = match addr {
        IpAddr::V4(addr) => addr.is_link_local() || addr == Ipv4Addr::BROADCAST,
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    !(link_local || addr.is_unspecified() || addr.is_loopback() || addr.is_multicast())
}

/// The dotted quad at the end of `text` without leading zeros.
fn without_leading_zeros(text: &str) -> Option<String> {
    let quad = text.rfind(':').map_or(0, |colon| colon + 1);
    let (head, quad) = text.split_at_checked(quad)?;
    let octets: Vec<&str> = quad
        .split('.')
        .map(|octet| match octet.trim_start_matches('0') {
            "" if !octet.is_empty() => "0",
            digits => digits,
        })
        .collect();
    (octets.len() == 4).then(|| format!("{head}{}", octets.join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let expected = expected.map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(parse(text), expected, "{text}");
    }

    #[test]
    fn s68_addresses_are_parsed_sloppily() {
        check("10.96.0.17", Some("10.96.0.17"));
        check("010.096.000.017", Some("10.96.0.17"));
        check("0.0.0.0", Some("0.0.0.0"));
        check("FD00:10:96::11", Some("fd00:10:96::11"));
        check("::ffff:10.0.0.1", Some("10.0.0.1"));
        check("::ffff:010.0.0.01", Some("10.0.0.1"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "10.0.0",
            "10.0.0.256",
            "10..0.1",
            "0x0a.0.0.1",
            "10.0.0.1/8",
            "fe80::1%eth0",
            "None",
            "backend.example.com",
            " 10.0.0.1",
        ] {
            check(text, None);
        }
    }

    #[track_caller]
    fn check_net(text: &str, expected: Option<&str>) {
        let expected = expected.map(|text| text.parse::<IpNet>().unwrap());
        assert_eq!(parse_net(text), expected, "{text}");
    }

    #[test]
    fn s68_prefixes_are_trimmed_and_cut() {
        check_net(" 198.51.100.0/25", Some("198.51.100.0/25"));
        check_net("010.1.2.3/8", Some("10.0.0.0/8"));
        check_net("fd00::1/64\n", Some("fd00::/64"));
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "/8",
            "x/8",
        ] {
            check_net(text, None);
        }
    }

    #[test]
    fn endpoints_have_no_special_address() {
        for text in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.1.1",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!may_be_endpoint(text.parse().unwrap()), "{text}");
        }
        assert!(may_be_endpoint("10.0.0.1".parse().unwrap()));
        assert!(may_be_endpoint("fd00::1".parse().unwrap()));
    }
}
