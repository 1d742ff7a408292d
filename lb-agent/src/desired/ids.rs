//! Numbers for Service ports and backends, the same for as long as what they stand for lives.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use lb_common::{Addr, Backend, BackendRef, Frontend, FrontendKey, SourceRange};

use super::PortName;

/// What a backend's number belongs to.
type BackendName = (u32, Addr, u16);

/// `BACKENDS` has no free element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The numbers in use.
///
/// A Service port is recognised after a restart by any frontend that it had; a backend by its
/// Service port, address and port.
#[derive(Clone, Debug)]
pub struct Ids {
    ports: HashMap<PortName, u32>,
    /// Numbers of an earlier run that nobody has claimed yet.
    unclaimed: BTreeMap<FrontendKey, u32>,
    next_port: u32,
    backends: HashMap<BackendName, BackendRef>,
    /// Backends that no slice names any more, the oldest first. Their numbers are kept for their
    /// flows, and for their return, until there is no other.
    retired: VecDeque<BackendName>,
    next_backend: u32,
    backends_max: u32,
}

impl Ids {
    /// No number is in use; `BACKENDS` has `backends_max` elements.
    #[must_use]
    pub fn new(backends_max: u32) -> Self {
        Self {
            ports: HashMap::new(),
            unclaimed: BTreeMap::new(),
            next_port: 1,
            backends: HashMap::new(),
            retired: VecDeque::new(),
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
            ids.unclaimed.insert(*key, frontend.service);
            ids.next_port = ids.next_port.max(frontend.service.saturating_add(1));
        }
        for (index, backend) in backends {
            let name = (backend.service, backend.addr, backend.port);
            let reference = BackendRef::new(*index, backend.generation);
            if let Some(older) = ids.backends.insert(name, reference) {
                tracing::debug!(
                    ?older,
                    ?reference,
                    "two elements of BACKENDS name one backend"
                );
            }
            ids.retired.push_back(name);
            ids.next_port = ids.next_port.max(backend.service.saturating_add(1));
            ids.next_backend = ids.next_backend.max(index + 1);
        }
        ids
    }

    /// The number of a Service port that has these frontends.
    pub fn port<'a>(
        &mut self,
        name: &PortName,
        frontends: impl IntoIterator<Item = &'a FrontendKey>,
    ) -> u32 {
        if let Some(id) = self.ports.get(name) {
            return *id;
        }
        let known = frontends
            .into_iter()
            .find_map(|key| self.unclaimed.get(key).copied());
        let id = known.unwrap_or_else(|| {
            let id = self.next_port;
            self.next_port = id.wrapping_add(1).max(1);
            id
        });
        // Two ports that swapped frontends while nobody looked must not share a number.
        self.unclaimed.retain(|_, unclaimed| *unclaimed != id);
        self.ports.insert(name.clone(), id);
        id
    }

    /// The number of a backend of the Service port `service`.
    ///
    /// # Errors
    ///
    /// [`Full`] if every element of `BACKENDS` is in use.
    pub fn backend(&mut self, service: u32, addr: Addr, port: u16) -> Result<BackendRef, Full> {
        let name = (service, addr, port);
        if let Some(reference) = self.backends.get(&name) {
            return Ok(*reference);
        }
        let reference = self.fresh()?;
        self.backends.insert(name, reference);
        Ok(reference)
    }

    fn fresh(&mut self) -> Result<BackendRef, Full> {
        if self.next_backend < self.backends_max {
            let index = self.next_backend;
            self.next_backend += 1;
            return Ok(BackendRef::new(index, 1));
        }
        let oldest = self.retired.pop_front().ok_or(Full)?;
        let old = self.backends.remove(&oldest).ok_or(Full)?;
        let generation = old.generation().wrapping_add(1).max(1);
        Ok(BackendRef::new(old.index(), generation))
    }

    /// Notes which numbers are in use now: those of Service ports and backends that are not
    /// named retire. Of a port that is `kept` as it is, so are all its backends.
    pub fn retain<'a>(
        &mut self,
        ports: impl Fn(u32) -> bool,
        kept: impl Fn(u32) -> bool,
        in_use: impl IntoIterator<Item = (u32, &'a Backend)>,
    ) {
        self.ports.retain(|_, id| ports(*id));
        // What the first compile after a restart did not claim is gone.
        self.unclaimed.clear();
        let in_use: std::collections::HashSet<u32> =
            in_use.into_iter().map(|(index, _)| index).collect();
        let known = &self.backends;
        self.retired.retain(|name| {
            known
                .get(name)
                .is_some_and(|reference| !in_use.contains(&reference.index()) && !kept(name.0))
        });
        let retired: std::collections::HashSet<BackendName> =
            self.retired.iter().copied().collect();
        let mut newly: Vec<_> = known
            .iter()
            .filter(|(name, reference)| {
                !in_use.contains(&reference.index()) && !retired.contains(*name) && !kept(name.0)
            })
            .map(|(name, reference)| (reference.index(), *name))
            .collect();
        newly.sort_unstable();
        self.retired.extend(newly.into_iter().map(|(_, name)| name));
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

    fn name(name: &str) -> PortName {
        PortName {
            service: ObjectName {
                namespace: "default".into(),
                name: name.into(),
            },
            port: String::new(),
            protocol: 6,
            is_v4: true,
        }
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
        ids.retain(|_| true, |_| false, []);
        assert_eq!(ids.backend(1, addr(1), 80), first);
    }

    #[test]
    fn a_recycled_index_has_another_generation_and_the_oldest_goes_first() {
        let mut ids = Ids::new(2);
        let first = ids.backend(1, addr(1), 80).unwrap();
        let second = ids.backend(1, addr(2), 80).unwrap();
        assert_eq!(ids.backend(1, addr(3), 80), Err(Full));
        ids.retain(|_| true, |_| false, [(second.index(), &backend(1, 2))]);
        ids.retain(|_| true, |_| false, []);
        let third = ids.backend(1, addr(3), 80).unwrap();
        assert_eq!(third.index(), first.index());
        assert_ne!(third, first);
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
