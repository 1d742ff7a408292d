//! What matters of the kernel's routing tables (rtnetlink).

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt as _;
use netlink_packet_route::{
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
    rule::{RuleAttribute, RuleMessage},
};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use tracing::debug;

/// What matters of the routing tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Interface indexes of the devices of default routes, of both families.
    pub default_routes: BTreeSet<u32>,
    /// Whether a packet's destination alone decides by which way it leaves: IPv4, and IPv6.
    pub by_destination: [bool; 2],
}

/// Reads it all. One table after the other: a netlink socket that is asked for a table while it still hands
/// out another one answers EBUSY.
pub(super) async fn read(handle: &Handle) -> Result<Routing, rtnetlink::Error> {
    let mut routing = Routing::default();
    for (family, (version, query)) in [
        (
            IpVersion::V4,
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
        ),
        (
            IpVersion::V6,
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut by_destination = rules_ask_for_destinations_only(handle, version).await?;
        let mut routes = handle.route().get(query).execute();
        while let Some(route) = routes.try_next().await? {
            by_destination &= has_one_way(&route);
            routing.default_routes.extend(default_route(&route));
        }
        routing.by_destination[family] = by_destination;
    }
    Ok(routing)
}

/// Whether all rules of a family take packets for one destination all alike. A kernel may have no rules to read; to ask for
/// each route is never wrong.
async fn rules_ask_for_destinations_only(
    handle: &Handle,
    version: IpVersion,
) -> Result<bool, rtnetlink::Error> {
    let rules: Result<Vec<_>, _> = handle.rule().get(version).execute().try_collect().await;
    match rules {
        Ok(rules) => Ok(rules.iter().all(asks_for_destination_only)),
        Err(rtnetlink::Error::NetlinkError(refusal)) => {
            debug!(?refusal, "rules about routes cannot be read");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether a rule takes packets for one destination all alike. Programs ask for packets without mark, user and type of service: what
/// a rule says about these, it says about all of theirs.
fn asks_for_destination_only(rule: &RuleMessage) -> bool {
    let is_harmless = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::Destination(_)
                | RuleAttribute::Priority(_)
                | RuleAttribute::Table(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::Goto(_)
                | RuleAttribute::SuppressPrefixLen(_)
                | RuleAttribute::SuppressIfGroup(_)
                | RuleAttribute::FwMark(_)
                | RuleAttribute::FwMask(_)
                | RuleAttribute::UidRange(_)
                | RuleAttribute::Realm(_)
        )
    };
    rule.header.src_len == 0 && rule.attributes.iter().all(is_harmless)
}

/// Whether a route leads all packets that it is for the same way. One to an object of its own may lead to a group.
fn has_one_way(route: &RouteMessage) -> bool {
    let is_one = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::MultiPath(hops) => hops.len() <= 1,
        RouteAttribute::NhId(_) | RouteAttribute::Source(_) => false,
        _ => true,
    };
    route.header.source_prefix_length == 0 && route.attributes.iter().all(is_one)
}

/// The devices of `message` if it is a default route of the main table.
fn default_route(message: &RouteMessage) -> Vec<u32> {
    let header = &message.header;
    if header.destination_prefix_length != 0
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
    {
        return Vec::new();
    }
    let devices = message
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => vec![*index],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|h| h.interface_index).collect(),
            _ => Vec::new(),
        });
    devices.collect()
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        route::{RouteAddress, RouteNextHop, RouteProtocol},
        rule::{RulePortRange, RuleUidRange},
    };

    use super::*;

    fn rule(attributes: &[RuleAttribute]) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.attributes = attributes.to_vec();
        rule
    }

    #[test]
    fn rules_that_ask_for_destinations_only_are_told_from_others() {
        let of_the_kernel = [
            RuleAttribute::Table(254),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
            RuleAttribute::Protocol(RouteProtocol::Kernel),
            RuleAttribute::Priority(32_766),
        ];
        let marked = [RuleAttribute::FwMark(0x80), RuleAttribute::FwMask(0x80)];
        let to = [RuleAttribute::Destination(
            Ipv4Addr::new(10, 244, 0, 7).into(),
        )];
        let of_users = [RuleAttribute::UidRange(RuleUidRange { start: 0, end: 9 })];
        for attributes in [&[][..], &of_the_kernel, &marked, &to, &of_users] {
            assert!(
                asks_for_destination_only(&rule(attributes)),
                "{attributes:?}"
            );
        }

        let ports = RulePortRange { start: 80, end: 80 };
        for attribute in [
            RuleAttribute::Source(Ipv4Addr::new(10, 244, 0, 7).into()),
            RuleAttribute::Iifname("eth1".into()),
            RuleAttribute::Oifname("eth1".into()),
            RuleAttribute::SourcePortRange(ports),
            RuleAttribute::DestinationPortRange(ports),
            RuleAttribute::L3MDev(true),
            RuleAttribute::TunId(7),
        ] {
            assert!(
                !asks_for_destination_only(&rule(std::slice::from_ref(&attribute))),
                "{attribute:?}"
            );
        }
        let mut of_a_network = rule(&[]);
        of_a_network.header.src_len = 24;
        assert!(!asks_for_destination_only(&of_a_network));
    }

    #[test]
    fn routes_with_one_way_are_told_from_others() {
        let route = |attribute: RouteAttribute| {
            let mut route = RouteMessage::default();
            route.attributes = vec![attribute];
            route
        };
        let hops = |count| RouteAttribute::MultiPath(vec![RouteNextHop::default(); count]);
        for attribute in [RouteAttribute::Oif(2), RouteAttribute::Priority(1), hops(1)] {
            assert!(has_one_way(&route(attribute.clone())), "{attribute:?}");
        }
        let source = RouteAddress::Inet6(Ipv6Addr::LOCALHOST);
        for attribute in [
            hops(2),
            RouteAttribute::NhId(1),
            RouteAttribute::Source(source),
        ] {
            assert!(!has_one_way(&route(attribute.clone())), "{attribute:?}");
        }
    }
}
