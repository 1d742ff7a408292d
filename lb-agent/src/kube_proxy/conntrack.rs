//! The kernel's list of connections: which of them its rules lead to another destination.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use lb_common::{Addr, Tuple, protocol};

use super::nfnetlink::{self, attribute};
use crate::dataplane::bpf::Elsewhere;

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
/// `CTA_TUPLE_ORIG` and `CTA_TUPLE_REPLY`, and in them `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const IP: u16 = 1;
const PROTO: u16 = 2;
/// `CTA_IP_V4_SRC` and `CTA_IP_V4_DST`, `CTA_IP_V6_SRC` and `CTA_IP_V6_DST`.
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;
/// `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT` and `CTA_PROTO_DST_PORT`.
const NUM: u16 = 1;
const SRC_PORT: u16 = 2;
const DST_PORT: u16 = 3;
/// `CTA_STATUS`, and in it `IPS_SEEN_REPLY` and `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`.
const STATUS: u16 = 3;
const SEEN_REPLY: u32 = 1 << 1;
const DST_NAT: u32 = 1 << 5;

/// How many connections the kernel follows; there where it follows any.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// TCP connections that rules of this network namespace have led elsewhere, and that have been answered.
///
/// # Errors
///
/// What the kernel says; also if it follows connections, and cannot list them.
pub fn translated() -> io::Result<Vec<Elsewhere>> {
    let mut connections = Vec::new();
    let listed = nfnetlink::dump(GET, |_, attributes| connections.extend(read(attributes)))?;
    if !listed && Path::new(COUNT).exists() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it has no nf_conntrack_netlink",
        ));
    }
    Ok(connections)
}

fn read(attributes: &[u8]) -> Option<Elsewhere> {
    const TRANSLATED: u32 = SEEN_REPLY | DST_NAT;
    let status = u32::from_be_bytes(attribute(attributes, STATUS)?.try_into().ok()?);
    if status & TRANSLATED != TRANSLATED {
        return None;
    }
    let connection = Elsewhere {
        forward: tuple(attribute(attributes, ORIGINAL)?)?,
        reply: tuple(attribute(attributes, REPLY)?)?,
    };
    Some(connection).filter(|connection| connection.forward.protocol == protocol::TCP)
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (ip, proto) = (attribute(bytes, IP)?, attribute(bytes, PROTO)?);
    let port = |kind| {
        let port = attribute(proto, kind)?.try_into().ok()?;
        Some(u16::from_be_bytes(port))
    };
    let [protocol] = *attribute(proto, NUM)? else {
        return None;
    };
    Some(Tuple {
        src: addr(ip, V4_SRC, V6_SRC)?,
        dst: addr(ip, V4_DST, V6_DST)?,
        src_port: port(SRC_PORT)?,
        dst_port: port(DST_PORT)?,
        protocol,
    })
}

fn addr(ip: &[u8], v4: u16, v6: u16) -> Option<Addr> {
    if let Some(v4) = attribute(ip, v4) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(v4).ok()?).into());
    }
    let v6 = <[u8; 16]>::try_from(attribute(ip, v6)?).ok()?;
    Some(Addr::from(Ipv6Addr::from(v6)))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{nfnetlink::fixture::attribute as put, *};

    /// From a client to a Service, and from a backend to the node.
    fn connection(status: u32, ips: [[Vec<u8>; 2]; 2], kinds: [u16; 2], protocol: u8) -> Vec<u8> {
        let port = |kind, port: u16| put(kind, &port.to_be_bytes());
        let tuple = |kind, ip: [Vec<u8>; 2], ports: [u16; 2]| {
            let ip: Vec<u8> = kinds
                .iter()
                .zip(ip)
                .flat_map(|(kind, ip)| put(*kind, &ip))
                .collect();
            let proto = [
                put(NUM, &[protocol]),
                port(SRC_PORT, ports[0]),
                port(DST_PORT, ports[1]),
            ];
            // As the kernel does, with the flag of what has attributes in it.
            let both = [put(IP | 0x8000, &ip), put(PROTO | 0x8000, &proto.concat())];
            put(kind | 0x8000, &both.concat())
        };
        let [forward, reply] = ips;
        let all = [
            tuple(ORIGINAL, forward, [4000, 80]),
            tuple(REPLY, reply, [8080, 61_000]),
            put(STATUS, &status.to_be_bytes()),
        ];
        all.concat()
    }

    const V4: [[[u8; 4]; 2]; 2] = [
        [[10, 0, 0, 1], [10, 96, 0, 1]],
        [[10, 0, 1, 2], [192, 0, 2, 1]],
    ];
    const STATE: u32 = SEEN_REPLY | DST_NAT | 1 << 2;

    fn v4(status: u32, protocol: u8) -> Vec<u8> {
        let ips = V4.map(|ips| ips.map(Vec::from));
        connection(status, ips, [V4_SRC, V4_DST], protocol)
    }

    fn expected(ips: [[IpAddr; 2]; 2]) -> Elsewhere {
        let tuple = |[src, dst]: [IpAddr; 2], src_port, dst_port| Tuple {
            src: src.into(),
            dst: dst.into(),
            src_port,
            dst_port,
            protocol: protocol::TCP,
        };
        Elsewhere {
            forward: tuple(ips[0], 4000, 80),
            reply: tuple(ips[1], 8080, 61_000),
        }
    }

    #[test]
    fn connections_that_are_led_elsewhere_are_read_with_their_answers() {
        let found = read(&v4(STATE, protocol::TCP));
        assert_eq!(found, Some(expected(V4.map(|ips| ips.map(IpAddr::from)))));
        let v6 = [[[1; 16], [2; 16]], [[3; 16], [4; 16]]];
        let bytes = v6.map(|ips: [[u8; 16]; 2]| ips.map(Vec::from));
        let bytes = connection(STATE, bytes, [V6_SRC, V6_DST], protocol::TCP);
        assert_eq!(
            read(&bytes),
            Some(expected(v6.map(|ips| ips.map(IpAddr::from))))
        );
    }

    #[test]
    fn other_connections_do_not_count() {
        assert_eq!(read(&v4(STATE, protocol::UDP)), None);
        assert_eq!(read(&v4(DST_NAT, protocol::TCP)), None, "never answered");
        assert_eq!(
            read(&v4(SEEN_REPLY, protocol::TCP)),
            None,
            "not led elsewhere"
        );
    }

    #[test]
    fn what_is_cut_short_is_no_connection() {
        let whole = v4(STATE, protocol::TCP);
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), None);
        }
    }
}
