//! Connections that netfilter translates, by rules of a proxy that was there before.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapError};
use bytemuck::Zeroable as _;
use lb_common::{
    Flow, FlowKey, Pin, PinKey, Tuple,
    flow::{confirmed, edge},
    maps::{FLOWS, LAYOUT_VERSION, PINS},
};

use super::{error::Error, maps::Raw, pins::Pins, raw::Put};

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
/// [`Error::Map`] if a map cannot be changed.
pub fn leave(pin_dir: &Path, connections: &[Elsewhere], expires_tick: u64) -> Result<usize, Error> {
    let mut pins = Marks::<PinKey, Pin>::open(pin_dir, PINS)?;
    let mut flows = Marks::<FlowKey, Flow>::open(pin_dir, FLOWS)?;
    let some = connections.len().min(pins.max_entries / SHARE);
    let connections = connections.get(..some).unwrap_or_default();
    for connection in connections {
        pins.put(connection.forward.pin(), Pin::ELSEWHERE, Put::Any)?;
        if connection.reply.dst != connection.forward.src {
            let (key, flow) = taken(connection, expires_tick);
            flows.put(key, flow, Put::IfAbsent)?;
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

/// A map that they are noted in.
struct Marks<K, V> {
    name: &'static str,
    map: HashMap<MapData, Raw<K>, Raw<V>>,
    max_entries: usize,
}

impl<K: bytemuck::Pod, V: bytemuck::Pod> Marks<K, V> {
    fn open(pin_dir: &Path, name: &'static str) -> Result<Self, Error> {
        let failed = |source| unusable("open", name, source);
        let pin = Pins::at(pin_dir, LAYOUT_VERSION).map(name);
        let data = MapData::from_pin(pin).map_err(failed)?;
        let max_entries = data.info().map_err(failed)?.max_entries() as usize;
        let map = Map::from_map_data(data).and_then(HashMap::try_from);
        Ok(Self {
            name,
            map: map.map_err(failed)?,
            max_entries,
        })
    }

    /// One that is there is left alone, where that is asked for, and where there is no room is none.
    fn put(&mut self, key: K, value: V, put: Put) -> Result<(), Error> {
        match self.map.insert(Raw(key), Raw(value), put as u64) {
            Err(MapError::SyscallError(error))
                if matches!(
                    error.io_error.raw_os_error(),
                    Some(libc::EEXIST | libc::E2BIG)
                ) =>
            {
                Ok(())
            }
            put => put.map_err(|source| unusable("change", self.name, source)),
        }
    }
}

fn unusable(action: &'static str, map: &'static str, source: MapError) -> Error {
    Error::Map {
        action,
        map,
        source: Box::new(source),
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
