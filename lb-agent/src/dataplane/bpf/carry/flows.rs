//! Records of connections, which old and new programs keep at the same time.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
};

use lb_common::maps::{FLOWS, OPENING};

use super::{
    copy::{Copies, Copy},
    records::{is_reserved, record, reserve, shares_ports},
};
use crate::dataplane::bpf::{error::Error, pins::Pins, raw::RawMap};

impl Copies {
    /// From now on, what new programs have recorded is newer than what old ones have.
    pub(super) fn trust_new_ones(&mut self, to_pins: &Pins) -> Result<(), Error> {
        self.defers = true;
        for copy in &mut self.copies {
            let other = match copy.to.spec.name {
                FLOWS => OPENING,
                OPENING => FLOWS,
                _ => continue,
            };
            copy.beside = RawMap::open(other, &to_pins.map(other))?;
        }
        Ok(())
    }

    /// Reserves the ports of SNAT that old programs have given away since they were last looked at: from
    /// now on new ones give them away, too.
    pub(super) fn reserve(&mut self) -> Result<(), Error> {
        if !self.defers {
            return Ok(());
        }
        for copy in &mut self.copies {
            if copy.has_records() {
                let reserved = copy.reserve(&self.hasher);
                reserved.map_err(|source| copy.failed(source))?;
            }
        }
        Ok(())
    }

    /// The copies of `FLOWS` and of `OPENING`.
    fn flows_and_opening(&mut self) -> Option<[&mut Copy; 2]> {
        let (mut flows, mut opening) = (None, None);
        for copy in &mut self.copies {
            match copy.to.spec.name {
                FLOWS => flows = Some(copy),
                OPENING => opening = Some(copy),
                _ => {}
            }
        }
        Some([flows?, opening?])
    }

    /// A key has one record. A connection that was confirmed meanwhile is in `FLOWS` alone; of two
    /// connections that have had the same ports, the later one has them.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let Some([flows, opening]) = self.flows_and_opening() else {
            return Ok(());
        };
        // After both: a record may have gone from one to the other.
        for copy in [&mut *flows, &mut *opening] {
            let removed = copy.remove_reserved();
            removed.map_err(|source| copy.failed(source))?;
        }
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let settled = opening.keys().and_then(|keys| {
            for key in keys {
                if !flows.to.get(&key, &mut one)? || !opening.to.get(&key, &mut other)? {
                    continue;
                }
                let (confirmed, begun) = (record(&one), record(&other));
                if begun.tuple() != confirmed.tuple() && begun.is_seen_after(&confirmed) {
                    flows.to.remove(&key)?;
                } else {
                    opening.to.remove(&key)?;
                }
            }
            Ok(())
        });
        settled.map_err(|source| opening.failed(source))
    }

    /// Adds connections that have been closed, last of all: what goes on needs the room more.
    pub(super) fn add_closed(&mut self) -> Result<(), Error> {
        let Some([flows, _]) = self.flows_and_opening() else {
            return Ok(());
        };
        let closed = std::mem::take(&mut flows.closed);
        let added = closed.iter().try_for_each(|(key, value)| {
            // The second look is for one that begins in between.
            if flows.add(key, value)? && flows.is_taken_beside(key, value)? {
                flows.to.remove(key)?;
            }
            Ok(())
        });
        added.map_err(|source| flows.failed(source))
    }
}

impl Copy {
    /// Reserves what has come since the last look.
    fn reserve(&mut self, hasher: &RandomState) -> io::Result<()> {
        let mut copied = std::mem::take(&mut self.copied);
        self.from.for_each(|key, value| {
            let Some((key, mut value)) = self.convert(key, value) else {
                return Ok(());
            };
            let id = hasher.hash_one(&key);
            if !shares_ports(&key) || self.is_closed(&value) || copied.contains_key(&id) {
                return Ok(());
            }
            reserve(&key, &mut value);
            if self.add(&key, &value)? {
                copied.insert(id, hasher.hash_one(&value));
            }
            Ok(())
        })?;
        self.copied = copied;
        Ok(())
    }

    /// Removes what the old programs have forgotten meanwhile.
    fn remove_reserved(&self) -> io::Result<()> {
        let mut reserved = Vec::new();
        self.to.for_each(|key, value| {
            if is_reserved(key, value) {
                reserved.push(key.to_vec());
            }
            Ok(())
        })?;
        reserved.iter().try_for_each(|key| self.to.remove(key))
    }

    /// Whether another connection has the key in the map beside this one.
    pub(super) fn is_taken_beside(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        let mut there = Vec::new();
        match &self.beside {
            Some(beside) if beside.get(key, &mut there)? => {
                let is_same = record(&there).tuple() == record(value).tuple();
                Ok(!is_same && !is_reserved(key, &there))
            }
            _ => Ok(false),
        }
    }
}
