//! Numbers for Service ports and backends, the same for as long as what they stand for lives.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use lb_common::{Addr, Backend, BackendRef, Frontend, FrontendKey, SourceRange};

use super::PortName;

/// A backend of a Service port: its address and port.
type Place = (Addr, u16);

/// `BACKENDS` has no free element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The numbers in use.
///
/// A Service port is recognised after a restart by any frontend that it had; a backend by its
/// Service port, address and port.
#[derive(Clone, Debug)]
pub struct Ids {
    ports: HashMap<Arc<PortName>, u32>,
    /// Numbers of an earlier run, by frontend, and those of them that have been claimed.
    known: BTreeMap<FrontendKey, u32>,
    claimed: HashSet<u32>,
    next_port: u32,
    /// Backends by Service port.
    backends: HashMap<u32, BTreeMap<Place, Number>>,
    /// Backends that no slice names any more, the oldest first. Their numbers are kept for their
    /// flows, and for their return, until there is no other.
    retired: BTreeMap<u64, (u32, Place)>,
    next_retirement: u64,
    next_backend: u32,
    backends_max: u32,
}

/// The number of a backend.
#[derive(Clone, Copy, Debug)]
struct Number {
    reference: BackendRef,
    /// Its place among the retired.
    retired: Option<u64>,
}

impl Ids {
    /// No number is in use; `BACKENDS` has `backends_max` elements.
    #[must_use]
    pub fn new(backends_max: u32) -> Self {
        Self {
            ports: HashMap::new(),
            known: BTreeMap::new(),
            claimed: HashSet::new(),
            next_port: 1,
            backends: HashMap::new(),
            retired: BTreeMap::new(),
            next_retirement: 0,
            next_backend: 0,
            backends_max: backends_max.min(BackendRef::MAX_INDEX + 1),
        }
    }

    /// The numbers that the maps hold.
    #[must_use]
    pub fn restore(
        frontends: &BTreeMap<FrontendKey, Frontend>,
        backends: &BTreeMap<u32, Backend>,
        source_ranges: &BTreeSet<SourceRange>,
        backends_max: u32,
    ) -> Self {
        let mut ids = Self::new(backends_max);
        // Of an update that was broken off, ranges may be all that is left.
        for range in source_ranges {
            ids.next_port = ids.next_port.max(range.service.saturating_add(1));
        }
        for (key, frontend) in frontends {
            ids.known.insert(*key, frontend.service);
            ids.next_port = ids.next_port.max(frontend.service.saturating_add(1));
        }
        for (index, backend) in backends {
            let reference = BackendRef::new(*index, backend.generation);
            let number = Number {
                reference,
                retired: None,
            };
            let of_port = ids.backends.entry(backend.service).or_default();
            if let Some(older) = of_port.insert((backend.addr, backend.port), number) {
                tracing::debug!(
                    ?older,
                    ?reference,
                    "two elements of BACKENDS name one backend"
                );
            }
            ids.next_port = ids.next_port.max(backend.service.saturating_add(1));
            ids.next_backend = ids.next_backend.max(index + 1);
        }
        ids
    }

    /// The number of a Service port that has these frontends.
    pub fn port<'a>(
        &mut self,
        name: &Arc<PortName>,
        frontends: impl IntoIterator<Item = &'a FrontendKey>,
    ) -> u32 {
        if let Some(id) = self.ports.get(name) {
            return *id;
        }
        // Two ports that swapped frontends while nobody looked must not share a number.
        let known = frontends
            .into_iter()
            .filter_map(|key| self.known.get(key))
            .find(|id| !self.claimed.contains(id))
            .copied();
        let id = match known {
            Some(id) => {
                self.claimed.insert(id);
                id
            }
            None => {
                let id = self.next_port;
                self.next_port = id.wrapping_add(1).max(1);
                id
            }
        };
        self.ports.insert(name.clone(), id);
        id
    }

    /// The number of a backend of the Service port `service`.
    ///
    /// # Errors
    ///
    /// [`Full`] if every element of `BACKENDS` is in use.
    pub fn backend(&mut self, service: u32, addr: Addr, port: u16) -> Result<BackendRef, Full> {
        let place = (addr, port);
        let known = self.backends.get_mut(&service);
        if let Some(number) = known.and_then(|numbers| numbers.get_mut(&place)) {
            if let Some(retirement) = number.retired.take() {
                self.retired.remove(&retirement);
            }
            return Ok(number.reference);
        }
        let reference = self.fresh()?;
        let number = Number {
            reference,
            retired: None,
        };
        let numbers = self.backends.entry(service).or_default();
        numbers.insert(place, number);
        Ok(reference)
    }

    fn fresh(&mut self) -> Result<BackendRef, Full> {
        if self.next_backend < self.backends_max {
            let index = self.next_backend;
            self.next_backend += 1;
            return Ok(BackendRef::new(index, 1));
        }
        let (_, (service, place)) = self.retired.pop_first().ok_or(Full)?;
        let numbers = self.backends.get_mut(&service).ok_or(Full)?;
        let old = numbers.remove(&place).ok_or(Full)?.reference;
        if numbers.is_empty() {
            self.backends.remove(&service);
        }
        let generation = old.generation().wrapping_add(1).max(1);
        Ok(BackendRef::new(old.index(), generation))
    }

    /// Notes which backends of a Service port are in use now; the others retire.
    pub fn settle(&mut self, service: u32, is_used: impl Fn(u32) -> bool) {
        for (place, number) in self.backends.get_mut(&service).into_iter().flatten() {
            if number.retired.is_none() && !is_used(number.reference.index()) {
                number.retired = Some(self.next_retirement);
                self.retired.insert(self.next_retirement, (service, *place));
                self.next_retirement += 1;
            }
        }
    }

    /// Forgets a Service port; its backends retire.
    pub fn release(&mut self, service: u32, name: &PortName) {
        self.ports.remove(name);
        self.settle(service, |_| false);
    }

    /// Ends the time after a restart, in which ports are recognised: what none has claimed is
    /// gone, and the backends of ports that do not live retire.
    pub fn forget_unclaimed(&mut self, lives: impl Fn(u32) -> bool) {
        self.known.clear();
        self.claimed.clear();
        let mut gone: Vec<u32> = self
            .backends
            .keys()
            .copied()
            .filter(|id| !lives(*id))
            .collect();
        gone.sort_unstable();
        for service in gone {
            self.settle(service, |_| false);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::model::ObjectName;

    fn addr(last: u8) -> Addr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn name(name: &str) -> Arc<PortName> {
        Arc::new(PortName {
            service: ObjectName::new("default", name),
            port: String::new(),
            protocol: 6,
            is_v4: true,
        })
    }

    fn backend(service: u32, last: u8) -> Backend {
        Backend {
            addr: addr(last),
            service,
            port: 80,
            generation: 3,
            state: 0,
            local: 0,
            protocol: 6,
            sets: 0,
            pad: 0,
        }
    }

    #[test]
    fn numbers_stay_what_they_are() {
        let mut ids = Ids::new(10);
        let first = ids.backend(1, addr(1), 80);
        assert_ne!(ids.backend(1, addr(2), 80), first);
        assert_eq!(ids.backend(1, addr(1), 80), first);
        assert_eq!(ids.port(&name("a"), []), ids.port(&name("a"), []));
        assert_ne!(ids.port(&name("a"), []), ids.port(&name("b"), []));
    }

    #[test]
    fn a_backend_that_returns_gets_its_number_back() {
        let mut ids = Ids::new(10);
        let first = ids.backend(1, addr(1), 80);
        ids.settle(1, |_| false);
        assert_eq!(ids.backend(1, addr(1), 80), first);
    }

    #[test]
    fn a_recycled_index_has_another_generation_and_the_oldest_goes_first() {
        let mut ids = Ids::new(2);
        let first = ids.backend(1, addr(1), 80).unwrap();
        let second = ids.backend(1, addr(2), 80).unwrap();
        assert_eq!(ids.backend(1, addr(3), 80), Err(Full));
        ids.settle(1, |index| index == second.index());
        ids.settle(1, |_| false);
        let third = ids.backend(1, addr(3), 80).unwrap();
        assert_eq!(third.index(), first.index());
        assert_ne!(third, first);
    }

    #[test]
    fn a_backend_that_returned_is_not_recycled() {
        let mut ids = Ids::new(2);
        let first = ids.backend(1, addr(1), 80).unwrap();
        ids.backend(1, addr(2), 80).unwrap();
        ids.settle(1, |_| false);
        assert_eq!(ids.backend(1, addr(1), 80), Ok(first));
        assert_ne!(ids.backend(1, addr(3), 80).unwrap().index(), first.index());
        assert_eq!(ids.backend(1, addr(4), 80), Err(Full));
    }

    #[test]
    fn backends_of_an_earlier_run_are_not_recycled_before_their_ports_had_a_chance() {
        let maps = [(0, backend(7, 1)), (1, backend(8, 1))].into();
        let mut ids = Ids::restore(&BTreeMap::new(), &maps, &BTreeSet::new(), 2);
        assert_eq!(ids.backend(9, addr(1), 80), Err(Full));
        assert_eq!(ids.backend(7, addr(1), 80), Ok(BackendRef::new(0, 3)));
        ids.forget_unclaimed(|id| id == 7);
        assert_eq!(ids.backend(9, addr(1), 80), Ok(BackendRef::new(1, 4)));
    }

    #[test]
    fn a_restart_recognises_ports_and_backends() {
        let key = FrontendKey::new(addr(17), 80, 6);
        let frontend = Frontend {
            service: 7,
            generation: 1,
            outside: lb_common::Extent::EMPTY,
            inside: lb_common::Extent::EMPTY,
            affinity_timeout_s: 0,
            flags: 0,
        };
        let mut ids = Ids::restore(
            &[(key, frontend)].into(),
            &[(4, backend(7, 1))].into(),
            &BTreeSet::new(),
            10,
        );
        assert_eq!(ids.port(&name("a"), [&key]), 7);
        assert_eq!(ids.port(&name("b"), [&key]), 8, "claimed once only");
        assert_eq!(ids.backend(7, addr(1), 80), Ok(BackendRef::new(4, 3)));
        assert_eq!(ids.backend(7, addr(2), 80), Ok(BackendRef::new(5, 1)));
    }
}
