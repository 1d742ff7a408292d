//! What the programs' maps hold, many elements at a time.

use std::{io, os::fd::RawFd};

use bytemuck::Pod;
use lb_common::{Affinity, AffinityKey, Flow, FlowKey, FragmentKey, Fragments, Pin, PinKey};

use super::kernel::{BatchAttributes, ElementAttributes, Kernel, address, bpf, command};

/// Elements that are read at once.
const BATCH: usize = 4096;

impl Kernel {
    /// A connection's record.
    #[must_use]
    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        if let Some(table) = &self.table {
            return table.get(key);
        }
        look_up(self.flows, key).or_else(|| look_up(self.opening, key))
    }

    /// A pin.
    #[must_use]
    pub fn pin(&self, key: &PinKey) -> Option<Pin> {
        look_up(self.pins, key).or_else(|| look_up(self.opening_pins, key))
    }

    /// All pins: those of confirmed connections come last.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn pins(&self) -> io::Result<Vec<(PinKey, Pin)>> {
        self.pins_by(command::LOOKUP_BATCH)
    }

    fn pins_by(&self, command: u32) -> io::Result<Vec<(PinKey, Pin)>> {
        let mut pins = batch(command, self.opening_pins)?;
        pins.extend(batch(command, self.pins)?);
        Ok(pins)
    }

    /// Takes all connections out of `FLOWS`.
    ///
    /// # Errors
    ///
    /// If the map cannot be emptied.
    pub fn take_flows(&self) -> io::Result<Vec<(FlowKey, Flow)>> {
        if self.table.is_some() {
            return Ok(self.take_records(true));
        }
        batch(command::LOOKUP_AND_DELETE_BATCH, self.flows)
    }

    /// Takes records out of the table: those that are kept from being displaced, or the others.
    fn take_records(&self, kept: bool) -> Vec<(FlowKey, Flow)> {
        let tables = self.table.iter().map(|table| table.take(kept));
        tables.flatten().collect()
    }

    /// Takes all connections out of `OPENING`.
    ///
    /// # Errors
    ///
    /// If the map cannot be emptied.
    pub fn take_opening(&self) -> io::Result<Vec<(FlowKey, Flow)>> {
        if self.table.is_some() {
            return Ok(self.take_records(false));
        }
        batch(command::LOOKUP_AND_DELETE_BATCH, self.opening)
    }

    /// Takes all pins out: those of confirmed connections come last.
    ///
    /// # Errors
    ///
    /// If a map cannot be emptied.
    pub fn take_pins(&self) -> io::Result<Vec<(PinKey, Pin)>> {
        self.pins_by(command::LOOKUP_AND_DELETE_BATCH)
    }

    /// Takes all clients' affinities out.
    ///
    /// # Errors
    ///
    /// If the map cannot be emptied.
    pub fn take_affinity(&self) -> io::Result<Vec<(AffinityKey, Affinity)>> {
        batch(command::LOOKUP_AND_DELETE_BATCH, self.affinity)
    }

    /// Takes all that is known of packets in pieces out.
    ///
    /// # Errors
    ///
    /// If the map cannot be emptied.
    pub fn take_pieces(&self) -> io::Result<Vec<(FragmentKey, Fragments)>> {
        batch(command::LOOKUP_AND_DELETE_BATCH, self.pieces)
    }
}

fn look_up<K: Pod, V: Pod>(map: RawFd, key: &K) -> Option<V> {
    let mut value = V::zeroed();
    let mut attributes = ElementAttributes {
        map: map as u32,
        key: address(key),
        value: address(&raw mut value),
        ..ElementAttributes::default()
    };
    bpf(command::LOOKUP, &mut attributes).ok()?;
    Some(value)
}

/// Reads all elements of a hash map, or takes them out.
fn batch<K: Pod, V: Pod>(command: u32, map: RawFd) -> io::Result<Vec<(K, V)>> {
    let (mut keys, mut values) = (vec![K::zeroed(); BATCH], vec![V::zeroed(); BATCH]);
    let (mut at, mut is_first, mut all) = (0_u64, true, Vec::new());
    loop {
        let mut attributes = BatchAttributes {
            from: if is_first { 0 } else { address(&raw const at) },
            to: address(&raw mut at),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: BATCH as u32,
            map: map as u32,
            ..BatchAttributes::default()
        };
        let done = bpf(command, &mut attributes);
        let count = attributes.count as usize;
        all.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        is_first = false;
        match done {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(error) => return Err(error),
        }
    }
}
