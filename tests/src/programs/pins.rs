//! Pins, which say where connections are if the tables do not.

use std::{collections::BTreeMap, io};

use lb_common::{
    Pin, PinKey,
    flow::opening_pins::{Place, buckets_of},
};

use super::{
    Bench, Kernel,
    bench::OPENING_PINS_MAX,
    kernel::{batch, command},
};

impl Bench {
    /// The connections whose backend the tables do not say, by the hashes of their pins' keys.
    ///
    /// # Panics
    ///
    /// If the map cannot be read.
    #[must_use]
    pub fn pins(&self) -> BTreeMap<u64, Pin> {
        self.store.pins().expect("read the pins")
    }

    /// The same of connections that a client has confirmed.
    ///
    /// # Panics
    ///
    /// If the map cannot be read.
    #[must_use]
    pub fn kept_pins(&self) -> Vec<(PinKey, Pin)> {
        self.store.kept_pins().expect("read the pins")
    }

    /// Forgets those.
    ///
    /// # Panics
    ///
    /// If the map cannot be changed.
    pub fn forget_kept_pins(&mut self) {
        self.store.clear_kept_pins().expect("forget the pins");
    }

    /// Where the pin of a connection is that no client has confirmed.
    #[must_use]
    pub fn place_of_pin(&self, key: &PinKey) -> Place {
        let hash = self.store.opening_pins().hash(key);
        Place::of(hash, buckets_of(OPENING_PINS_MAX))
    }
}

impl Kernel {
    /// What stands for a key of a pin.
    #[must_use]
    pub fn pin_hash(&self, key: &PinKey) -> u64 {
        self.opening_pins.hash(key)
    }

    /// All pins, by the hashes of their keys: those of confirmed connections come last.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn pins(&self) -> io::Result<Vec<(u64, Pin)>> {
        self.pins_by(command::LOOKUP_BATCH)
    }

    /// Takes all pins out: those of confirmed connections come last.
    ///
    /// # Errors
    ///
    /// If a map cannot be emptied.
    pub fn take_pins(&self) -> io::Result<Vec<(u64, Pin)>> {
        let pins = self.pins_by(command::LOOKUP_AND_DELETE_BATCH)?;
        self.opening_pins.clear();
        Ok(pins)
    }

    fn pins_by(&self, command: u32) -> io::Result<Vec<(u64, Pin)>> {
        let mut pins = self.opening_pins.all();
        let kept = batch::<PinKey, Pin>(command, self.pins)?.into_iter();
        pins.extend(kept.map(|(key, pin)| (self.pin_hash(&key), pin)));
        Ok(pins)
    }
}
