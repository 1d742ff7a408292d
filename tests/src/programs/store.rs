//! The programs' own memory: connections and pins, which the agent does not write.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf};
use lb_agent::dataplane::bpf::{Opening, OpeningPins};
use lb_common::{
    DropKey, Flow, FlowKey, Frontend, FrontendKey, Pin, PinKey, ServiceNets,
    counter::Outcome,
    drops::Event,
    flow::{
        Marks,
        opening::{HEADER, WAYS},
    },
    frontend::index::Listed,
    maps::{
        DROPS, ESTABLISHED, EVENTS, FLOWS, FRONTEND_COPIES, FRONTENDS, LAST_DROPS, LAYOUT_VERSION,
        OPENING, OPENING_WORDS, PINS, SERVICE_NETS,
    },
    ways::Word,
};

use crate::mapped::Mapped;

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
    opening: Arc<Opening>,
    /// The words of that.
    words: Mapped<u64>,
    pins: Table<PinKey, Pin>,
    opening_pins: Arc<OpeningPins>,
    frontends: Table<FrontendKey, Frontend>,
    copies: Array<MapData, Raw<Listed>>,
    marks: Array<MapData, Raw<Marks>>,
    service_nets: Array<MapData, Raw<ServiceNets>>,
    drops: PerCpuHashMap<MapData, Raw<DropKey>, u64>,
    last_drops: PerCpuArray<MapData, Raw<Event>>,
    events: RingBuf<MapData>,
}

impl Store {
    /// Opens the maps that are pinned below `pin_dir`.
    pub(super) fn open(pin_dir: &Path) -> Result<Self> {
        Ok(Self {
            flows: open(pin_dir, FLOWS)?,
            opening: Arc::new(opening(pin_dir)?),
            words: words(pin_dir)?,
            pins: open(pin_dir, PINS)?,
            opening_pins: Arc::new(OpeningPins::open(pin_dir)?),
            frontends: open(pin_dir, FRONTENDS)?,
            copies: open(pin_dir, FRONTEND_COPIES)?,
            marks: open(pin_dir, ESTABLISHED)?,
            service_nets: open(pin_dir, SERVICE_NETS)?,
            drops: open(pin_dir, DROPS)?,
            last_drops: open(pin_dir, LAST_DROPS)?,
            events: open(pin_dir, EVENTS)?,
        })
    }

    /// Records of both maps.
    pub(super) fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        let mut flows = read(&self.flows)?;
        flows.extend(self.opening.records());
        Ok(flows)
    }

    /// Records of `OPENING`.
    pub(super) fn opening(&self) -> Arc<Opening> {
        self.opening.clone()
    }

    /// Lets ticks pass for what `OPENING` notes of its records' use.
    pub(super) fn age_opening(&self, ticks: u64) {
        for shared in &self.words.words()[HEADER as usize * WAYS..] {
            let word = Word(shared.load(Ordering::Relaxed));
            if word.is_published() {
                shared.store(word.aged(ticks).0, Ordering::Relaxed);
            }
        }
    }

    /// Records of `FLOWS`.
    pub(super) fn kept(&self) -> Result<Vec<(FlowKey, Flow)>> {
        read(&self.flows)
    }

    /// Pins of both maps by the hashes of their keys; of two with one key, that of `PINS`.
    pub(super) fn pins(&self) -> Result<BTreeMap<u64, Pin>> {
        let mut pins: BTreeMap<_, _> = self.opening_pins.all().into_iter().collect();
        let kept = read(&self.pins)?.into_iter();
        pins.extend(kept.map(|(key, pin)| (self.opening_pins.hash(&key), pin)));
        Ok(pins)
    }

    /// Pins of `OPENING_PINS`.
    pub(super) fn opening_pins(&self) -> Arc<OpeningPins> {
        self.opening_pins.clone()
    }

    /// Pins of `PINS`.
    pub(super) fn kept_pins(&self) -> Result<Vec<(PinKey, Pin)>> {
        read(&self.pins)
    }

    /// Forgets those.
    pub(super) fn clear_kept_pins(&mut self) -> Result<()> {
        for (key, _) in read(&self.pins)? {
            self.pins.remove(&Raw(key)).context("forget a pin")?;
        }
        Ok(())
    }

    /// Replaces the record of a flow, and lets programs ask it for the next packet.
    pub(super) fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        self.clear_marks()?;
        self.put_record(key, flow)
    }

    /// The same, without forgetting the marks.
    pub(super) fn put_record(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        const EXIST: u64 = 2;
        if self.opening.replace_flow(key, flow)
            || self.flows.insert(Raw(*key), Raw(*flow), EXIST).is_ok()
        {
            return Ok(());
        }
        bail!("there is no record {key:?}")
    }

    /// Inserts or replaces a pin of `PINS`.
    pub(super) fn put_pin(&mut self, key: &PinKey, pin: &Pin) -> Result<()> {
        let put = self.pins.insert(Raw(*key), Raw(*pin), 0);
        put.context("put a pin")
    }

    /// Inserts or replaces the record of a flow that is opening.
    pub(super) fn insert_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        ensure!(self.opening.insert(key, flow), "no room for a record");
        Ok(())
    }

    /// Forgets the records, as a full map does.
    pub(super) fn clear_flows(&mut self) -> Result<()> {
        self.clear_records()?;
        self.clear_marks()
    }

    /// The same, but for marks.
    pub(super) fn clear_records(&mut self) -> Result<()> {
        self.opening.clear();
        for (key, _) in read(&self.flows)? {
            let removed = self.flows.remove(&Raw(key));
            removed.context("forget a record")?;
        }
        Ok(())
    }

    /// Forgets the marks, as after a moment.
    pub(super) fn clear_marks(&mut self) -> Result<()> {
        for index in 0..self.marks.len() {
            let set = self.marks.set(index, Raw(Marks::default()), 0);
            set.context("forget marks")?;
        }
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.clear_flows()?;
        self.opening_pins.clear();
        self.clear_kept_pins()?;
        for key in self.drops()?.into_keys() {
            self.drops.remove(&Raw(key)).context("clear DROPS")?;
        }
        Ok(())
    }

    /// Makes every frontend name a table that has been replaced.
    pub(super) fn tear_tables(&mut self) -> Result<()> {
        let tear = |frontend: &mut Frontend| {
            frontend.generation = frontend.generation.wrapping_add(1);
        };
        for (key, mut frontend) in read(&self.frontends)? {
            tear(&mut frontend);
            let put = self.frontends.insert(Raw(key), Raw(frontend), 0);
            put.context("write FRONTENDS")?;
        }
        for index in 0..self.copies.len() {
            let Raw(mut listed) = self.copies.get(&index, 0).context("read a copy")?;
            tear(&mut listed.frontend);
            let put = self.copies.set(index, Raw(listed), 0);
            put.context("write FRONTEND_COPIES")?;
        }
        Ok(())
    }

    /// Exchanges where cluster addresses can be.
    pub(super) fn swap_service_nets(&mut self, nets: &ServiceNets) -> Result<ServiceNets> {
        let Raw(before) = self.service_nets.get(&0, 0).context("read SERVICE_NETS")?;
        let put = self.service_nets.set(0, Raw(*nets), 0);
        put.context("write SERVICE_NETS")?;
        Ok(before)
    }

    /// The elements of `DROPS`, each summed up over all CPUs.
    pub(super) fn drops(&self) -> Result<BTreeMap<DropKey, u64>> {
        let elements = self.drops.iter().map(|element| {
            let (Raw(key), values) = element.context("read DROPS")?;
            Ok((key, values.iter().sum()))
        });
        elements.collect()
    }

    /// The newest sample of a reason.
    pub(super) fn last_drop(&self, reason: Outcome) -> Result<Event> {
        let values = self.last_drops.get(&(reason as u32), 0);
        let values = values.context("read LAST_DROPS")?;
        let newest = values.iter().max_by_key(|Raw(event)| event.time_ns);
        newest
            .map(|Raw(event)| *event)
            .context("a machine without CPUs")
    }

    /// Takes what waits in the ring buffer.
    pub(super) fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(bytes) = self.events.next() {
            events.push(bytemuck::pod_read_unaligned(&bytes));
        }
        events
    }
}

fn open<T: TryFrom<Map, Error = MapError>>(pin_dir: &Path, name: &str) -> Result<T> {
    let path = pin_dir.join(format!("v{LAYOUT_VERSION}/maps/{name}"));
    let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
    let map = Map::from_map_data(data).with_context(|| format!("recognise {name}"))?;
    map.try_into().with_context(|| format!("use {name}"))
}

fn words(pin_dir: &Path) -> Result<Mapped<u64>> {
    let data = MapData::from_pin(pin_dir.join(format!("v{LAYOUT_VERSION}/maps/{OPENING_WORDS}")))?;
    let len = data.info()?.max_entries() as usize * WAYS;
    Mapped::new(data.fd().as_fd(), len).context("map OPENING_WORDS")
}

/// `OPENING` by its records.
fn opening(pin_dir: &Path) -> Result<Opening> {
    let path = pin_dir.join(format!("v{LAYOUT_VERSION}/maps/{OPENING}"));
    let opening = Opening::open(&path).with_context(|| format!("open {}", path.display()))?;
    opening.context("no OPENING")
}

fn read<K: bytemuck::Pod, V: bytemuck::Pod>(table: &Table<K, V>) -> Result<Vec<(K, V)>> {
    let elements = table.iter().map(|element| {
        let (Raw(key), Raw(value)) = element.context("read a map")?;
        Ok((key, value))
    });
    elements.collect()
}
