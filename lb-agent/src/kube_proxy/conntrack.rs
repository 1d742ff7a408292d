//! The kernel's list of connections: which of them its rules lead to another destination.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{Addr, FrontendKey, protocol};

use super::nfnetlink::{self, attribute};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
/// `CTA_TUPLE_ORIG`, and in it `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
const ORIGINAL: u16 = 1;
const IP: u16 = 1;
const PROTO: u16 = 2;
/// `CTA_IP_V4_DST` and `CTA_IP_V6_DST`.
const V4_DST: u16 = 2;
const V6_DST: u16 = 4;
/// `CTA_PROTO_NUM` and `CTA_PROTO_DST_PORT`.
const NUM: u16 = 1;
const DST_PORT: u16 = 3;
/// `CTA_STATUS`, and in it `IPS_SEEN_REPLY` and `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`.
const STATUS: u16 = 3;
const SEEN_REPLY: u32 = 1 << 1;
const DST_NAT: u32 = 1 << 5;

/// What clients have dialled whose TCP connections rules of this network namespace have led elsewhere, and
/// that have been answered; and how many each.
///
/// # Errors
///
/// What the kernel says. A kernel that does not list connections has none.
pub fn translated() -> io::Result<BTreeMap<FrontendKey, usize>> {
    let mut dialled = BTreeMap::new();
    nfnetlink::dump(GET, |_, attributes| {
        if let Some(destination) = destination(attributes) {
            *dialled.entry(destination).or_insert(0) += 1;
        }
    })?;
    Ok(dialled)
}

/// Where a connection was to go, if it goes elsewhere.
fn destination(attributes: &[u8]) -> Option<FrontendKey> {
    const TRANSLATED: u32 = SEEN_REPLY | DST_NAT;
    let status = u32::from_be_bytes(attribute(attributes, STATUS)?.try_into().ok()?);
    if status & TRANSLATED != TRANSLATED {
        return None;
    }
    let original = attribute(attributes, ORIGINAL)?;
    let (ip, proto) = (attribute(original, IP)?, attribute(original, PROTO)?);
    if attribute(proto, NUM)? != [protocol::TCP] {
        return None;
    }
    let port = u16::from_be_bytes(attribute(proto, DST_PORT)?.try_into().ok()?);
    Some(FrontendKey::new(Addr::from(addr(ip)?), port, protocol::TCP))
}

fn addr(ip: &[u8]) -> Option<IpAddr> {
    if let Some(v4) = attribute(ip, V4_DST) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(v4).ok()?).into());
    }
    let v6 = <[u8; 16]>::try_from(attribute(ip, V6_DST)?).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

#[cfg(test)]
mod tests {
    use super::{nfnetlink::fixture::attribute as put, *};

    fn connection(status: u32, ip: &[u8], protocol: u8) -> Vec<u8> {
        let proto = [
            put(NUM, &[protocol]),
            put(2, &4000_u16.to_be_bytes()),
            put(DST_PORT, &80_u16.to_be_bytes()),
        ];
        // As the kernel does, with the flag of what has attributes in it.
        let original = [put(IP | 0x8000, ip), put(PROTO | 0x8000, &proto.concat())];
        let all = [
            put(ORIGINAL | 0x8000, &original.concat()),
            put(2 | 0x8000, &[]),
            put(STATUS, &status.to_be_bytes()),
        ];
        all.concat()
    }

    #[test]
    fn connections_that_are_led_elsewhere_are_known_by_what_was_dialled() {
        let v4 = [put(1, &[10, 0, 0, 1]), put(V4_DST, &[10, 96, 0, 1])].concat();
        let v6_addr: Ipv6Addr = "fd00:10:96::1".parse().expect("an address");
        let v6 = [put(3, &[7; 16]), put(V6_DST, &v6_addr.octets())].concat();
        let status = SEEN_REPLY | DST_NAT | 1 << 2;
        let to = |ip: IpAddr| Some(FrontendKey::new(ip.into(), 80, protocol::TCP));
        let of = |status, ip, protocol| destination(&connection(status, ip, protocol));
        assert_eq!(of(status, &v4, protocol::TCP), to([10, 96, 0, 1].into()));
        assert_eq!(of(status, &v6, protocol::TCP), to(v6_addr.into()));
        assert_eq!(of(status, &v4, protocol::UDP), None);
        assert_eq!(of(DST_NAT, &v4, protocol::TCP), None, "never answered");
        assert_eq!(
            of(SEEN_REPLY, &v4, protocol::TCP),
            None,
            "not led elsewhere"
        );
    }

    #[test]
    fn what_is_cut_short_is_no_connection() {
        let v4 = put(V4_DST, &[10, 96, 0, 1]);
        let whole = connection(SEEN_REPLY | DST_NAT, &v4, protocol::TCP);
        assert!(destination(&whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(destination(&whole[..len]), None);
        }
    }
}
