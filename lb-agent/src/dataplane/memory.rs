//! A twin of the kernel's maps in memory, for tests of everything above them.

use std::collections::{BTreeMap, HashMap};

use lb_common::{Flow, FlowKey, Pin, PinKey, Slot, maps};

use super::{Dataplane, Element, Error, Key, Observation, pin_of};

/// Maps in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    maps: Observation,
    slots: Vec<Slot>,
    /// Connections that the programs would have noted.
    pub flows: BTreeMap<FlowKey, Flow>,
    /// Connections that are pinned.
    pub pins: HashMap<PinKey, Pin>,
    /// Operations so far.
    pub operations: usize,
    /// Every operation fails once this many have succeeded.
    pub fails_after: usize,
}

impl Memory {
    /// Empty maps with room for this many frontends, backends and slots.
    #[must_use]
    pub fn new(frontends: u32, backends: u32, slots: usize) -> Self {
        Self {
            maps: Observation {
                frontends_max: frontends,
                backends_max: backends,
                vips_max: u32::MAX,
                source_ranges_max: u32::MAX,
                ..Observation::default()
            },
            slots: vec![Slot::default(); slots],
            flows: BTreeMap::new(),
            pins: HashMap::new(),
            operations: 0,
            fails_after: usize::MAX,
        }
    }

    /// Leaves room for this many addresses and source ranges.
    pub fn limit(&mut self, vips: u32, source_ranges: u32) {
        self.maps.vips_max = vips;
        self.maps.source_ranges_max = source_ranges;
    }

    /// What the maps hold.
    #[must_use]
    pub fn maps(&self) -> &Observation {
        &self.maps
    }

    fn step(&mut self, map: &'static str, key: impl ToString) -> Result<(), Error> {
        if self.operations >= self.fails_after {
            return Err(Error::Map {
                action: "update",
                map,
                key: key.to_string(),
                source: "told to fail".into(),
            });
        }
        self.operations += 1;
        Ok(())
    }
}

impl Dataplane for Memory {
    fn put(&mut self, element: &Element) -> Result<(), Error> {
        self.step(element.map(), element)?;
        let maps = &mut self.maps;
        match element {
            Element::Backend(index, backend) => {
                maps.backends.insert(*index, *backend);
            }
            Element::Frontend(key, frontend) => {
                maps.frontends.insert(*key, *frontend);
            }
            Element::Interface(ifindex, interface) => {
                maps.interfaces.insert(*ifindex, *interface);
            }
            Element::Vip(addr, vip) => {
                maps.vips.insert(*addr, *vip);
            }
            Element::SourceRange(range) => {
                maps.source_ranges.insert(*range);
            }
            Element::ServiceNets(nets) => maps.service_nets = **nets,
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), Error> {
        self.step(key.map(), key)?;
        let maps = &mut self.maps;
        match key {
            Key::Frontend(key) => {
                maps.frontends.remove(key);
            }
            Key::Interface(ifindex) => {
                maps.interfaces.remove(ifindex);
            }
            Key::Vip(addr) => {
                maps.vips.remove(addr);
            }
            Key::SourceRange(range) => {
                maps.source_ranges.remove(range);
            }
        }
        Ok(())
    }

    fn write_slots(&mut self, offset: u32, slots: &[Slot]) -> Result<(), Error> {
        self.step(maps::SLOTS, offset)?;
        let capacity = self.slots.len();
        let start = offset as usize;
        let place = start
            .checked_add(slots.len())
            .and_then(|end| self.slots.get_mut(start..end))
            .ok_or(Error::OutOfArena {
                offset,
                len: slots.len(),
                capacity,
            })?;
        place.copy_from_slice(slots);
        Ok(())
    }

    fn slots(&self) -> &[Slot] {
        &self.slots
    }

    fn pin_flows(
        &mut self,
        is_lost: &dyn Fn(&[Slot], &FlowKey, &Flow) -> bool,
    ) -> Result<(), Error> {
        self.step(maps::PINS, "flows")?;
        for (key, flow) in &self.flows {
            if is_lost(&self.slots, key, flow) {
                let (key, pin) = pin_of(key, flow);
                self.pins.insert(key, pin);
            }
        }
        Ok(())
    }

    fn observe(&self) -> Result<Observation, Error> {
        Ok(self.maps.clone())
    }
}
