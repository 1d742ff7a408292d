//! What changed between two models. Pure.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use crate::{
    health::Family,
    model::{Model, ObjectName, Slice},
};

/// How much changed between two models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that came, went or changed.
    pub services: u64,
    /// Services whose slices came, went or changed.
    pub endpoints: u64,
}

/// How much changed from `old` to `new`.
///
/// Equal objects share their memory (see [`crate::source`]), so this is quick.
#[must_use]
pub fn changes(old: &Model, new: &Model) -> Changes {
    Changes {
        services: differences(&old.services, &new.services, Arc::ptr_eq),
        endpoints: differences(&old.slices, &new.slices, same_slices),
    }
}

fn same_slices(a: &BTreeMap<String, Arc<Slice>>, b: &BTreeMap<String, Arc<Slice>>) -> bool {
    differences(a, b, Arc::ptr_eq) == 0
}

fn differences<K: Ord, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    is_same: impl Fn(&V, &V) -> bool,
) -> u64 {
    let gone = old.keys().filter(|key| !new.contains_key(key)).count();
    let changed = new
        .iter()
        .filter(|(key, value)| !old.get(key).is_some_and(|old| is_same(old, value)));
    (gone + changed.count()) as u64
}

/// A change of endpoints whose time is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Family of the endpoints.
    pub family: Family,
    /// When it was made.
    pub at: SystemTime,
}

/// The changes of endpoints that `new` has and `old` had not.
#[must_use]
pub fn triggers(old: &Model, new: &Model) -> Vec<Trigger> {
    let before = |service: &ObjectName, slice: &str| {
        let slices = old.slices.get(service)?;
        slices.get(slice)?.triggered
    };
    let slices = new.slices.iter().flat_map(|(service, slices)| {
        let slices = slices.iter();
        slices.map(move |(name, slice)| (service, name, slice))
    });
    slices
        .filter_map(|(service, name, slice)| {
            let at = slice.triggered?;
            let is_new = before(service, name).is_none_or(|before| at > before);
            let family = match slice.endpoints.first() {
                Some(endpoint) if endpoint.addr.is_ipv6() => Family::V6,
                _ => Family::V4,
            };
            is_new.then_some(Trigger { family, at })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn slice(triggered: Option<u64>) -> Arc<Slice> {
        Arc::new(Slice {
            triggered: triggered.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
            ..Slice::default()
        })
    }

    fn model(slices: &[(&str, &Arc<Slice>)]) -> Model {
        let slices = slices.iter().map(|(service, slice)| {
            let one = BTreeMap::from([("one".to_owned(), Arc::clone(slice))]);
            (name(service), one)
        });
        Model {
            slices: slices.collect(),
            ..Model::default()
        }
    }

    #[test]
    fn s69_what_comes_goes_or_changes_is_a_change() {
        let (a, b) = (slice(None), slice(None));
        let old = model(&[("kept", &a), ("changed", &a), ("gone", &a)]);
        let new = model(&[("kept", &a), ("changed", &b), ("new", &a)]);
        assert_eq!(changes(&old, &new).endpoints, 3);
        assert_eq!(changes(&new, &new), Changes::default());
        assert_eq!(changes(&Model::default(), &new).endpoints, 3);
    }

    #[test]
    fn s69_a_later_time_of_a_slice_is_a_trigger_and_the_same_one_is_not() {
        let (early, late, none) = (slice(Some(1)), slice(Some(2)), slice(None));
        let old = model(&[("a", &early), ("b", &early), ("c", &none)]);
        let new = model(&[("a", &early), ("b", &late), ("c", &late), ("d", &none)]);
        let at: Vec<_> = triggers(&old, &new).iter().map(|t| t.at).collect();
        assert_eq!(at, [late.triggered.unwrap(); 2]);
        assert!(triggers(&new, &old).is_empty(), "time does not go back");
    }
}
