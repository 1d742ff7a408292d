//! Dropped packets, as people are told about them.

mod names;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    Addr, BackendRef, Counter, DropKey,
    counter::{Hook, Outcome},
    drops::Event,
    protocol,
    wire::tcp::{ACK, FIN, RST, SYN},
};

pub use self::names::Kernel;

/// What numbers in the kernel's maps mean.
pub trait Names {
    /// The name of a device.
    fn device(&self, ifindex: u32) -> Option<String>;
    /// The address of a backend, if the reference is not to an earlier one.
    fn backend(&self, reference: BackendRef) -> Option<SocketAddr>;
}

/// Packets that were dropped for one reason at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Why.
    pub reason: Outcome,
    /// Where.
    pub hook: Hook,
    /// The device; none for socket calls, and for devices that are gone.
    pub interface: Option<String>,
    /// On the way to whom, if the reason is about a backend.
    pub backend: Option<String>,
    /// How many.
    pub packets: u64,
}

/// The elements of `DROPS` with names, in the order of hooks and reasons.
#[must_use]
pub fn rows(drops: &BTreeMap<DropKey, u64>, names: &impl Names) -> Vec<Row> {
    let mut rows: Vec<Row> = drops
        .iter()
        // A number that this version does not know is another version's.
        .filter_map(|(key, packets)| {
            Some(Row {
                reason: key.reason()?,
                hook: key.hook()?,
                interface: (key.ifindex != 0).then(|| device(key.ifindex, names)),
                backend: backend(key.backend, names),
                packets: *packets,
            })
        })
        .collect();
    rows.sort_by_key(|row| (row.reason as u8, row.hook as u8));
    rows
}

/// What `COUNTERS` has of drops, and `DROPS` has not: its devices are gone, or it had no room.
#[must_use]
pub fn others(counters: &[u64], drops: &BTreeMap<DropKey, u64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for reason in Outcome::ALL
        .into_iter()
        .filter(|o| o.drop_reason().is_some())
    {
        for hook in Hook::ALL {
            let counter = Counter {
                hook,
                outcome: reason,
            };
            let all = counters.get(counter.index() as usize).copied();
            let is_here = |key: &DropKey| (key.hook, key.reason) == (hook as u8, reason as u8);
            let known: u64 = drops
                .iter()
                .filter_map(|(key, packets)| is_here(key).then_some(packets))
                .sum();
            let packets = all.unwrap_or_default().saturating_sub(known);
            if packets > 0 {
                rows.push(Row {
                    reason,
                    hook,
                    interface: None,
                    backend: None,
                    packets,
                });
            }
        }
    }
    rows
}

/// A device's name, or if it has none any more, its index.
pub fn device(ifindex: u32, names: &impl Names) -> String {
    names
        .device(ifindex)
        .unwrap_or_else(|| format!("#{ifindex}"))
}

/// A backend's address, or if it has none any more, its reference; nothing for none.
pub fn backend(reference: BackendRef, names: &impl Names) -> Option<String> {
    if reference.is_none() {
        return None;
    }
    let address = names.backend(reference);
    Some(address.map_or_else(|| format!("{reference:?}"), |addr| addr.to_string()))
}

/// The packet of a sample, in a few words.
#[must_use]
pub fn packet(event: &Event) -> String {
    if event.src == Addr::UNSPECIFIED && event.dst == Addr::UNSPECIFIED {
        return "a packet that could not be read".into();
    }
    let end = |addr: Addr, port: u16| match (addr.to_ip(), port) {
        (ip, 0) => ip.to_string(),
        (ip, port) => SocketAddr::new(ip, port).to_string(),
    };
    let protocol = match event.protocol {
        protocol::TCP => format!("TCP{}", flags(event.tcp_flags)),
        protocol::UDP => "UDP".into(),
        protocol::SCTP => "SCTP".into(),
        protocol::ICMP => "ICMP".into(),
        protocol::ICMPV6 => "ICMPv6".into(),
        other => format!("protocol {other}"),
    };
    format!(
        "{protocol} {} → {}, {} bytes",
        end(event.src, event.src_port),
        end(event.dst, event.dst_port),
        event.ip_len
    )
}

fn flags(flags: u8) -> String {
    let names = [(SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (ACK, "ACK")];
    let set = names.into_iter().filter(|(bit, _)| flags & bit != 0);
    let set: Vec<&str> = set.map(|(_, name)| name).collect();
    if set.is_empty() {
        String::new()
    } else {
        format!(" ({})", set.join(", "))
    }
}

/// An address with a port.
pub(crate) fn socket_addr(addr: Addr, port: u16) -> SocketAddr {
    let ip: IpAddr = addr.to_ip();
    SocketAddr::new(ip, port)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use bytemuck::Zeroable as _;

    use super::*;

    /// Device 7, and backend 3 in its second incarnation.
    #[derive(Debug)]
    pub(crate) struct Known;

    impl Names for Known {
        fn device(&self, ifindex: u32) -> Option<String> {
            (ifindex == 7).then(|| "veth7".to_owned())
        }

        fn backend(&self, reference: BackendRef) -> Option<SocketAddr> {
            let known = BackendRef::new(3, 2);
            (reference == known).then(|| ([10, 244, 2, 3], 80).into())
        }
    }

    fn key(ifindex: u32, hook: Hook, reason: Outcome, generation: u8) -> DropKey {
        let backend = if generation == 0 {
            BackendRef::NONE
        } else {
            BackendRef::new(3, generation)
        };
        DropKey {
            backend,
            ..DropKey::new(ifindex, hook, reason, None)
        }
    }

    /// Drops of every kind.
    pub(crate) fn drops() -> BTreeMap<DropKey, u64> {
        BTreeMap::from([
            (key(7, Hook::PodIngress, Outcome::NoSnatPort, 2), 5),
            (key(7, Hook::PodIngress, Outcome::NoSnatPort, 1), 6),
            (key(9, Hook::WireIngress, Outcome::Martian, 0), 7),
            (key(0, Hook::Socket, Outcome::Rejected, 0), 8),
        ])
    }

    #[test]
    fn rows_have_names_where_there_are_some() {
        let rows = rows(&drops(), &Known);
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    row.reason,
                    row.interface.as_deref(),
                    row.backend.as_deref(),
                    row.packets,
                )
            })
            .collect();
        assert_eq!(
            rows,
            [
                (Outcome::NoSnatPort, Some("veth7"), Some("3#1"), 6),
                (Outcome::NoSnatPort, Some("veth7"), Some("10.244.2.3:80"), 5),
                (Outcome::Rejected, None, None, 8),
                (Outcome::Martian, Some("#9"), None, 7),
            ]
        );
    }

    #[test]
    fn what_has_no_row_is_told_all_the_same() {
        let mut counters = vec![0; Counter::ELEMENTS as usize];
        let mut set = |hook, outcome, count| {
            counters[Counter { hook, outcome }.index() as usize] = count;
        };
        set(Hook::PodIngress, Outcome::NoSnatPort, 11);
        set(Hook::WireIngress, Outcome::Martian, 10);
        set(Hook::WireIngress, Outcome::Seen, 1000);
        let others = others(&counters, &drops());
        let [row] = &others[..] else {
            panic!("{others:?}");
        };
        assert_eq!((row.reason, row.packets), (Outcome::Martian, 3));
    }

    #[test]
    fn a_sample_reads_like_a_packet() {
        let mut event = Event::zeroed();
        assert_eq!(packet(&event), "a packet that could not be read");
        event.src = Ipv4Addr::new(10, 244, 1, 9).into();
        event.dst = Ipv4Addr::new(10, 96, 0, 1).into();
        (event.src_port, event.dst_port, event.ip_len) = (40_000, 80, 60);
        (event.protocol, event.tcp_flags) = (protocol::TCP, SYN | ACK);
        let text = "TCP (SYN, ACK) 10.244.1.9:40000 → 10.96.0.1:80, 60 bytes";
        assert_eq!(packet(&event), text);
        (event.src_port, event.dst_port) = (0, 0);
        (event.protocol, event.tcp_flags) = (protocol::ICMP, 0);
        assert_eq!(packet(&event), "ICMP 10.244.1.9 → 10.96.0.1, 60 bytes");
    }
}
