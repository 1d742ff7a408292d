//! Reads and writes the maps.

use std::{collections::BTreeMap, fmt::Display, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
};
use lb_common::{
    Addr, Backend, Flow, FlowKey, Frontend, FrontendKey, Interface, Pin, PinKey, ServiceNets, Slot,
    Vip,
    flow::confirmed,
    maps::{
        ADDRESSES, BACKENDS, COUNTERS, FLOWS, FRONTENDS, INTERFACES, LAYOUT_VERSION, PINS,
        SERVICE_NETS, SLOTS, VIPS,
    },
};

use super::{
    BpfDataplane,
    addresses::Addresses,
    arena::Arena,
    batch::{self, Batches},
    error::{Error, is_absent},
    failpoint,
    index::Index,
    known::Bits,
    opening::Opening,
    pins::Pins,
    ranges::Ranges,
    words::Words,
};
use crate::dataplane::{Dataplane, Element, Error as DataplaneError, Key, Observation, pin_of};

/// How much of `PINS` flows may take that no client has confirmed: half of it.
const OPENING_SHARE: usize = 2;

/// A key or a value as it lies in memory.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: `bytemuck::Pod` guarantees `Copy`, no padding and no invalid bit patterns, and
// `Raw` has the layout of its only field.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}

/// The maps that the agent reads or writes.
pub(super) struct Tables {
    frontends: Table<FrontendKey, Frontend>,
    interfaces: Table<u32, Interface>,
    vips: Table<Addr, Vip>,
    source_ranges: Ranges,
    service_nets: Array<MapData, Raw<ServiceNets>>,
    flows: Table<FlowKey, Flow>,
    opening: Opening,
    pins: Table<PinKey, Pin>,
    backends: Array<MapData, Raw<Backend>>,
    counters: PerCpuArray<MapData, u64>,
    slots: Arena,
    addresses: Addresses,
    index: Index,
    pub(super) known: Bits,
}

impl Tables {
    /// Takes the maps out of `ebpf`; `index` says what its frontends are, and `known` which connections it can know.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        index: Index,
        known: Bits,
        opening: Opening,
    ) -> Result<Self, Error> {
        Ok(Self {
            frontends: Table::take(ebpf, FRONTENDS)?,
            interfaces: Table::take(ebpf, INTERFACES)?,
            vips: Table::take(ebpf, VIPS)?,
            source_ranges: Ranges::take(ebpf)?,
            service_nets: typed(ebpf, SERVICE_NETS)?,
            flows: Table::take(ebpf, FLOWS)?,
            opening,
            pins: Table::take(ebpf, PINS)?,
            backends: typed(ebpf, BACKENDS)?,
            counters: typed(ebpf, COUNTERS)?,
            slots: Arena::new(words(ebpf, SLOTS)?),
            addresses: Addresses::new(words(ebpf, ADDRESSES)?),
            index,
            known,
        })
    }
}

/// The elements of `BACKENDS` that have ever been written.
fn written(
    backends: &Array<MapData, Raw<Backend>>,
) -> Result<BTreeMap<u32, Backend>, DataplaneError> {
    let mut written = BTreeMap::new();
    let read = Batches::new().read(backends, |indexes: &[u32], values: &[Backend]| {
        let elements = indexes.iter().copied().zip(values.iter().copied());
        written.extend(elements.filter(|(_, backend)| backend.generation != 0));
    });
    read.map_err(|error| unread(BACKENDS, error))?;
    Ok(written)
}

/// A hash map.
struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, Raw<K>, Raw<V>>,
    max_entries: u32,
}

impl<K, V> Table<K, V>
where
    K: bytemuck::Pod + Ord + std::fmt::Debug,
    V: bytemuck::Pod,
{
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = take(ebpf, name)?;
        let max_entries = match &map {
            Map::HashMap(data) | Map::LruHashMap(data) => data.info(),
            _ => Err(MapError::InvalidMapType { map_type: 0 }),
        };
        let wrong = |source| unusable(name, source);
        Ok(Self {
            name,
            max_entries: max_entries.map_err(wrong)?.max_entries(),
            map: map.try_into().map_err(wrong)?,
        })
    }

    fn put(&mut self, key: &K, value: &V) -> Result<(), DataplaneError> {
        let put = self.map.insert(Raw(*key), Raw(*value), 0);
        put.map_err(|error| failed("update", self.name, format!("{key:?}"), error))
    }

    fn remove(&mut self, key: &K) -> Result<(), DataplaneError> {
        match self.map.remove(&Raw(*key)) {
            Err(error) if !is_absent(&error) => {
                Err(failed("remove", self.name, format!("{key:?}"), error))
            }
            _ => Ok(()),
        }
    }

    /// The elements; the kernel programs may add and remove some meanwhile.
    fn iter(&self) -> impl Iterator<Item = Result<(K, V), DataplaneError>> + '_ {
        // Where an element is removed under the iteration, it starts anew: there must be an end.
        let elements = self.map.iter().take(2 * self.max_entries as usize);
        elements.map(|element| match element {
            Ok((Raw(key), Raw(value))) => Ok((key, value)),
            Err(error) => Err(failed("read", self.name, "next", error)),
        })
    }

    /// Passes all elements to `take`, many at a time. Those that come and go meanwhile may be missed.
    fn read_batches(&self, take: impl FnMut(&[K], &[V])) -> Result<(), DataplaneError> {
        let read = Batches::new().read(&self.map, take);
        read.map_err(|error| unread(self.name, error))
    }

    fn read(&self) -> Result<BTreeMap<K, V>, DataplaneError> {
        let mut elements = BTreeMap::new();
        self.read_batches(|keys, values| {
            elements.extend(keys.iter().copied().zip(values.iter().copied()));
        })?;
        Ok(elements)
    }
}

pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or_else(|| Error::Missing {
        kind: "map",
        name: name.into(),
    })
}

fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
    let map = take(ebpf, name)?;
    map.try_into().map_err(|source| unusable(name, source))
}

fn words(ebpf: &mut Ebpf, name: &'static str) -> Result<Words, Error> {
    let data = match take(ebpf, name)? {
        Map::Array(data) => data,
        _ => return Err(unusable(name, MapError::InvalidMapType { map_type: 0 })),
    };
    let info = data.info().map_err(|source| unusable(name, source))?;
    // The mapping holds a reference to the map itself; `data` may go.
    Words::new(data.fd().as_fd(), info.max_entries() as usize)
        .map_err(|source| Error::Mmap { map: name, source })
}

pub(super) fn unusable(map: &'static str, source: MapError) -> Error {
    Error::Map {
        action: "use",
        map,
        source: Box::new(source),
    }
}

pub(super) fn failed(
    action: &'static str,
    map: &'static str,
    key: impl Display,
    source: MapError,
) -> DataplaneError {
    DataplaneError::Map {
        action,
        map,
        key: key.to_string(),
        source: Box::new(source),
    }
}

/// Elements cannot be read many at a time.
fn unread(map: &'static str, error: nix::Error) -> DataplaneError {
    DataplaneError::Map {
        action: "read",
        map,
        key: "next".to_owned(),
        source: Box::new(error),
    }
}

impl Dataplane for BpfDataplane {
    fn put(&mut self, element: &Element) -> Result<(), DataplaneError> {
        failpoint::pass();
        let tables = &mut self.tables;
        tables.addresses.add_of(element);
        let refused = |error| failed("update", element.map(), element, error);
        match element {
            Element::Backend(index, backend) => {
                let put = tables.backends.set(*index, Raw(*backend), 0);
                put.map_err(refused)
            }
            Element::Frontend(key, frontend) => {
                tables.frontends.put(key, frontend)?;
                tables.index.put(key, frontend);
                Ok(())
            }
            Element::Interface(ifindex, interface) => tables.interfaces.put(ifindex, interface),
            Element::Vip(addr, vip) => tables.vips.put(addr, vip),
            Element::SourceRange(range) => tables.source_ranges.put(range).map_err(refused),
            Element::ServiceNets(nets) => {
                let put = tables.service_nets.set(0, Raw(**nets), 0);
                put.map_err(refused)
            }
        }
    }

    fn put_all(&mut self, elements: &[&Element]) -> Result<(), DataplaneError> {
        let Tables {
            frontends,
            vips,
            backends,
            addresses,
            ..
        } = &mut self.tables;
        for element in elements {
            addresses.add_of(element);
        }
        let written = match elements.first() {
            // An agent may be killed between any two.
            _ if cfg!(feature = "failpoints") => 0,
            Some(Element::Backend(..)) => {
                let elements = elements.iter().filter_map(|element| match element {
                    Element::Backend(index, backend) => Some((*index, *backend)),
                    _ => None,
                });
                batch::write(backends, elements)
            }
            Some(Element::Frontend(..)) => {
                let elements = elements.iter().filter_map(|element| match element {
                    Element::Frontend(key, frontend) => Some((*key, *frontend)),
                    _ => None,
                });
                batch::write(&frontends.map, elements)
            }
            Some(Element::Vip(..)) => {
                let elements = elements.iter().filter_map(|element| match element {
                    Element::Vip(addr, vip) => Some((*addr, *vip)),
                    _ => None,
                });
                batch::write(&vips.map, elements)
            }
            _ => 0,
        };
        let (written, rest) = elements.split_at_checked(written).unwrap_or_default();
        for element in written {
            if let Element::Frontend(key, frontend) = element {
                self.tables.index.put(key, frontend);
            }
        }
        // What is left is refused, and says why, or is of a map that is written element by element.
        rest.iter().try_for_each(|element| self.put(element))
    }

    fn remove(&mut self, key: &Key) -> Result<(), DataplaneError> {
        failpoint::pass();
        let tables = &mut self.tables;
        match key {
            Key::Frontend(key) => {
                tables.index.remove(key);
                tables.frontends.remove(key)
            }
            Key::Interface(ifindex) => tables.interfaces.remove(ifindex),
            Key::Vip(addr) => tables.vips.remove(addr),
            Key::SourceRange(range) => match tables.source_ranges.remove(range) {
                Err(error) if !is_absent(&error) => Err(failed("remove", key.map(), key, error)),
                _ => Ok(()),
            },
        }
    }

    fn write_slots(&mut self, offset: u32, slots: &[Slot]) -> Result<(), DataplaneError> {
        failpoint::pass();
        let arena = &mut self.tables.slots;
        let written = arena.write(offset, slots);
        written.ok_or_else(|| DataplaneError::OutOfArena {
            offset,
            len: slots.len(),
            capacity: arena.len(),
        })
    }

    fn slots(&self) -> &[Slot] {
        self.tables.slots.as_slice()
    }

    fn pin_flows(
        &mut self,
        is_lost: &dyn Fn(&[Slot], &FlowKey, &Flow) -> bool,
    ) -> Result<(), DataplaneError> {
        let Tables {
            flows,
            opening,
            pins,
            slots,
            known,
            ..
        } = &mut self.tables;
        let (mut lost, mut newest) = (Vec::new(), 0);
        let mut look = |keys: &[FlowKey], records: &[Flow]| {
            for (key, flow) in keys.iter().zip(records) {
                newest = newest.max(flow.seen_tick);
                if is_lost(slots.as_slice(), key, flow) {
                    lost.push((*key, *flow));
                }
            }
        };
        opening.for_each_flow(|key, flow| look(&[key], &[flow]));
        flows.read_batches(&mut look)?;
        lost.retain(|(_, flow)| flow.expires_tick >= newest);
        let (mut lost, mut opening): (Vec<_>, Vec<_>) = lost
            .into_iter()
            .partition(|(_, flow)| flow.confirmed == confirmed::YES);
        // Of two records with one tuple the later one is alive.
        lost.sort_unstable_by_key(|(_, flow)| flow.seen_tick);
        opening.sort_unstable_by_key(|(_, flow)| flow.seen_tick);
        // A flood fills `OPENING`, not `PINS`: those that are confirmed come last, and are the last
        // to be forgotten.
        let some = opening
            .len()
            .saturating_sub(pins.max_entries as usize / OPENING_SHARE);
        let opening = opening.get(some..).unwrap_or_default();
        for (key, flow) in opening.iter().chain(&lost) {
            failpoint::pass();
            let (key, pin) = pin_of(key, flow);
            known.note_pin(&key);
            pins.put(&key, &pin)?;
        }
        Ok(())
    }

    fn mend(&mut self) -> Result<(), DataplaneError> {
        let tables = &mut self.tables;
        tables.index.sync(&tables.frontends.read()?);
        Ok(())
    }

    fn observe(&self) -> Result<Observation, DataplaneError> {
        let tables = &self.tables;
        let Raw(service_nets) = tables
            .service_nets
            .get(&0, 0)
            .map_err(|error| failed("read", SERVICE_NETS, 0, error))?;
        Ok(Observation {
            frontends: tables.frontends.read()?,
            backends: written(&tables.backends)?,
            interfaces: tables.interfaces.read()?,
            vips: tables.vips.read()?,
            source_ranges: tables.source_ranges.read()?,
            service_nets,
            frontends_max: tables.frontends.max_entries,
            backends_max: tables.backends.len(),
            vips_max: tables.vips.max_entries,
            source_ranges_max: tables.source_ranges.max_entries(),
        })
    }
}

impl BpfDataplane {
    /// The connections, in no order. The programs go on meanwhile: some may be missed, others
    /// come twice.
    pub fn flows(&self) -> impl Iterator<Item = Result<(FlowKey, Flow), DataplaneError>> + '_ {
        let Tables { flows, opening, .. } = &self.tables;
        opening.records().into_iter().map(Ok).chain(flows.iter())
    }

    /// Removes a connection; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// [`DataplaneError::Map`] if the kernel refuses.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<(), DataplaneError> {
        self.tables.opening.forget(key);
        self.tables.flows.remove(key)
    }

    /// The elements of `COUNTERS`, each summed up over all CPUs.
    ///
    /// # Errors
    ///
    /// [`DataplaneError::Map`] if the kernel refuses.
    pub fn counters(&self) -> Result<Vec<u64>, DataplaneError> {
        let counters = &self.tables.counters;
        let sum = |index| match counters.get(&index, 0) {
            Ok(values) => Ok(values.iter().sum()),
            Err(error) => Err(failed("read", COUNTERS, index, error)),
        };
        (0..counters.len()).map(sum).collect()
    }
}

/// The elements of `COUNTERS` that are pinned below `pin_dir`, each summed up over all CPUs.
///
/// # Errors
///
/// [`Error::Map`] if there is no such map, or it cannot be read.
pub fn pinned_counters(pin_dir: &Path) -> Result<Vec<u64>, Error> {
    let counters: PerCpuArray<_, u64> = pinned(pin_dir, COUNTERS, Map::PerCpuArray)?;
    (0..counters.len())
        .map(|index| match counters.get(&index, 0) {
            Ok(values) => Ok(values.iter().sum()),
            Err(source) => Err(unusable(COUNTERS, source)),
        })
        .collect()
}

/// The elements of `FRONTENDS` that are pinned below `pin_dir`.
///
/// # Errors
///
/// [`Error::Map`] if there is no such map, or it cannot be read.
pub fn pinned_frontends(pin_dir: &Path) -> Result<BTreeMap<FrontendKey, Frontend>, Error> {
    let frontends: HashMap<_, Raw<FrontendKey>, Raw<Frontend>> =
        pinned(pin_dir, FRONTENDS, Map::HashMap)?;
    frontends
        .iter()
        .map(|element| match element {
            Ok((Raw(key), Raw(frontend))) => Ok((key, frontend)),
            Err(source) => Err(unusable(FRONTENDS, source)),
        })
        .collect()
}

/// The elements of `BACKENDS` that are pinned below `pin_dir` and have ever been written, by
/// index: those that are gone, too.
///
/// # Errors
///
/// [`Error::Map`] if there is no such map, or it cannot be read.
pub fn pinned_backends(pin_dir: &Path) -> Result<BTreeMap<u32, Backend>, Error> {
    let backends: Array<_, Raw<Backend>> = pinned(pin_dir, BACKENDS, Map::Array)?;
    (0..backends.len())
        .map(|index| match backends.get(&index, 0) {
            Ok(Raw(backend)) => Ok((index, backend)),
            Err(source) => Err(unusable(BACKENDS, source)),
        })
        .filter(|element| !matches!(element, Ok((_, backend)) if backend.generation == 0))
        .collect()
}

/// Opens the map `name` that is pinned below `pin_dir`; `kind` is what it has to be.
pub(super) fn pinned<T: TryFrom<Map, Error = MapError>>(
    pin_dir: &Path,
    name: &'static str,
    kind: fn(MapData) -> Map,
) -> Result<T, Error> {
    let path = Pins::at(pin_dir, LAYOUT_VERSION).map(name);
    let data = MapData::from_pin(path).map_err(|source| unusable(name, source))?;
    kind(data)
        .try_into()
        .map_err(|source| unusable(name, source))
}
