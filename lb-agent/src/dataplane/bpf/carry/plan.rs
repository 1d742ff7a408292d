//! Which maps are taken over as they are, and which are made anew and filled. Pure.

use std::fmt;

use lb_common::{
    flow::opening,
    maps::{
        ADDRESSES, AFFINITY, COUNTERS, DROPS, ESTABLISHED, EVENTS, FLOWS, FRAGMENTS,
        FRONTEND_COPIES, FRONTEND_INDEX, FRONTENDS, HELD, KNOWN, Kind, LAST_DROPS, MapSpec,
        OPENING, OPENING_PINS, OPENING_WORDS, PINS, SERVICE_NETS, SOCKETS,
    },
};

use crate::dataplane::bpf::layout::{Convert, Difference, Elements, Layout, differences};

/// What the new programs get for a map of the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The same map.
    Share,
    /// A new one with the same elements; the agent alone writes them.
    Copy,
    /// The same, but only once the old programs are not needed any more. Until then, packets of which
    /// the new programs know nothing are left to these.
    CopyLast,
    /// A new one with the same elements. The programs write them, too, so it follows the old one.
    Follow,
    /// The same for counts that each CPU has for itself.
    Count,
    /// A new one without elements.
    Fresh,
}

/// One map of the new programs.
#[derive(Clone, Copy)]
pub(super) struct Carried {
    /// What it looks like.
    pub(super) spec: MapSpec,
    pub(super) way: Way,
    /// From elements of the old map to those of the new one; none where they are the same.
    pub(super) convert: Option<Convert>,
}

/// A map that keeps its capacity, though a smaller one is wanted: more of it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Name of the map.
    pub map: &'static str,
    /// The capacity that it keeps.
    pub capacity: u32,
    /// The capacity that is wanted.
    pub wanted: u32,
    /// How much is taken.
    pub used: u32,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            map,
            capacity,
            wanted,
            used,
        } = self;
        write!(
            f,
            "{map} keeps its capacity of {capacity}: {used} are taken, and {wanted} are wanted"
        )
    }
}

/// How the maps of the old programs become those of the new ones.
pub(super) struct Plan {
    pub(super) maps: Vec<Carried>,
    pub(super) kept: Vec<Kept>,
    /// Whether there is anything to do: else the maps are taken over where they are.
    pub(super) is_needed: bool,
}

impl Plan {
    /// The maps as they are going to be.
    pub(super) fn specs(&self) -> Vec<MapSpec> {
        self.maps.iter().map(|map| map.spec).collect()
    }
}

/// What is known of a pinned map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) spec: MapSpec,
    /// How much of its capacity is taken, if somebody wants it smaller.
    pub(super) used: u32,
}

/// Plans the way from the maps that are `found` to those that are `wanted`; `layout` is that of the
/// former, if it is another one.
///
/// # Errors
///
/// All that makes them no maps of that layout.
pub(super) fn plan(
    wanted: &[MapSpec],
    found: impl Fn(&str) -> Option<Found>,
    layout: Option<&Layout>,
) -> Result<Plan, Vec<Difference>> {
    let (mut kept, mut wrong) = (Vec::new(), Vec::new());
    let mut is_needed = layout.is_some();
    let mut maps = Vec::new();
    for spec in wanted {
        let spec = &beside(*spec, &maps);
        let Some(found) = found(spec.name) else {
            maps.push(fresh(*spec));
            continue;
        };
        let change = layout.and_then(|layout| layout.change(spec.name));
        let expected = change.map_or(*spec, |change| change.spec);
        let is_fixed = change.is_none() && is_fixed(spec.name);
        let all = differences(&expected, &found.spec).into_iter();
        wrong.extend(all.filter(|different| different.property != "capacity" || is_fixed));
        let mut spec = *spec;
        let elements = change.map(|change| change.elements);
        let (way, convert) = match elements {
            Some(Elements::Forget) => (Way::Fresh, None),
            Some(Elements::Convert(convert)) => (way(spec.name), Some(convert)),
            None => (way(spec.name), None),
        };
        if way != Way::Fresh && found.used > room(&spec, way) {
            kept.push(Kept {
                map: spec.name,
                capacity: found.spec.max_entries,
                wanted: spec.max_entries,
                used: found.used,
            });
            spec = as_large(spec, &found.spec);
        }
        let follows = follows(spec.name);
        if kept.iter().any(|kept| Some(kept.map) == follows) {
            spec.max_entries = found.spec.max_entries;
        }
        let is_same = change.is_none() && spec == found.spec;
        is_needed |= !is_same;
        let is_shared = is_same && !is_apart(spec.name);
        maps.push(Carried {
            spec,
            way: if is_shared { Way::Share } else { way },
            convert,
        });
    }
    if wrong.is_empty() {
        Ok(Plan {
            maps,
            kept,
            is_needed,
        })
    } else {
        Err(wrong)
    }
}

/// The same with the capacity of a map that there is; records that have words are in whole buckets.
fn as_large(spec: MapSpec, found: &MapSpec) -> MapSpec {
    let max_entries = if spec.has_words() {
        opening::records(found.max_entries)
    } else {
        found.max_entries
    };
    MapSpec {
        max_entries,
        ..spec
    }
}

/// The same with as many words as the records need that are planned already: those of an earlier layout have none, whose
/// capacity they could follow.
fn beside(spec: MapSpec, maps: &[Carried]) -> MapSpec {
    let records = maps.iter().find(|map| map.spec.has_words());
    match records.filter(|_| spec.name == OPENING_WORDS) {
        Some(records) => MapSpec {
            max_entries: opening::lines(records.spec.max_entries),
            ..spec
        },
        None => spec,
    }
}

fn fresh(spec: MapSpec) -> Carried {
    Carried {
        spec,
        way: Way::Fresh,
        convert: None,
    }
}

/// How elements of a map are taken over that is not the same.
fn way(map: &str) -> Way {
    match map {
        FLOWS | OPENING | PINS | OPENING_PINS | AFFINITY | SOCKETS | FRAGMENTS | HELD => {
            Way::Follow
        }
        COUNTERS | DROPS => Way::Count,
        // Of no use to anybody after a moment.
        EVENTS | LAST_DROPS => Way::Fresh,
        // Left again by the next packets.
        ESTABLISHED => Way::Fresh,
        // The agent finds it out.
        KNOWN => Way::Fresh,
        // Goes with what is put into `OPENING`.
        OPENING_WORDS => Way::Fresh,
        // What `FRONTENDS` says, and each is of no use without the other.
        FRONTEND_INDEX | FRONTEND_COPIES => Way::Fresh,
        SERVICE_NETS => Way::CopyLast,
        _ => Way::Copy,
    }
}

/// The map from whose capacity this one's follows.
fn follows(map: &str) -> Option<&'static str> {
    match map {
        FRONTEND_INDEX | FRONTEND_COPIES => Some(FRONTENDS),
        ESTABLISHED | KNOWN => Some(FLOWS),
        _ => None,
    }
}

/// How much may be taken for a map to become one like `spec`.
///
/// A hash that programs fill goes on filling while it is carried over: half of it is for what comes
/// meanwhile. One that forgets has room for all; of one with buckets, some are full where half of it is taken.
fn room(spec: &MapSpec, way: Way) -> u32 {
    if spec.has_pins() {
        // The next ones displace them anyway, and a hash map of an earlier layout is never less full.
        u32::MAX
    } else if way == Way::Follow && spec.kind == Kind::Hash as u32 || spec.has_words() {
        spec.max_entries / 2
    } else {
        spec.max_entries
    }
}

/// Whether old and new programs must not have this map in common while both run.
///
/// Behind the new programs, the old ones see packets that these have translated: a client that opens
/// a connection to a backend's own address makes them forget the connection of that 5-tuple. And an index
/// is one of its own copies.
fn is_apart(map: &str) -> bool {
    matches!(
        map,
        FLOWS
            | OPENING
            | OPENING_WORDS
            | ESTABLISHED
            | KNOWN
            | SERVICE_NETS
            | FRONTEND_INDEX
            | FRONTEND_COPIES
    )
}

/// Whether the capacity says what the indexes mean.
fn is_fixed(map: &str) -> bool {
    matches!(map, ADDRESSES | COUNTERS | LAST_DROPS)
}

#[cfg(test)]
mod tests {
    use lb_common::{
        Flow, FlowKey, Pin, PinKey,
        maps::{SLOTS, SPECS},
    };

    use super::*;
    use crate::dataplane::bpf::layout::Changed;

    fn same(name: &str) -> Option<Found> {
        let spec = *SPECS.iter().find(|spec| spec.name == name)?;
        Some(Found { spec, used: 0 })
    }

    /// One in which a map was like this.
    fn layout(spec: MapSpec) -> Layout {
        let changed = vec![Changed {
            spec,
            elements: Elements::Convert(|_, _| None),
        }];
        Layout {
            version: 0,
            changed: changed.leak(),
        }
    }

    fn ways(plan: &Plan) -> Vec<(&'static str, Way)> {
        let apart = plan.maps.iter().filter(|map| map.way != Way::Share);
        apart.map(|map| (map.spec.name, map.way)).collect()
    }

    #[test]
    fn nothing_is_to_be_done_about_maps_that_fit() {
        let plan = plan(&SPECS, same, None).ok().unwrap();
        assert!(!plan.is_needed);
        assert_eq!(plan.specs(), SPECS);
    }

    #[test]
    fn a_map_of_another_size_is_made_anew_and_records_of_connections_and_the_index_with_it() {
        let found = |name: &str| {
            let mut found = same(name)?;
            if name == SLOTS {
                found.spec.max_entries /= 2;
            }
            Some(found)
        };
        let plan = plan(&SPECS, found, None).ok().unwrap();
        assert!(plan.is_needed);
        let expected = [
            (SLOTS, Way::Copy),
            (FRONTEND_INDEX, Way::Fresh),
            (FRONTEND_COPIES, Way::Fresh),
            (FLOWS, Way::Follow),
            (OPENING, Way::Follow),
            (OPENING_WORDS, Way::Fresh),
            (ESTABLISHED, Way::Fresh),
            (KNOWN, Way::Fresh),
            (SERVICE_NETS, Way::CopyLast),
        ];
        assert_eq!(ways(&plan), expected);
    }

    #[test]
    fn a_map_does_not_become_smaller_than_what_is_in_it_nor_do_those_that_go_with_it() {
        let of = |base, others: &[&str]| {
            let found = |name: &str| {
                let mut found = same(name)?;
                if name == base || others.contains(&name) {
                    found.spec.max_entries *= 2;
                }
                if name == base {
                    found.used = found.spec.max_entries;
                }
                Some(found)
            };
            let plan = plan(&SPECS, found, None).ok().unwrap();
            assert!(!plan.is_needed, "it stays as it is");
            let [kept] = plan.kept[..] else {
                panic!("{:?}", plan.kept);
            };
            kept.to_string()
        };
        assert_eq!(
            of(FLOWS, &[ESTABLISHED, KNOWN]),
            "FLOWS keeps its capacity of 1048576: 1048576 are taken, and 524288 are wanted"
        );
        assert_eq!(
            of(FRONTENDS, &[FRONTEND_INDEX, FRONTEND_COPIES]),
            "FRONTENDS keeps its capacity of 131072: 131072 are taken, and 65536 are wanted"
        );
    }

    #[test]
    fn connections_that_come_meanwhile_have_room() {
        let shrinks_with = |used| {
            let found = |name: &str| {
                let mut found = same(name)?;
                if name == FLOWS {
                    found.spec.max_entries *= 4;
                    found.used = used;
                }
                Some(found)
            };
            plan(&SPECS, found, None).ok().unwrap().kept.is_empty()
        };
        assert!(shrinks_with(262_144));
        assert!(!shrinks_with(262_145), "more than half");
    }

    #[test]
    fn pins_that_the_next_ones_displace_keep_no_capacity() {
        let hash_map = MapSpec::new::<PinKey, Pin>(OPENING_PINS, Kind::LruHash, 131_072);
        let layout = layout(hash_map);
        let found = |name: &str| {
            let mut found = same(name)?;
            if name == OPENING_PINS {
                (found.spec, found.used) = (hash_map, 131_072);
            }
            Some(found)
        };
        let plan = plan(&SPECS, found, Some(&layout)).ok().unwrap();
        assert_eq!((plan.kept.len(), plan.specs()), (0, SPECS.to_vec()));
    }

    #[test]
    fn maps_that_another_layout_has_changed_are_converted() {
        let longer = MapSpec {
            value_size: 400,
            ..MapSpec::new::<FlowKey, Flow>(FLOWS, Kind::Hash, 8)
        };
        let layout = layout(longer);
        let found = |name: &str| {
            let mut found = same(name)?;
            if name == FLOWS {
                found.spec = longer;
            }
            Some(found)
        };
        let carried = plan(&SPECS, found, Some(&layout)).ok().unwrap();
        let flows = carried.maps.iter().find(|map| map.spec.name == FLOWS);
        assert!(flows.unwrap().convert.is_some());
        let wrong = plan(&SPECS, found, None).err().unwrap();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert_eq!(wrong[0].property, "value size");
    }

    #[test]
    fn counters_of_another_meaning_are_refused() {
        let found = |name: &str| {
            let mut found = same(name)?;
            if name == COUNTERS {
                found.spec.max_entries += 1;
            }
            Some(found)
        };
        let wrong = plan(&SPECS, found, None).err().unwrap();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }
}
