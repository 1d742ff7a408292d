//! What elements of `FLOWS` and `OPENING` say, on their way from old maps to new ones.

use lb_common::{
    Flow, FlowKey,
    flow::{Phase, edge},
    protocol,
};

/// The record that an element's value is.
pub(super) fn record(value: &[u8]) -> Flow {
    bytemuck::pod_read_unaligned(value)
}

/// Whether both ends have closed the connection.
pub(super) fn is_closed(value: &[u8]) -> bool {
    record(value).phase() == Phase::Closed
}

/// Makes the record say no more than that its port of SNAT is taken: no packet belongs to it.
///
/// As long as old programs look after the connection, they may end it and give the port to another one.
/// A new program that took packets of that for the first one's would send them to the wrong client.
/// Datagrams are no connection that old programs would go on with: their records stay as they are.
pub(super) fn reserve(key: &[u8], value: &mut [u8]) {
    if shares_ports(key) {
        let mut flow = record(value);
        flow.reserve();
        value.copy_from_slice(bytemuck::bytes_of(&flow));
    }
}

/// Whether the record says only that.
pub(super) fn is_reserved(key: &[u8], value: &[u8]) -> bool {
    shares_ports(key) && record(value).is_reserved()
}

/// Whether it is a connection with one of the ports that all of the node's have in common.
pub(super) fn shares_ports(key: &[u8]) -> bool {
    let key: FlowKey = bytemuck::pod_read_unaligned(key);
    key.edge == edge::WIRE_INGRESS && key.protocol == protocol::TCP
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytemuck::{Zeroable as _, bytes_of};
    use lb_common::{Addr, Protocol};

    use super::*;

    fn reserved(edge: u32, protocol: Protocol) -> bool {
        let key = FlowKey {
            edge,
            protocol,
            ..FlowKey::zeroed()
        };
        let flow = Flow {
            client: Ipv4Addr::LOCALHOST.into(),
            snat: Ipv4Addr::LOCALHOST.into(),
            client_port: 7,
            expires_tick: 9,
            ..Flow::zeroed()
        };
        let mut value = bytes_of(&flow).to_vec();
        reserve(bytes_of(&key), &mut value);
        let left = record(&value);
        assert_eq!((left.client_port, left.expires_tick), (7, 9));
        let is_reserved = is_reserved(bytes_of(&key), &value);
        assert_eq!(left.snat == Addr::UNSPECIFIED, is_reserved);
        is_reserved
    }

    #[test]
    fn ports_of_connections_that_are_shared_are_reserved_and_no_others() {
        assert!(reserved(edge::WIRE_INGRESS, protocol::TCP));
        assert!(!reserved(edge::WIRE_INGRESS, protocol::UDP));
        assert!(!reserved(edge::WIRE_EGRESS, protocol::TCP));
        assert!(!reserved(7, protocol::TCP));
    }
}
