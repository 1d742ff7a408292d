//! What writing the maps takes, without those who say what is to be written.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_agent::agent::Capacities;
use lb_agent::dataplane::bpf::{self, BpfDataplane, TcMode, XdpMode, kernel};
use lb_agent::dataplane::{Dataplane, Element, Error, Key, Observation};
use lb_agent::desired::NodeView;
use lb_agent::model::{Model, ObjectName};
use lb_agent::object;
use lb_agent::reconcile::Reconciler;
use lb_agent::source::objects::{EndpointSlice, Fields, Object, Service};
use lb_common::{DatapathConfig, Flow, FlowKey, Slot};
use serde_json::Value;

use super::Size;
use super::scene::{Scene, capacities};
use crate::lab::Place as _;
use crate::perf::objects;
use crate::perf::report::Row;

/// The kernel's maps, and how long it took to write them.
struct Timed {
    maps: BpfDataplane,
    spent: Duration,
}

impl Timed {
    fn time<T>(&mut self, write: impl FnOnce(&mut BpfDataplane) -> T) -> T {
        let begin = Instant::now();
        let written = write(&mut self.maps);
        self.spent += begin.elapsed();
        written
    }
}

impl Dataplane for Timed {
    fn put(&mut self, element: &Element) -> Result<(), Error> {
        self.time(|maps| maps.put(element))
    }

    fn put_all(&mut self, elements: &[&Element]) -> Result<(), Error> {
        self.time(|maps| maps.put_all(elements))
    }

    fn remove(&mut self, key: &Key) -> Result<(), Error> {
        self.time(|maps| maps.remove(key))
    }

    fn write_slots(&mut self, offset: u32, slots: &[Slot]) -> Result<(), Error> {
        self.time(|maps| maps.write_slots(offset, slots))
    }

    fn slots(&self) -> &[Slot] {
        self.maps.slots()
    }

    fn pin_flows(
        &mut self,
        is_lost: &dyn Fn(&[Slot], &FlowKey, &Flow) -> bool,
    ) -> Result<(), Error> {
        self.time(|maps| maps.pin_flows(is_lost))
    }

    fn observe(&self) -> Result<Observation, Error> {
        self.maps.observe()
    }
}

/// Writes the maps of a cluster for the first time.
pub(super) fn measure(scene: &Scene) -> Result<Vec<Row>> {
    let size = scene.size;
    let model = model(size)?;
    let begun = |maps: BpfDataplane| -> Result<(Duration, Duration)> {
        let timed = Timed {
            maps,
            spent: Duration::ZERO,
        };
        let mut reconciler = Reconciler::new(timed, DatapathConfig::DEFAULT.seed)?;
        let begin = Instant::now();
        let outcome = reconciler.reconcile(&model, &NodeView::default(), begin)?;
        let took = begin.elapsed();
        ensure!(
            outcome.rejections.is_empty(),
            "not everything fits: {:?}",
            outcome.rejections.first()
        );
        let written = reconciler.dataplane().spent;
        Ok((written, took.saturating_sub(written)))
    };
    let maps = scene.node().netns().run(|| open(scene, &capacities(size)));
    let (written, computed) = begun(maps??)?;
    let name = match (size.services, size.endpoints) {
        (10_000, 10) => "writing those maps".to_owned(),
        _ => format!("writing the maps of {}", size.name()),
    };
    let computing = format!("computing the maps of {}", size.name());
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(vec![
        Row::new(name, milliseconds(written), "ms"),
        Row::new(computing, milliseconds(computed), "ms"),
    ])
}

/// Maps that nobody has written.
fn open(scene: &Scene, capacities: &Capacities) -> Result<BpfDataplane> {
    let options = bpf::Options {
        pin_dir: scene.node().pin_dir().join("writing"),
        cgroup: None,
        xdp: XdpMode::Native,
        tc: TcMode::Auto,
        maps: capacities.specs(),
        config: DatapathConfig {
            ticks_per_second: kernel::ticks_per_second()?,
            ..DatapathConfig::DEFAULT
        },
        discards_unknown_layouts: false,
        stop_after: None,
    };
    bpf::open(object::LB, &options).context("load the programs")
}

/// What the API server's objects say.
fn model(size: Size) -> Result<Model> {
    let mut model = Model::default();
    for number in 0..size.services {
        let (service, slice) = (
            objects::service(number),
            objects::slice(number, size.endpoints),
        );
        let service_name = name(&service);
        let service = convert::<Service>(service).context("a Service")?;
        model.services.insert(service_name, service.into());
        let name = name(&slice);
        let owned = convert::<EndpointSlice>(slice).context("a slice")?;
        let slices = [(name.name.clone(), owned.slice)];
        model.slices.insert(owned.service, slices.into());
    }
    Ok(model)
}

fn name(object: &Value) -> ObjectName {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    ObjectName::new(text("namespace"), text("name"))
}

fn convert<O: Object>(object: Value) -> Option<O::Model> {
    let name = name(&object);
    let object: O = serde_json::from_value(object).ok()?;
    object.convert(&mut Fields::new(O::KIND, name))
}
