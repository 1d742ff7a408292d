//! Reads devices, addresses and what matters of routes from the kernel (rtnetlink).

use std::{collections::BTreeMap, net::IpAddr};

use futures::TryStreamExt as _;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
};
use rtnetlink::Handle;

use super::{
    classify::{AddressFacts, Kind, Link},
    netfilter::Netfilter,
    routing::{self, Routing},
};

/// Everything that the roles of devices depend on.
#[derive(Debug)]
pub(super) struct Dump {
    pub(super) links: Vec<Link>,
    pub(super) routing: Routing,
    pub(super) netfilter: Netfilter,
    /// How often each device had gone down before anything else was read, and after that.
    pub(super) downs: [BTreeMap<u32, u32>; 2],
}

/// Reads it all. One table after the other: changes in between are told by the events
/// that the caller has subscribed to before.
pub(super) async fn dump(handle: &Handle) -> Result<Dump, rtnetlink::Error> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let messages: Vec<_> = handle.address().get().execute().try_collect().await?;
    let mut addresses: BTreeMap<u32, Vec<AddressFacts>> = BTreeMap::new();
    for message in messages {
        if let Some(address) = address(&message) {
            addresses
                .entry(message.header.index)
                .or_default()
                .push(address);
        }
    }
    let netfilter = Netfilter::read();
    let routing = routing::read(handle).await?;
    let after: Vec<_> = handle.link().get().execute().try_collect().await?;
    let link = |message| link(message, &mut addresses, netfilter);
    Ok(Dump {
        downs: [downs(&links), downs(&after)],
        links: links.iter().map(link).collect(),
        netfilter,
        routing,
    })
}

fn link(
    message: &LinkMessage,
    addresses: &mut BTreeMap<u32, Vec<AddressFacts>>,
    netfilter: Netfilter,
) -> Link {
    let index = message.header.index;
    let mut link = Link {
        index,
        name: String::new(),
        kind: Kind::Other,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        link_netnsid: None,
        master: None,
        filters: [false; 2],
        addresses: addresses.remove(&index).unwrap_or_default(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::LinkNetNsId(id) => link.link_netnsid = Some(*id),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = kind(infos);
                link.filters = netfilter.sees(shown_to_netfilter(infos));
            }
            _ => {}
        }
    }
    link
}

/// How often each device has gone down.
fn downs(messages: &[LinkMessage]) -> BTreeMap<u32, u32> {
    let count = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::CarrierDownCount(count) => Some(*count),
        _ => None,
    };
    let of = |message: &LinkMessage| message.attributes.iter().find_map(count);
    let messages = messages.iter();
    messages
        .map(|message| (message.header.index, of(message).unwrap_or_default()))
        .collect()
}

fn kind(infos: &[LinkInfo]) -> Kind {
    let mut kinds = infos.iter().filter_map(|info| match info {
        LinkInfo::Kind(InfoKind::Veth) => Some(Kind::Veth),
        LinkInfo::Kind(InfoKind::Bridge) => Some(Kind::Bridge),
        LinkInfo::Kind(InfoKind::Vlan) => Some(Kind::Vlan),
        LinkInfo::Kind(InfoKind::Vxlan | InfoKind::Geneve) => Some(Kind::Overlay),
        _ => None,
    });
    kinds.next().unwrap_or(Kind::Other)
}

/// A bridge's own settings: whether it shows netfilter packets of IPv4, and of IPv6.
fn shown_to_netfilter(infos: &[LinkInfo]) -> [bool; 2] {
    let mut shown = [false; 2];
    for info in infos {
        let LinkInfo::Data(InfoData::Bridge(settings)) = info else {
            continue;
        };
        for setting in settings {
            match setting {
                InfoBridge::NfCallIpTables(on) => shown[0] = *on,
                InfoBridge::NfCallIp6Tables(on) => shown[1] = *on,
                _ => {}
            }
        }
    }
    shown
}

fn address(message: &AddressMessage) -> Option<AddressFacts> {
    let (mut local, mut shown) = (None::<IpAddr>, None::<IpAddr>);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point device, `Address` is the other end's.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => shown = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    Some(AddressFacts {
        ip: local.or(shown)?,
        prefix_len: message.header.prefix_len,
        global: message.header.scope == AddressScope::Universe,
        usable: !flags.intersects(unusable),
        secondary: flags.contains(AddressFlags::Secondary),
        permanent: flags.contains(AddressFlags::Permanent),
    })
}
