//! What pinned maps say, whatever numbers they say it by.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData};
use lb_agent::dataplane::bpf;
use lb_common::maps::{INTERFACES, LAYOUT_VERSION, SERVICE_NETS, SLOTS, VIPS};
use lb_common::{Addr, Extent, Frontend, Interface, ServiceNets, Slot, Vip};

/// A key or a value as it lies in memory.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: `bytemuck::Pod` guarantees `Copy`, no padding and no invalid bit patterns, and
// `Raw` has the layout of its only field.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}

/// All that the maps of an agent say, in words.
///
/// A table that is torn, and a slot that leads to a backend which does not serve, are said as well.
pub(crate) fn read(pin_dir: &Path) -> BTreeMap<String, String> {
    let slots: Array<_, Raw<Slot>> = open(pin_dir, SLOTS, Map::Array);
    let backends = bpf::pinned_backends(pin_dir).expect("backends");
    let mut all = BTreeMap::new();
    for (key, frontend) in bpf::pinned_frontends(pin_dir).expect("frontends") {
        let table = |extent| {
            table(&slots, &frontend, extent, |slot| {
                let backend = backends.get(&slot.current.index());
                backend.map_or_else(
                    || format!("{slot:?}, which is nobody"),
                    |backend| {
                        format!(
                            "{:?}:{} {} {}",
                            backend.addr,
                            backend.port,
                            backend.is(slot.current),
                            backend.serves()
                        )
                    },
                )
            })
        };
        let says = format!(
            "flags {} affinity {} outside {:?} inside {:?}",
            frontend.flags,
            frontend.affinity_timeout_s,
            table(frontend.outside),
            table(frontend.inside),
        );
        all.insert(format!("{key:?}"), says);
    }
    let serving = backends.values().filter(|backend| backend.serves());
    let serving: BTreeSet<_> = serving
        .map(|b| {
            format!(
                "{:?}:{}/{} local {} {}",
                b.addr, b.port, b.protocol, b.local, b.state
            )
        })
        .collect();
    all.insert("backends".to_owned(), format!("{serving:#?}"));
    all.insert(VIPS.to_owned(), entries::<Addr, Vip>(pin_dir, VIPS));
    let interfaces = entries::<u32, Interface>(pin_dir, INTERFACES);
    all.insert(INTERFACES.to_owned(), interfaces);
    let nets: Array<_, Raw<ServiceNets>> = open(pin_dir, SERVICE_NETS, Map::Array);
    let Raw(nets) = nets.get(&0, 0).expect("an element");
    all.insert(SERVICE_NETS.to_owned(), format!("{nets:?}"));
    all
}

fn table(
    slots: &Array<MapData, Raw<Slot>>,
    frontend: &Frontend,
    extent: Extent,
    say: impl Fn(Slot) -> String,
) -> BTreeSet<String> {
    if extent.is_empty() {
        return BTreeSet::new();
    }
    let slot = |index| slots.get(&index, 0).expect("a slot").0;
    let mut said = BTreeSet::new();
    if slot(extent.offset) != Slot::header(frontend.service, frontend.generation) {
        said.insert("torn".to_owned());
    }
    for index in 1..extent.elements() {
        said.insert(say(slot(extent.offset + index)));
    }
    said
}

fn entries<K, V>(pin_dir: &Path, name: &str) -> String
where
    K: bytemuck::Pod + Debug,
    V: bytemuck::Pod + Debug,
{
    let map: HashMap<_, Raw<K>, Raw<V>> = open(pin_dir, name, Map::HashMap);
    let entries: BTreeSet<String> = map
        .iter()
        .map(|entry| {
            let (Raw(key), Raw(value)) = entry.expect("an entry");
            format!("{key:?} {value:?}")
        })
        .collect();
    format!("{entries:#?}")
}

fn open<T>(pin_dir: &Path, name: &str, kind: fn(MapData) -> Map) -> T
where
    T: TryFrom<Map>,
    T::Error: Debug,
{
    let path = pin_dir.join(format!("v{LAYOUT_VERSION}/maps/{name}"));
    kind(MapData::from_pin(path).expect("a pin"))
        .try_into()
        .expect("such a map")
}
