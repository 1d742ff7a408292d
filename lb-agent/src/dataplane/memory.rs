//! A twin of the kernel's maps in memory, for tests of everything above them.

use std::collections::{BTreeMap, HashMap};

use lb_common::{Backend, Flow, FlowKey, Frontend, FrontendKey, Interface, Pin, PinKey, Slot};

use super::{Dataplane, Error, Observation, pin_of};

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
                ..Observation::default()
            },
            slots: vec![Slot::default(); slots],
            flows: BTreeMap::new(),
            pins: HashMap::new(),
            operations: 0,
            fails_after: usize::MAX,
        }
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
    fn put_backend(&mut self, index: u32, backend: &Backend) -> Result<(), Error> {
        self.step("BACKENDS", index)?;
        self.maps.backends.insert(index, *backend);
        Ok(())
    }

    fn write_slots(&mut self, offset: u32, slots: &[Slot]) -> Result<(), Error> {
        self.step("SLOTS", offset)?;
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

    fn put_frontend(&mut self, key: &FrontendKey, frontend: &Frontend) -> Result<(), Error> {
        self.step("FRONTENDS", key.addr)?;
        self.maps.frontends.insert(*key, *frontend);
        Ok(())
    }

    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), Error> {
        self.step("FRONTENDS", key.addr)?;
        self.maps.frontends.remove(key);
        Ok(())
    }

    fn pin_flows(
        &mut self,
        is_lost: &dyn Fn(&[Slot], &FlowKey, &Flow) -> bool,
    ) -> Result<(), Error> {
        self.step("PINS", "flows")?;
        for (key, flow) in &self.flows {
            if is_lost(&self.slots, key, flow) {
                let (key, pin) = pin_of(key, flow);
                self.pins.insert(key, pin);
            }
        }
        Ok(())
    }

    fn put_interface(&mut self, ifindex: u32, interface: &Interface) -> Result<(), Error> {
        self.step("INTERFACES", ifindex)?;
        self.maps.interfaces.insert(ifindex, *interface);
        Ok(())
    }

    fn remove_interface(&mut self, ifindex: u32) -> Result<(), Error> {
        self.step("INTERFACES", ifindex)?;
        self.maps.interfaces.remove(&ifindex);
        Ok(())
    }

    fn observe(&self) -> Result<Observation, Error> {
        Ok(self.maps.clone())
    }
}
