//! Where cluster addresses can be (item 44).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use lb_common::{Addr, ServiceNet, ServiceNets, vip::net_flags};

use super::Rejection;
use crate::model::Cause;

/// What `SERVICE_NETS` holds if cluster addresses are allocated from `known`. Of a family of
/// which nobody says so, they can be everywhere.
pub(super) fn service_nets(known: &BTreeSet<IpNet>) -> (ServiceNets, Option<Rejection>) {
    let all = nets(known);
    if all.len() <= ServiceNets::MAX {
        return (table(all), None);
    }
    let rejection = Rejection {
        object: "ServiceCIDR".to_owned(),
        field: String::new(),
        reason: format!(
            "there are {} networks, and room for {}: packets for cluster addresses that no \
             Service has are not dropped",
            all.len(),
            ServiceNets::MAX
        ),
        cause: Cause::ServiceMapFull,
        regarding: None,
    };
    (table(nets(&BTreeSet::new())), Some(rejection))
}

/// The networks of IPv4, then those of IPv6: the one that holds all of these holds IPv4's, too.
fn nets(known: &BTreeSet<IpNet>) -> Vec<ServiceNet> {
    let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let mut nets = Vec::new();
    for all in everywhere {
        let mut of_family = known
            .iter()
            .filter(|net| net.addr().is_ipv4() == all.is_ipv4())
            .map(|known| net(known.network(), known.prefix_len(), net_flags::KNOWN))
            .peekable();
        if of_family.peek().is_none() {
            nets.push(net(all, 0, 0));
        }
        nets.extend(of_family);
    }
    nets
}

fn net(addr: IpAddr, prefix_len: u8, flags: u32) -> ServiceNet {
    let mapped = if addr.is_ipv4() { 96 } else { 0 };
    let host_bits = 128 - mapped - u32::from(prefix_len);
    let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
    ServiceNet {
        addr: addr.into(),
        mask: Addr::from(Ipv6Addr::from_bits(mask)),
        flags: net_flags::IN_USE | flags,
    }
}

fn table(nets: Vec<ServiceNet>) -> ServiceNets {
    let mut table = ServiceNets::default();
    for (element, net) in table.nets.iter_mut().zip(nets) {
        *element = net;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags_of(known: &[&str], addr: &str) -> u32 {
        let known = known.iter().map(|net| net.parse().unwrap()).collect();
        let (nets, rejection) = service_nets(&known);
        assert_eq!(rejection, None);
        let addr: IpAddr = addr.parse().unwrap();
        nets.flags_of(addr.into())
    }

    const USED: u32 = net_flags::IN_USE;
    const KNOWN: u32 = net_flags::IN_USE | net_flags::KNOWN;

    #[test]
    fn s44_an_address_in_a_service_network_is_known_to_be_one_of_a_service() {
        let known = ["10.96.0.0/16", "fd00:10:96::/112"];
        assert_eq!(flags_of(&known, "10.96.3.4"), KNOWN);
        assert_eq!(flags_of(&known, "fd00:10:96::1:2"), 0);
        assert_eq!(flags_of(&known, "fd00:10:96::2"), KNOWN);
        assert_eq!(flags_of(&known, "10.97.0.1"), 0);
    }

    #[test]
    fn s44_cluster_addresses_of_a_family_without_known_networks_can_be_anywhere() {
        assert_eq!(flags_of(&[], "10.96.3.4"), USED);
        assert_eq!(flags_of(&[], "2001:db8::1"), USED);
        let known = ["10.96.0.0/16"];
        assert_eq!(flags_of(&known, "10.96.3.4"), KNOWN);
        assert_eq!(flags_of(&known, "2001:db8::1"), USED);
        let known = ["fd00:10:96::/112"];
        assert_eq!(flags_of(&known, "10.97.0.1"), USED);
        assert_eq!(flags_of(&known, "fd00:10:96::2"), KNOWN);
        assert_eq!(flags_of(&known, "2001:db8::1"), 0);
    }

    #[test]
    fn s44_more_networks_than_there_is_room_for_are_as_good_as_none_and_said() {
        let nets = |count: u8| (0..count).map(|n| format!("10.{n}.0.0/16").parse().unwrap());
        let (table, rejection) = service_nets(&nets(7).collect());
        assert_eq!(rejection, None);
        assert_eq!(table.flags_of(Ipv4Addr::new(10, 6, 0, 1).into()), KNOWN);
        let (table, rejection) = service_nets(&nets(8).collect());
        assert!(rejection.is_some_and(|r| r.object == "ServiceCIDR"));
        assert_eq!(table.flags_of(Ipv4Addr::new(10, 6, 0, 1).into()), USED);
    }
}
