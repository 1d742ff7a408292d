//! Removes the records of flows that have expired, beside the agent's loop.
//!
//! A program removes a record only where another flow needs its key, so without this `FLOWS` would
//! fill with connections that have ended.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::{
    Flow, FlowKey, Phase,
    flow::Now,
    maps::{FLOWS, LAYOUT_VERSION},
};

use super::{
    batch::Batches,
    error::{Error, is_absent},
    maps::Raw,
    opening::Opening,
    pins::Pins,
};

/// How long a closed connection keeps its record where there is no room, in seconds: a last segment
/// that is repeated comes earlier, or is taken up again like any other of an unknown connection.
const CLOSED_S: u32 = 10;

/// How long after its claim a record of `OPENING` is surely not being written any more, in seconds: an agent that was killed
/// has left it. A processor of a virtual machine can be stopped for long.
const CLAIMED_S: u64 = 60;

/// What a sweep has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Records of both maps that it has removed.
    pub removed: u64,
    /// Records of `FLOWS` that it has left.
    pub kept: u64,
    /// Records of `OPENING` that it has left.
    pub opening: u64,
    /// How long it took.
    pub took: Duration,
}

/// Sweeps the maps that are pinned.
pub struct Sweeper {
    opening: Opening,
    flows: Records,
    batches: Batches<FlowKey, Flow>,
    /// The newest tick that a packet is known to have come at.
    ///
    /// User space cannot read the kernel's tick: `CLOCK_MONOTONIC_COARSE` advances with it, but from
    /// another beginning, and is set apart by suspension and time namespaces. This is a tick that has
    /// passed, of the clock that the programs themselves read: what had expired then has expired
    /// now. While packets come it is late by a second (by as long as a mark holds, where nobody answers), and
    /// for records that are read before its own by a sweep; a node without packets removes nothing, and needs
    /// no room.
    newest: Option<u64>,
    ticks_per_second: u32,
}

impl Sweeper {
    /// Opens the maps that are pinned below `pin_dir`; of the kernel's ticks, there are so many in a
    /// second.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if there is no such map.
    pub fn open(pin_dir: &Path, ticks_per_second: u32) -> Result<Self, Error> {
        Ok(Self {
            opening: Opening::pinned(&Pins::at(pin_dir, LAYOUT_VERSION))?,
            flows: Records::open(pin_dir, FLOWS)?,
            batches: Batches::new(),
            newest: None,
            ticks_per_second,
        })
    }

    /// Removes what has expired; if there `is_no_room`, connections that both sides have closed, too.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if a map cannot be read or changed.
    pub fn sweep(&mut self, is_no_room: bool) -> Result<Swept, Error> {
        let started = Instant::now();
        let Self {
            opening,
            flows,
            batches,
            newest,
            ticks_per_second,
        } = self;
        let mut clock = Clock {
            newest,
            ticks_per_second: *ticks_per_second,
            is_no_room,
        };
        // The newest packets are those of new flows.
        let (removed_opening, opening) = sweep_opening(opening, &mut clock);
        let (removed, kept) = flows.sweep(batches, &mut clock)?;
        Ok(Swept {
            removed: removed + removed_opening,
            kept,
            opening,
            took: started.elapsed(),
        })
    }
}

/// Removes what is over in `OPENING`, and what an agent has left there that was killed; how many records have gone, and how
/// many are left.
fn sweep_opening(opening: &Opening, clock: &mut Clock<'_>) -> (u64, u64) {
    let (mut over, mut others) = (Vec::new(), 0);
    opening.for_each_flow(|key, flow| {
        clock.advance(flow.seen_tick);
        if clock.is_over(&flow) {
            over.push(key);
        } else {
            others += 1;
        }
    });
    // A packet may have revived some since they were read.
    let remove = |key: &&FlowKey| opening.remove_if(key, |flow| clock.is_over(flow));
    let removed = over.iter().filter(remove).count() as u64;
    others += over.len() as u64 - removed;
    if let Some(newest) = *clock.newest {
        opening.tend(newest, CLAIMED_S * u64::from(clock.ticks_per_second));
    }
    (removed, others)
}

/// `FLOWS`.
struct Records {
    name: &'static str,
    map: HashMap<MapData, Raw<FlowKey>, Raw<Flow>>,
}

impl Records {
    fn open(pin_dir: &Path, name: &'static str) -> Result<Self, Error> {
        let pin = Pins::at(pin_dir, LAYOUT_VERSION).map(name);
        let map = MapData::from_pin(pin)
            .and_then(Map::from_map_data)
            .and_then(HashMap::try_from);
        let map = map.map_err(|source| failed("open", name, source))?;
        Ok(Self { name, map })
    }

    /// Removes what is over; how many those and the others are.
    fn sweep(
        &mut self,
        batches: &mut Batches<FlowKey, Flow>,
        clock: &mut Clock<'_>,
    ) -> Result<(u64, u64), Error> {
        let (mut over, mut others) = (Vec::new(), 0);
        let read = batches.read(&self.map, |keys, flows| {
            for (key, flow) in keys.iter().zip(flows) {
                clock.advance(flow.seen_tick);
                if clock.is_over(flow) {
                    over.push(*key);
                } else {
                    others += 1;
                }
            }
        });
        read.map_err(|errno| failed("read", self.name, MapError::IoError(errno.into())))?;
        let mut removed = 0;
        for key in &over {
            match self.remove_if_over(key, clock) {
                Ok(true) => removed += 1,
                Ok(false) => others += 1,
                Err(source) => return Err(failed("sweep", self.name, source)),
            }
        }
        Ok((removed, others))
    }

    /// Removes a record that was over. False if it has been revived since it was read: a packet may
    /// do that at any time, so this looks at it last thing.
    fn remove_if_over(&mut self, key: &FlowKey, clock: &Clock<'_>) -> Result<bool, MapError> {
        let key = Raw(*key);
        let Some(Raw(flow)) = present(self.map.get(&key, 0))? else {
            return Ok(true);
        };
        let is_over = clock.is_over(&flow);
        if is_over {
            present(self.map.remove(&key))?;
        }
        Ok(is_over)
    }
}

/// What is over, and when.
struct Clock<'a> {
    newest: &'a mut Option<u64>,
    ticks_per_second: u32,
    is_no_room: bool,
}

impl Clock<'_> {
    fn at(&self, tick: u64) -> Now {
        Now {
            tick,
            ticks_per_second: self.ticks_per_second,
        }
    }

    /// A packet was seen at this tick.
    fn advance(&mut self, seen_tick: u64) {
        let is_newer = |newest| self.at(seen_tick).is_after(newest);
        if self.newest.is_none_or(is_newer) {
            *self.newest = Some(seen_tick);
        }
    }

    fn is_over(&self, flow: &Flow) -> bool {
        let Some(newest) = *self.newest else {
            return false;
        };
        let now = self.at(newest);
        let closed_until = self.at(flow.seen_tick).after_s(CLOSED_S);
        let is_closed = flow.phase() == Phase::Closed && now.is_after(closed_until);
        flow.is_expired(now) || self.is_no_room && is_closed
    }
}

/// Nothing where there is no such element (any more).
fn present<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(action: &'static str, map: &'static str, source: MapError) -> Error {
    Error::Map {
        action,
        map,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_tick_only_advances_even_over_the_end_of_the_range() {
        let mut newest = None;
        let mut clock = Clock {
            newest: &mut newest,
            ticks_per_second: 100,
            is_no_room: false,
        };
        let ticks = [(5, 5), (3, 5), (9, 9), (u64::MAX, 9)];
        for (seen, expected) in ticks {
            clock.advance(seen);
            assert_eq!(*clock.newest, Some(expected));
        }
        *clock.newest = Some(u64::MAX);
        clock.advance(4);
        assert_eq!(*clock.newest, Some(4));
    }
}
