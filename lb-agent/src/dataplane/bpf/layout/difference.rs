//! What a map must look like, compared with what a pin holds. Pure.

use std::fmt;

use lb_common::maps::MapSpec;

/// A property of a map that is not what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the map.
    pub map: &'static str,
    /// The property.
    pub property: &'static str,
    /// What it is.
    pub found: u32,
    /// What it must be.
    pub expected: u32,
}

/// All properties in which `found` is not as `spec` asks for.
#[must_use]
pub(in crate::dataplane::bpf) fn differences(spec: &MapSpec, found: &MapSpec) -> Vec<Difference> {
    let MapSpec {
        name,
        kind,
        key_size,
        value_size,
        max_entries,
        flags,
    } = *spec;
    let properties = [
        ("kind", found.kind, kind),
        ("key size", found.key_size, key_size),
        ("value size", found.value_size, value_size),
        ("capacity", found.max_entries, max_entries),
        ("flags", found.flags, flags),
    ];
    let different = properties.into_iter().filter(|(_, f, e)| f != e);
    different
        .map(|(property, found, expected)| Difference {
            map: name,
            property,
            found,
            expected,
        })
        .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            map,
            property,
            found,
            expected,
        } = self;
        write!(f, "{map}: {property} is {found}, must be {expected}")
    }
}

/// One line for all of `differences`.
pub(in crate::dataplane::bpf) fn list(differences: &[Difference]) -> String {
    let lines: Vec<_> = differences.iter().map(Difference::to_string).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: MapSpec = MapSpec {
        name: "FRONTENDS",
        kind: 1,
        key_size: 20,
        value_size: 32,
        max_entries: 65_536,
        flags: 0,
    };

    #[test]
    fn equal_maps_have_no_differences() {
        assert_eq!(differences(&SPEC, &SPEC), []);
    }

    #[test]
    fn every_difference_is_listed() {
        let found = MapSpec {
            name: "FRONTENDS",
            kind: 9,
            key_size: 24,
            value_size: 40,
            max_entries: 1024,
            flags: 1,
        };
        assert_eq!(
            list(&differences(&SPEC, &found)),
            "FRONTENDS: kind is 9, must be 1; FRONTENDS: key size is 24, must be 20; \
             FRONTENDS: value size is 40, must be 32; FRONTENDS: capacity is 1024, must be 65536; \
             FRONTENDS: flags is 1, must be 0"
        );
    }

    #[test]
    fn equal_properties_are_not_listed() {
        let found = MapSpec {
            max_entries: 1024,
            ..SPEC
        };
        let expected = Difference {
            map: "FRONTENDS",
            property: "capacity",
            found: 1024,
            expected: 65_536,
        };
        assert_eq!(differences(&SPEC, &found), [expected]);
    }
}
