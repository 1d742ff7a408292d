//! Which addresses are worth a look-up.

use std::{io, sync::atomic::Ordering};

use bytemuck::{AnyBitPattern, pod_read_unaligned};
use lb_common::{
    Addr, Backend, FlowKey, FrontendKey,
    addresses::{Place, Role},
    maps::{ADDRESSES, BACKENDS, FLOWS, FRONTENDS, OPENING, VIPS},
};

use super::{error::Error, pins::Pins, raw::RawMap, words::Words};
use crate::dataplane::Element;

/// The bits of `ADDRESSES`.
pub(super) struct Addresses(Words);

impl Addresses {
    pub(super) fn new(words: Words) -> Self {
        Self(words)
    }

    /// Lets programs look up what `element` is about.
    pub(super) fn add_of(&mut self, element: &Element) {
        match element {
            Element::Backend(_, backend) => self.add_backend(backend.addr, backend.port),
            Element::Frontend(key, _) => self.add(key.addr, Role::Dialled),
            Element::Vip(addr, _) => self.add(*addr, Role::Vip),
            Element::Interface(..) | Element::SourceRange(_) | Element::ServiceNets(_) => {}
        }
    }

    /// Lets programs look `addr` up as a `role` from now on. To be called before the element is
    /// written.
    fn add(&mut self, addr: Addr, role: Role) {
        self.set(Place::of(addr, role));
    }

    /// Lets programs look for replies of a backend from now on.
    fn add_backend(&mut self, addr: Addr, port: u16) {
        self.set(Place::of_backend(addr, port));
        self.add(addr, Role::Backend);
    }

    fn set(&mut self, Place { index, mask }: Place) {
        // The map has been compared with what is expected: every place is there.
        if let Some(word) = self.0.as_slice().get(index as usize) {
            word.fetch_or(mask, Ordering::Release);
        }
    }
}

/// Lets programs look up what the maps hold that are pinned. A new `ADDRESSES` knows nothing of it; and an earlier
/// version, which may have been here since, noted no backend by its port.
///
/// # Errors
///
/// [`Error::Map`] if a map cannot be read, [`Error::Mmap`] if `ADDRESSES` cannot be mapped.
pub(super) fn complete(pins: &Pins) -> Result<(), Error> {
    let map = RawMap::pinned(ADDRESSES, pins)?;
    let mut addresses = match Words::new(map.as_fd(), map.spec.max_entries as usize) {
        Ok(words) => Addresses(words),
        Err(source) => {
            return Err(Error::Mmap {
                map: ADDRESSES,
                source,
            });
        }
    };
    for name in [FRONTENDS, VIPS, BACKENDS, OPENING, FLOWS] {
        let found = find(&RawMap::pinned(name, pins)?, &mut addresses);
        found.map_err(|source| Error::of_map("read", name, source))?;
    }
    Ok(())
}

/// Adds what a map holds.
fn find(map: &RawMap, addresses: &mut Addresses) -> io::Result<()> {
    map.for_each(|key, value| {
        match map.spec.name {
            FRONTENDS => addresses.add(read::<FrontendKey>(key).addr, Role::Dialled),
            VIPS => addresses.add(read(key), Role::Vip),
            BACKENDS => {
                let backend: Backend = read(value);
                // What was never written is none.
                if backend.generation != 0 {
                    addresses.add_backend(backend.addr, backend.port);
                }
            }
            _ => {
                let flow: FlowKey = read(key);
                addresses.add_backend(flow.src, flow.src_port);
            }
        }
        Ok(())
    })
}

fn read<T: AnyBitPattern>(bytes: &[u8]) -> T {
    pod_read_unaligned(bytes)
}
