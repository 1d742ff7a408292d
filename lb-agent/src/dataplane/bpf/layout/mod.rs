//! Layouts of the maps: this agent's, and others whose connections it can take over.
//!
//! Whoever changes a key, a value or a meaning raises `lb_common::maps::LAYOUT_VERSION`, and adds a
//! module that keeps how it was: the maps that have changed, with a way from their elements to
//! those of today. Maps that are not named there are the same in both.

mod difference;
mod lab;
#[cfg(not(feature = "lab-layout"))]
mod v3;
#[cfg(not(feature = "lab-layout"))]
mod v4;

use lb_common::maps::MapSpec;

pub use self::difference::Difference;
pub(super) use self::difference::{differences, list};

/// A layout that this agent can take over from.
pub(super) struct Layout {
    /// Its version.
    pub(super) version: u32,
    /// The maps that are not as in this agent's layout.
    pub(super) changed: &'static [Changed],
}

/// A map that is not the same in both layouts.
pub(super) struct Changed {
    /// What it looks like there; any capacity will do.
    pub(super) spec: MapSpec,
    /// What is to become of its elements.
    pub(super) elements: Elements,
}

/// What is to become of the elements of a map.
#[derive(Clone, Copy)]
pub(super) enum Elements {
    /// Each is carried over.
    Convert(Convert),
    /// They are forgotten.
    #[expect(dead_code, reason = "for maps whose elements do not outlive a second")]
    Forget,
}

/// The key and the value of this layout for those of the other one; nothing for what has no
/// counterpart. Of a map that has a value for each CPU, it is called with each.
pub(super) type Convert = fn(&[u8], &[u8]) -> Option<(Vec<u8>, Vec<u8>)>;

/// The same keys and values, which are found in another way.
#[cfg(not(feature = "lab-layout"))]
fn same(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), value.to_vec()))
}

/// All of them.
#[cfg(not(feature = "lab-layout"))]
const KNOWN: [Layout; 3] = [lab::OTHER, v3::LAYOUT, v4::LAYOUT];
/// The lab's knows the one that is shipped.
#[cfg(feature = "lab-layout")]
const KNOWN: [Layout; 1] = [lab::OTHER];

/// The layout of this version, if it can be taken over from.
pub(super) fn known(version: u32) -> Option<&'static Layout> {
    const { &KNOWN }
        .iter()
        .find(|layout| layout.version == version)
}

impl Layout {
    /// What has changed about the map `name`.
    pub(super) fn change(&self, name: &str) -> Option<&Changed> {
        self.changed.iter().find(|map| map.spec.name == name)
    }
}
