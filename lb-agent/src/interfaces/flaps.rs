//! Devices that go down and come up again.
//!
//! The kernel forgets a device's routes when it goes down, and with the default route goes what makes
//! it an uplink. If it lost its programs for that, the first packets after it came back would meet the
//! node's own stack, which resets connections that it does not know. So a device that went down stays
//! what it was for a while; its routes come back within that, or it has become something else.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_common::Role;

use super::State;

/// How long a device stays what it was after it went down the last time.
const GRACE: Duration = Duration::from_secs(10);

/// What devices were before they went down.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    /// What was passed on last.
    known: State,
    /// How often each device had gone down by when nothing was kept.
    downs: BTreeMap<u32, u32>,
    /// The same by when one was last looked at.
    latest: BTreeMap<u32, u32>,
    /// When patience ends, if something is kept.
    until: Option<Instant>,
}

impl Flaps {
    /// `state`, and what devices have lost by going down. `before` and `after` are how often they had
    /// done so when `state` was about to be read, and when it had been.
    ///
    /// A device that went down in between may have lost its routes in `state`, or may not yet.
    pub(super) fn steady(
        &mut self,
        mut state: State,
        [before, after]: [BTreeMap<u32, u32>; 2],
        now: Instant,
    ) -> State {
        let has_been_down = |index: &u32| after.get(index) != self.downs.get(index);
        let is_lost = |index: &u32| {
            let device = state.devices.get(index);
            // One end of a pair that leads elsewhere would be a pod's without its routes.
            device.is_some_and(|device| device.role != Some(Role::Uplink)) && has_been_down(index)
        };
        let is_there = |index: &u32| state.devices.contains_key(index);
        let uplinks: Vec<u32> = self
            .known
            .with_role(Role::Uplink)
            .filter(is_there)
            .collect();
        let lost: Vec<u32> = uplinks.iter().copied().filter(is_lost).collect();
        // Its routes may be back, while its addresses were read before they were.
        let lacks_addresses = uplinks.iter().any(has_been_down)
            && !(self.known.node_addresses.is_subset(&state.node_addresses)
                && self.known.local_addresses.is_subset(&state.local_addresses));
        // A cable that is loose goes down again and again.
        let goes_down = |index: &u32| after.get(index) != self.latest.get(index);
        if uplinks.iter().any(goes_down) {
            self.until = None;
        }
        self.latest.clone_from(&after);
        let until = *self.until.get_or_insert(now + GRACE);
        if lost.is_empty() && !lacks_addresses || now >= until {
            self.until = None;
            self.downs = before;
            self.known = state.clone();
            return state;
        }
        for index in lost {
            let (before, device) = (
                self.known.devices.get(&index),
                state.devices.get_mut(&index),
            );
            if let (Some(before), Some(device)) = (before, device) {
                (device.role, device.interface) = (before.role, before.interface);
            }
        }
        state.node_addresses.extend(&self.known.node_addresses);
        state.local_addresses.extend(&self.known.local_addresses);
        self.known = state.clone();
        state
    }

    /// When to look again, though nothing may have changed by then.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Device, *};

    fn state(role: Option<Role>) -> State {
        let device = Device {
            name: "eth0".to_owned(),
            role,
            interface: None,
            vlan: false,
        };
        let addresses = role.map(|_| "192.0.2.1".parse().unwrap());
        State {
            devices: [(2, device)].into(),
            node_addresses: addresses.into_iter().collect(),
            ..State::default()
        }
    }

    /// The device has gone down so often, and not while it was looked at.
    fn at(downs: u32) -> [BTreeMap<u32, u32>; 2] {
        [downs, downs].map(|downs| [(2, downs)].into())
    }

    /// It has gone down once more while it was looked at.
    fn at_work(downs: u32) -> [BTreeMap<u32, u32>; 2] {
        [downs, downs + 1].map(|downs| [(2, downs)].into())
    }

    fn uplink() -> State {
        state(Some(Role::Uplink))
    }

    #[test]
    fn an_uplink_that_went_down_stays_one_until_its_routes_are_back() {
        let (mut flaps, start) = (Flaps::default(), Instant::now());
        let mut look = |state, downs| flaps.steady(state, at(downs), start);
        assert_eq!(look(uplink(), 1), uplink());
        assert_eq!(look(state(None), 2), uplink());
        assert_eq!(look(state(Some(Role::Pod)), 3), uplink());
        assert_eq!(look(uplink(), 3), uplink());
        assert_eq!(flaps.until(), None);
    }

    #[test]
    fn an_uplink_that_goes_down_while_it_is_looked_at_stays_one() {
        let start = Instant::now();
        // Its routes were read before that, or after.
        for seen in [uplink(), state(None)] {
            let mut flaps = Flaps::default();
            flaps.steady(uplink(), at(1), start);
            assert_eq!(flaps.steady(seen, at_work(1), start), uplink());
            assert_eq!(flaps.steady(state(None), at(2), start), uplink());
            assert_eq!(flaps.steady(uplink(), at(2), start), uplink());
        }
    }

    #[test]
    fn an_uplink_without_routes_is_none_after_a_while() {
        let (mut flaps, start) = (Flaps::default(), Instant::now());
        flaps.steady(uplink(), at(1), start);
        assert_eq!(flaps.steady(state(None), at(2), start), uplink());
        assert_eq!(flaps.until(), Some(start + GRACE));
        let later = start + GRACE;
        assert_eq!(flaps.steady(state(None), at(2), later), state(None));
        assert_eq!(flaps.steady(state(None), at(2), later), state(None));
    }

    #[test]
    fn addresses_that_come_back_after_the_routes_are_kept_until_then() {
        let (mut flaps, start) = (Flaps::default(), Instant::now());
        flaps.steady(uplink(), at(1), start);
        let mut bare = uplink();
        bare.node_addresses.clear();
        assert_eq!(flaps.steady(bare.clone(), at(2), start), uplink());
        assert_eq!(flaps.until(), Some(start + GRACE));
        assert_eq!(flaps.steady(uplink(), at(2), start), uplink());
        assert_eq!(flaps.until(), None);
        // Without going down it has given them up.
        assert_eq!(flaps.steady(bare.clone(), at(2), start), bare);
    }

    #[test]
    fn an_uplink_that_goes_down_again_and_again_stays_one() {
        let (mut flaps, start) = (Flaps::default(), Instant::now());
        flaps.steady(uplink(), at(1), start);
        let mut now = start;
        for downs in 2..10 {
            now += GRACE / 2;
            assert_eq!(flaps.steady(state(None), at(downs), now), uplink());
        }
        let later = now + GRACE;
        assert_eq!(flaps.steady(state(None), at(9), later), state(None));
    }

    #[test]
    fn an_uplink_that_loses_its_routes_without_going_down_is_none_at_once() {
        let (mut flaps, start) = (Flaps::default(), Instant::now());
        flaps.steady(uplink(), at(1), start);
        assert_eq!(flaps.steady(state(None), at(1), start), state(None));
    }

    #[test]
    fn a_device_that_is_gone_is_gone() {
        let (mut flaps, start) = (Flaps::default(), Instant::now());
        flaps.steady(uplink(), at(1), start);
        let gone = flaps.steady(State::default(), Default::default(), start);
        assert_eq!(gone, State::default());
    }
}
