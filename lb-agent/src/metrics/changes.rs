//! What changed between two models. Pure.

use std::time::SystemTime;

use imbl::ordmap::DiffItem;

use crate::{
    health::Family,
    model::{Model, Slices},
};

/// How much changed between two models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that came, went or changed.
    pub services: u64,
    /// Services whose slices came, went or changed.
    pub endpoints: u64,
}

/// How much changed from `old` to `new`. Does not look at what they share.
#[must_use]
pub fn changes(old: &Model, new: &Model) -> Changes {
    Changes {
        services: old.services.diff(&new.services).count() as u64,
        endpoints: old.slices.diff(&new.slices).count() as u64,
    }
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
    let mut triggers = Vec::new();
    for item in old.slices.diff(&new.slices) {
        match item {
            DiffItem::Add(_, slices) => triggers.extend(newer(&Slices::default(), slices)),
            DiffItem::Update {
                old: (_, old),
                new: (_, new),
            } => triggers.extend(newer(old, new)),
            DiffItem::Remove(..) => {}
        }
    }
    triggers
}

fn newer<'a>(old: &'a Slices, new: &'a Slices) -> impl Iterator<Item = Trigger> + use<'a> {
    new.iter().filter_map(|(name, slice)| {
        let at = slice.triggered?;
        let before = old.get(name).and_then(|old| old.triggered);
        let is_new = before.is_none_or(|before| at > before);
        let family = match slice.endpoints.first() {
            Some(endpoint) if endpoint.addr.is_ipv6() => Family::V6,
            _ => Family::V4,
        };
        is_new.then_some(Trigger { family, at })
    })
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use lb_common::protocol;

    use super::*;
    use crate::model::{ObjectName, Slice, SlicePort};

    fn name(name: &str) -> ObjectName {
        ObjectName::new("default", name)
    }

    fn slice(port: u16, triggered: Option<u64>) -> Arc<Slice> {
        let port = SlicePort {
            name: String::new(),
            protocol: protocol::TCP,
            port,
        };
        Arc::new(Slice {
            ports: vec![port],
            triggered: triggered.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
            ..Slice::default()
        })
    }

    fn model(slices: &[(&str, &Arc<Slice>)]) -> Model {
        let slices = slices.iter().map(|(service, slice)| {
            let one = Slices::from([("one", Arc::clone(slice))]);
            (name(service), one)
        });
        Model {
            slices: slices.collect(),
            ..Model::default()
        }
    }

    #[test]
    fn s69_what_comes_goes_or_changes_is_a_change() {
        let (a, b) = (slice(1, None), slice(2, None));
        let old = model(&[("kept", &a), ("changed", &a), ("gone", &a)]);
        let new = model(&[("kept", &a), ("changed", &b), ("new", &a)]);
        assert_eq!(changes(&old, &new).endpoints, 3);
        assert_eq!(changes(&new, &new), Changes::default());
        assert_eq!(changes(&Model::default(), &new).endpoints, 3);
    }

    #[test]
    fn s69_a_later_time_of_a_slice_is_a_trigger_and_the_same_one_is_not() {
        let (early, late, none) = (slice(1, Some(1)), slice(2, Some(2)), slice(3, None));
        let old = model(&[("a", &early), ("b", &early), ("c", &none)]);
        let new = model(&[("a", &early), ("b", &late), ("c", &late), ("d", &none)]);
        let at: Vec<_> = triggers(&old, &new).iter().map(|t| t.at).collect();
        assert_eq!(at, [late.triggered.unwrap(); 2]);
        assert!(triggers(&new, &old).is_empty(), "time does not go back");
    }
}
