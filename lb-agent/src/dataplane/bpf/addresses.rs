//! Which addresses are worth a look-up.

use std::sync::atomic::Ordering;

use lb_common::{
    Addr,
    addresses::{Place, Role},
};

use super::words::Words;
use crate::dataplane::Element;

/// The bits of `ADDRESSES`.
pub(super) struct Addresses(Words);

impl Addresses {
    pub(super) fn new(words: Words) -> Self {
        Self(words)
    }

    /// Whether no address is known: the map is new, whatever the others hold.
    pub(super) fn is_empty(&self) -> bool {
        let mut words = self.0.as_slice().iter();
        words.all(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// Lets programs look up what `element` is about.
    pub(super) fn add_of(&mut self, element: &Element) {
        match element {
            Element::Backend(_, backend) => self.add(backend.addr, Role::Backend),
            Element::Frontend(key, _) => self.add(key.addr, Role::Dialled),
            Element::Vip(addr, _) => self.add(*addr, Role::Vip),
            Element::Interface(..) | Element::SourceRange(_) | Element::ServiceNets(_) => {}
        }
    }

    /// Lets programs look `addr` up as a `role` from now on. To be called before the element is
    /// written.
    pub(super) fn add(&mut self, addr: Addr, role: Role) {
        let Place { index, mask } = Place::of(addr, role);
        // The map has been compared with what is expected: every place is there.
        if let Some(word) = self.0.as_slice().get(index as usize) {
            word.fetch_or(mask, Ordering::Release);
        }
    }
}
