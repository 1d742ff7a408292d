//! Connections that netfilter translates, by rules of a proxy that was there before.

use std::path::Path;

use bytemuck::{Zeroable as _, bytes_of};
use lb_common::{
    Flow, FlowKey, Pin, Tuple,
    flow::{confirmed, edge},
    maps::{FLOWS, LAYOUT_VERSION, PINS},
};

use super::{
    error::Error,
    known::Bits,
    pins::Pins,
    raw::{Put, RawMap},
};

/// Part of `PINS` that marks may take: the others are of connections of ours.
const SHARE: usize = 2;

/// A connection that netfilter translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// What the client sends.
    pub forward: Tuple,
    /// What the backend answers.
    pub reply: Tuple,
}

/// Leaves these connections to netfilter for as long as they last: the programs let their packets pass, and
/// give their ports to nobody else until `expires_tick`. Returns how many; there is room for half as many as
/// `PINS` has.
///
/// # Errors
///
/// [`Error::Map`] if a map cannot be changed, [`Error::Mmap`] if `KNOWN` cannot be.
pub fn leave(pin_dir: &Path, connections: &[Elsewhere], expires_tick: u64) -> Result<usize, Error> {
    let live = Pins::at(pin_dir, LAYOUT_VERSION);
    let [pins, flows] = [RawMap::pinned(PINS, &live)?, RawMap::pinned(FLOWS, &live)?];
    let known = Bits::open(&live)?;
    let room = pins.spec.max_entries as usize / SHARE;
    let connections = connections.get(..room).unwrap_or(connections);
    for connection in connections {
        let pin = connection.forward.pin();
        known.note_pin(&pin);
        put(&pins, bytes_of(&pin), bytes_of(&Pin::ELSEWHERE))?;
        if connection.reply.dst != connection.forward.src {
            let (key, flow) = taken(connection, expires_tick);
            known.note_flow(&key);
            put(&flows, bytes_of(&key), bytes_of(&flow))?;
        }
    }
    Ok(connections.len())
}

/// The record by which a port that backends see is taken. Netfilter masquerades with ports of all kinds,
/// those of our SNAT among them.
fn taken(connection: &Elsewhere, expires_tick: u64) -> (FlowKey, Flow) {
    let Elsewhere { forward, reply } = connection;
    let mut flow = Flow {
        frontend: forward.dst,
        client_port: forward.src_port,
        frontend_port: forward.dst_port,
        expires_tick,
        answered: 1,
        protocol: forward.protocol,
        confirmed: confirmed::YES,
        ..Flow::zeroed()
    };
    flow.reserve();
    (FlowKey::of_reply(reply, edge::WIRE_INGRESS), flow)
}

/// What is there is of a connection of ours, and stays; and who finds no room is served like anybody.
fn put(map: &RawMap, key: &[u8], value: &[u8]) -> Result<(), Error> {
    match map.put(key, value, Put::IfAbsent) {
        Err(error) if error.raw_os_error() != Some(libc::E2BIG) => {
            Err(Error::of_map("change", map.spec.name, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use lb_common::{Phase, protocol};

    use super::*;

    #[test]
    fn a_port_that_is_taken_is_so_for_the_backends_answers_and_for_no_packet() {
        let tuple = |src: [u8; 4], src_port, dst: [u8; 4], dst_port| Tuple {
            src: IpAddr::from(src).into(),
            dst: IpAddr::from(dst).into(),
            src_port,
            dst_port,
            protocol: protocol::TCP,
        };
        let connection = Elsewhere {
            forward: tuple([192, 0, 2, 9], 40_000, [192, 0, 2, 1], 30_080),
            reply: tuple([10, 0, 1, 2], 80, [192, 0, 2, 1], 61_234),
        };
        let (key, flow) = taken(&connection, 7);
        assert_eq!(key.src, Ipv4Addr::new(10, 0, 1, 2).into());
        assert_eq!((key.src_port, key.dst_port), (80, 61_234));
        assert!(flow.is_reserved() && flow.is_reserved_for(&connection.forward));
        assert_eq!((flow.seen_tick, flow.expires_tick), (0, 7));
        assert_eq!(flow.phase(), Phase::Established);
    }
}
