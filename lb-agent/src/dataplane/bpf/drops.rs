//! Reads what the programs tell of dropped packets, beside the agent's loop.

use std::{collections::BTreeMap, io, path::Path};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf};
use lb_common::{
    Backend, BackendRef, DropKey,
    drops::Event,
    maps::{BACKENDS, DROPS, DROPS_MAX, EVENTS, LAST_DROPS},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    error::{Error, is_absent},
    maps::{Raw, pinned, unusable},
};

type Drops = PerCpuHashMap<MapData, Raw<DropKey>, u64>;

/// The elements of `DROPS` that are pinned below `pin_dir`, each summed up over all CPUs.
///
/// # Errors
///
/// [`Error::Map`] if there is no such map, or it cannot be read.
pub fn pinned_drops(pin_dir: &Path) -> Result<BTreeMap<DropKey, u64>, Error> {
    let drops: Drops = pinned(pin_dir, DROPS, Map::PerCpuHashMap)?;
    read(&drops)
}

fn read(drops: &Drops) -> Result<BTreeMap<DropKey, u64>, Error> {
    // Where an element is removed under the iteration, it starts anew: there must be an end.
    let elements = drops.iter().take(2 * DROPS_MAX);
    let elements = elements.map(|element| {
        let (Raw(key), values) = element.map_err(failed)?;
        Ok((key, values.iter().sum()))
    });
    elements.collect()
}

/// Removes the elements of `DROPS` for which `keep` is not true.
///
/// # Errors
///
/// [`Error::Map`] if there is no such map, or it cannot be changed.
pub fn retain_drops(pin_dir: &Path, keep: impl Fn(&DropKey) -> bool) -> Result<(), Error> {
    let mut drops: Drops = pinned(pin_dir, DROPS, Map::PerCpuHashMap)?;
    let gone = read(&drops)?.into_keys().filter(|key| !keep(key));
    for key in gone {
        match drops.remove(&Raw(key)) {
            Err(error) if !is_absent(&error) => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(())
}

fn failed(source: MapError) -> Error {
    unusable(DROPS, source)
}

/// The last dropped packet of each reason, on any CPU. One that is being written this moment may
/// be half another one.
///
/// # Errors
///
/// [`Error::Map`] if there is no such map, or it cannot be read.
pub fn pinned_last_drops(pin_dir: &Path) -> Result<Vec<Event>, Error> {
    let last: PerCpuArray<_, Raw<Event>> = pinned(pin_dir, LAST_DROPS, Map::PerCpuArray)?;
    let mut events = Vec::new();
    for reason in 0..last.len() {
        let values = last.get(&reason, 0);
        let values = values.map_err(|source| unusable(LAST_DROPS, source))?;
        let newest = values.iter().map(|Raw(event)| *event);
        let newest = newest.max_by_key(|event| event.time_ns);
        events.extend(newest.filter(|event| event.time_ns != 0));
    }
    Ok(events)
}

/// The element of `BACKENDS` that is pinned below `pin_dir` and that `reference` is to; nothing if
/// it has become another backend.
///
/// # Errors
///
/// [`Error::Map`] if there is no such map, or it cannot be read.
pub fn pinned_backend(pin_dir: &Path, reference: BackendRef) -> Result<Option<Backend>, Error> {
    let backends: Array<_, Raw<Backend>> = pinned(pin_dir, BACKENDS, Map::Array)?;
    let found = backends.get(&reference.index(), 0);
    let Raw(backend) = found.map_err(|source| unusable(BACKENDS, source))?;
    Ok(Some(backend).filter(|backend| backend.is(reference)))
}

/// The samples of dropped packets, as the programs send them. There must be one reader at a time.
pub struct DropEvents {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl DropEvents {
    /// Opens the ring buffer that is pinned below `pin_dir`. What waits there is from before our
    /// time, and is skipped.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if there is no such map, [`Error::Events`] if it cannot be waited for.
    pub fn open(pin_dir: &Path) -> Result<Self, Error> {
        let mut ring: RingBuf<MapData> = pinned(pin_dir, EVENTS, Map::RingBuf)?;
        while ring.next().is_some() {}
        // SAFETY: the ring buffer owns its descriptor, gives the same one each time, and closes it
        // only when it is dropped, which `AsyncFd` does after it has let go of it.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(|error| Error::Events(error.into()))?;
        Ok(Self { ring })
    }

    /// Waits for the next sample. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// If the ring buffer cannot be waited for.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.take() {
                return Ok(event);
            }
            // Cleared before the ring is looked at again: what comes meanwhile makes it ready anew.
            self.ring.readable_mut().await?.clear_ready();
        }
    }

    fn take(&mut self) -> Option<Event> {
        let item = self.ring.get_mut().next()?;
        bytemuck::try_pod_read_unaligned(&item).ok()
    }
}
