//! What programs and model remember, side by side.

use std::{collections::HashMap, fmt};

use lb_common::{Flow, Fragments, Pin, PinKey};

use super::Disagreement;
use crate::model::{Connection, Pieces};

/// What a record says, as far as the model tells it. `is_kept` if it lies where no flood displaces it.
pub(super) fn said(flow: &Flow, is_kept: bool) -> String {
    format!(
        "{:?} to {:?} as {}, {:?}, answered: {}, pinned: {}, confirmed: {}",
        flow.tuple(),
        flow.backend,
        flow.snat,
        flow.phase(),
        flow.answered != 0,
        flow.pinned != 0,
        is_kept,
    )
}

/// What is known of a packet in pieces.
pub(super) fn known(pieces: &Fragments) -> Pieces {
    if pieces.is_known == 0 {
        Pieces::Waiting(pieces.held.into())
    } else {
        Pieces::Known(pieces.src_port, pieces.dst_port)
    }
}

pub(super) fn told(connection: &Connection) -> String {
    format!(
        "{:?} to {:?} as {}, {:?}, answered: {}, pinned: {}, confirmed: {}",
        connection.client,
        connection.backend,
        connection.snat,
        connection.phase(),
        connection.answered,
        connection.pinned,
        connection.confirmed
    )
}

/// Pins by the hashes of their keys, which are all that programs keep of some.
pub(super) fn hashed(
    pins: &HashMap<PinKey, Pin>,
    hash: impl Fn(&PinKey) -> u64,
) -> HashMap<u64, Pin> {
    let pins = pins.iter();
    pins.map(|(key, pin)| (hash(key), *pin)).collect()
}

pub(super) fn compare_all<K: Eq + std::hash::Hash + fmt::Debug, V: PartialEq + fmt::Debug>(
    what: &str,
    programs: &HashMap<K, V>,
    model: &HashMap<K, V>,
) -> Result<(), Disagreement> {
    let differs = programs
        .keys()
        .chain(model.keys())
        .find(|key| programs.get(key) != model.get(key));
    match differs {
        None => Ok(()),
        Some(key) => Err(Disagreement(format!(
            "{what}[{key:?}] is\n  {:?}\nand in the model\n  {:?}",
            programs.get(key),
            model.get(key)
        ))),
    }
}
