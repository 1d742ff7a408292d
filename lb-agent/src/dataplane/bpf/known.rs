//! Which keys the maps of connections can have (`lb_common::known`): what is noted of them here, and made anew.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use bytemuck::{AnyBitPattern, pod_read_unaligned};
use lb_common::{
    FlowKey, PinKey,
    known::{self, Point, Side},
    maps::{FLOWS, KNOWN, LAYOUT_VERSION, PINS},
};

use super::{error::Error, pins::Pins, raw::RawMap, words::Words};

/// The bits of `KNOWN`.
pub(super) struct Bits {
    all: Words,
    /// Words of a side.
    words: u32,
}

impl Bits {
    /// Maps the map that is pinned.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if there is none, [`Error::Mmap`] if it cannot be mapped.
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        let map = RawMap::pinned(KNOWN, pins)?;
        let elements = map.spec.max_entries;
        let all = Words::new(map.as_fd(), elements as usize)
            .map_err(|source| Error::Mmap { map: KNOWN, source })?;
        Ok(Self {
            all,
            words: known::side_words(elements),
        })
    }

    /// Lets programs ask no side: there may be some that insert elements and set no bits, as an earlier version's.
    pub(super) fn distrust(&self) {
        self.write(known::NOTED, 0);
        self.write(known::ASKED, 0);
    }

    /// Says that there are no such programs (any more).
    pub(super) fn trust(&self) {
        self.write(known::NOTED, 1);
    }

    /// Notes that `FLOWS` is to have a key. To be called before it has it.
    pub(super) fn note_flow(&self, key: &FlowKey) {
        self.note(Point::of_flow(key, self.words));
    }

    /// Notes that `PINS` is to have a key. To be called before it has it.
    pub(super) fn note_pin(&self, key: &PinKey) {
        self.note(Point::of_pin(key, self.words));
    }

    fn note(&self, point: Point) {
        for side in [Side::Left, Side::Right] {
            self.set(side, point);
        }
    }

    fn set(&self, side: Side, point: Point) {
        let index = point.index(side, self.words) as usize;
        if let Some(word) = self.all.as_slice().get(index) {
            word.fetch_or(point.mask, Ordering::SeqCst);
        }
    }

    /// The side that programs do not ask.
    fn spare(&self) -> Side {
        Side::named_by(self.read(known::ASKED)).map_or(Side::Left, Side::other)
    }

    fn read(&self, index: u32) -> u64 {
        let word = self.all.as_slice().get(index as usize);
        word.map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn write(&self, index: u32, value: u64) {
        if let Some(word) = self.all.as_slice().get(index as usize) {
            word.store(value, Ordering::SeqCst);
        }
    }

    fn clear(&self, side: Side) {
        let first = side.first(self.words) as usize;
        let words = self.all.as_slice().iter().skip(first);
        for word in words.take(self.words as usize) {
            word.store(0, Ordering::SeqCst);
        }
    }
}

/// Makes the bits anew, so that those of elements that are gone go, too.
pub struct Known {
    bits: Bits,
    /// The side that is being made anew.
    begun: Mutex<Option<Side>>,
    maps: [RawMap; 2],
}

impl Known {
    /// Opens the maps that are pinned below `pin_dir`.
    ///
    /// # Errors
    ///
    /// [`Error`] if there is no such map.
    pub fn open(pin_dir: &Path) -> Result<Self, Error> {
        let pins = Pins::at(pin_dir, LAYOUT_VERSION);
        let map = |name| RawMap::pinned(name, &pins);
        Ok(Self {
            bits: Bits::open(&pins)?,
            begun: Mutex::new(None),
            maps: [map(FLOWS)?, map(PINS)?],
        })
    }

    /// Clears the side that nobody asks. Programs that run now may have noted there what they have not
    /// inserted yet: [`finish`](Self::finish) is for later, when all of them have ended. False, and nothing is
    /// done, as long as there may be programs that note nothing.
    #[must_use]
    pub fn begin(&self) -> bool {
        let side = (self.bits.read(known::NOTED) != 0).then(|| self.bits.spare());
        if let Some(side) = side {
            self.bits.clear(side);
        }
        *self.begun() = side;
        side.is_some()
    }

    fn begun(&self) -> MutexGuard<'_, Option<Side>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes all that there is on that side, and lets programs ask it; not if another agent has begun since.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if a map cannot be read: then they ask the same one as before.
    pub fn finish(&self) -> Result<(), Error> {
        let Some(side) = self.begun().take() else {
            return Ok(());
        };
        for map in &self.maps {
            let noted = map.for_each(|key, _| {
                self.bits.set(side, self.point(map.spec.name, key));
                Ok(())
            });
            noted.map_err(|source| Error::of_map("read", map.spec.name, source))?;
        }
        if self.bits.read(known::NOTED) != 0 && self.bits.spare() == side {
            self.bits.write(known::ASKED, side as u64);
        }
        Ok(())
    }

    fn point(&self, map: &str, key: &[u8]) -> Point {
        let words = self.bits.words;
        if map == FLOWS {
            Point::of_flow(&read(key), words)
        } else {
            Point::of_pin(&read(key), words)
        }
    }
}

fn read<T: AnyBitPattern>(bytes: &[u8]) -> T {
    pod_read_unaligned(bytes)
}
