//! What the programs tell of packets that they drop.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    BackendRef, DropKey, FlowKey,
    counter::{Hook, Outcome},
    drops::Event,
    flow::confirmed,
};

use lb_agent::dataplane::Dataplane as _;

use super::{Bench, Program};

impl Program {
    /// The key that a drop by this program has, if it is about no backend.
    #[must_use]
    pub fn drop_key(self, bench: &Bench, reason: Outcome) -> DropKey {
        DropKey::new(self.device(&bench.devices), self.hook(), reason, None)
    }
}

impl Bench {
    /// The dropped packets that were counted since the bench was cleared.
    ///
    /// # Panics
    ///
    /// If the map cannot be read.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<DropKey, u64> {
        self.store.drops().expect("read the drops")
    }

    /// The last packet that was dropped for `reason`.
    ///
    /// # Panics
    ///
    /// If the map cannot be read.
    #[must_use]
    pub fn last_drop(&self, reason: Outcome) -> Event {
        self.store.last_drop(reason).expect("read the last drops")
    }

    /// The address of a backend; none if there is no such incarnation.
    ///
    /// # Panics
    ///
    /// If the maps cannot be read.
    #[must_use]
    pub fn backend_addr(&mut self, reference: BackendRef) -> Option<IpAddr> {
        let observed = self.reconciler.dataplane().observe();
        let backends = observed.expect("read the maps").backends;
        let backend = backends.get(&reference.index())?;
        backend.is(reference).then(|| backend.addr.to_ip())
    }

    /// Takes the samples that the programs have sent.
    pub fn events(&mut self) -> Vec<Event> {
        self.store.events()
    }

    /// Makes every frontend name a table that has been replaced, as a packet finds it that is slower
    /// than the agent.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn tear_tables(&mut self) {
        self.store.tear_tables().expect("change the frontends");
    }

    /// Lets another client have every connection that the only one there is could have, by source
    /// port.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed, or there are several connections.
    pub fn take_all_ports(&mut self) {
        let [(key, mut flow)] = self.flows()[..] else {
            panic!("one connection");
        };
        let config = *self.config();
        flow.client_port = 1;
        // Who is confirmed is not displaced.
        flow.confirmed = confirmed::REFUSED;
        for dst_port in (config.snat_port_first..=config.snat_port_last).chain([key.dst_port]) {
            let key = FlowKey { dst_port, ..key };
            self.store.insert_flow(&key, &flow).expect("take a port");
        }
    }

    /// Checks that `DROPS` moved as the counters of drops did.
    #[track_caller]
    pub(super) fn check_drops(
        &self,
        program: Program,
        before: &BTreeMap<DropKey, u64>,
        moved: &[(Hook, Outcome, u64)],
    ) {
        let mut expected = BTreeMap::new();
        for (hook, outcome, count) in moved {
            if outcome.drop_reason().is_some() {
                let ifindex = program.device(&self.devices);
                expected.insert((ifindex, *hook as u8, *outcome as u8), *count);
            }
        }
        let mut found = BTreeMap::new();
        for (key, count) in self.drops() {
            let new = count - before.get(&key).copied().unwrap_or_default();
            if new > 0 {
                *found
                    .entry((key.ifindex, key.hook, key.reason))
                    .or_default() += new;
            }
        }
        assert_eq!(found, expected, "DROPS of {program:?}");
    }
}
