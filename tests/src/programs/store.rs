//! The programs' own memory: connections and pins, which the agent does not write.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use lb_common::{
    Flow, FlowKey, Pin, PinKey,
    maps::{FLOWS, LAYOUT_VERSION, PINS},
};

/// A key or a value as it lies in memory.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: `bytemuck::Pod` guarantees `Copy`, no padding and no invalid bit patterns, and
// `Raw` has the layout of its only field.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}

type Table<K, V> = HashMap<MapData, Raw<K>, Raw<V>>;

/// The maps that hold it.
pub(super) struct Store {
    flows: Table<FlowKey, Flow>,
    pins: Table<PinKey, Pin>,
}

impl Store {
    /// Opens the maps that are pinned below `pin_dir`.
    pub(super) fn open(pin_dir: &Path) -> Result<Self> {
        Ok(Self {
            flows: open(pin_dir, FLOWS)?,
            pins: open(pin_dir, PINS)?,
        })
    }

    pub(super) fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        read(&self.flows)
    }

    pub(super) fn pins(&self) -> Result<Vec<(PinKey, Pin)>> {
        read(&self.pins)
    }

    pub(super) fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        let put = self.flows.insert(Raw(*key), Raw(*flow), 0);
        put.context("write FLOWS")
    }

    /// Forgets the records, as a full map does.
    pub(super) fn clear_flows(&mut self) -> Result<()> {
        for (key, _) in self.flows()? {
            self.flows.remove(&Raw(key)).context("clear FLOWS")?;
        }
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.clear_flows()?;
        for (key, _) in self.pins()? {
            self.pins.remove(&Raw(key)).context("clear PINS")?;
        }
        Ok(())
    }
}

fn open<K: bytemuck::Pod, V: bytemuck::Pod>(pin_dir: &Path, name: &str) -> Result<Table<K, V>> {
    let path = pin_dir.join(format!("v{LAYOUT_VERSION}/maps/{name}"));
    let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
    let map = Map::from_map_data(data).with_context(|| format!("recognise {name}"))?;
    map.try_into().with_context(|| format!("use {name}"))
}

fn read<K: bytemuck::Pod, V: bytemuck::Pod>(table: &Table<K, V>) -> Result<Vec<(K, V)>> {
    let elements = table.iter().map(|element| {
        let (Raw(key), Raw(value)) = element.context("read a map")?;
        Ok((key, value))
    });
    elements.collect()
}
