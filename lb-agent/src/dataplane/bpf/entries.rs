//! Counts the elements of pinned maps, beside the agent's loop.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::{
    Affinity, AffinityKey, Flow, FlowKey, Pin, PinKey,
    maps::{AFFINITY, FLOWS, LAYOUT_VERSION, OPENING, PINS, SOCKETS},
    socket::{SocketKey, SocketPeer},
};

use super::{error::Error, maps::Raw, opening::Opening, pins::Pins};

/// How many elements the map `name` has that is pinned below `pin_dir`, if it is one that the
/// programs fill. Those that come and go meanwhile may be missed, or counted twice.
///
/// # Errors
///
/// [`Error::Map`] if there is no such map, or it cannot be read.
pub fn pinned_entries(pin_dir: &Path, name: &'static str) -> Result<u64, Error> {
    let counted = match name {
        FLOWS => count::<FlowKey, Flow>(pin_dir, name),
        OPENING => {
            let opening = Opening::pinned(&Pins::at(pin_dir, LAYOUT_VERSION))?;
            return Ok(opening.count() as u64);
        }
        PINS => count::<PinKey, Pin>(pin_dir, name),
        AFFINITY => count::<AffinityKey, Affinity>(pin_dir, name),
        SOCKETS => count::<SocketKey, SocketPeer>(pin_dir, name),
        _ => Err(MapError::InvalidMapType { map_type: 0 }),
    };
    counted.map_err(|source| Error::Map {
        action: "count",
        map: name,
        source: Box::new(source),
    })
}

/// What `SOCKETS` below `pin_dir` holds. Elements that come and go meanwhile may be missed.
///
/// # Errors
///
/// [`Error::Map`] if there is no such map, or it cannot be read.
pub fn pinned_sockets(pin_dir: &Path) -> Result<Vec<(SocketKey, SocketPeer)>, Error> {
    let sockets = elements(pin_dir, SOCKETS);
    sockets.map_err(|source| Error::Map {
        action: "read",
        map: SOCKETS,
        source: Box::new(source),
    })
}

fn elements<K: bytemuck::Pod, V: bytemuck::Pod>(
    pin_dir: &Path,
    name: &str,
) -> Result<Vec<(K, V)>, MapError> {
    let data = MapData::from_pin(Pins::at(pin_dir, LAYOUT_VERSION).map(name))?;
    let max = data.info()?.max_entries();
    let map: HashMap<_, Raw<K>, Raw<V>> = Map::LruHashMap(data).try_into()?;
    let elements = map.iter().take(2 * max as usize);
    elements
        .map(|element| element.map(|(Raw(key), Raw(value))| (key, value)))
        .collect()
}

fn count<K: bytemuck::Pod, V: bytemuck::Pod>(pin_dir: &Path, name: &str) -> Result<u64, MapError> {
    let data = MapData::from_pin(Pins::at(pin_dir, LAYOUT_VERSION).map(name))?;
    let max = data.info()?.max_entries();
    let map: HashMap<_, Raw<K>, Raw<V>> = Map::from_map_data(data)?.try_into()?;
    // Where an element is removed under the iteration, it starts anew: there must be an end.
    let keys = map.keys().take(2 * max as usize);
    keys.map(|key| key.map(|_| 1)).sum()
}
