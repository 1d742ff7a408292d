//! Endpoints that change in a cluster that the agent knows: how long until the maps say so.

use std::collections::VecDeque;
use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use lb_common::maps::{FRONTENDS, LAYOUT_VERSION};
use lb_common::{Frontend, FrontendKey};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::json;

use super::scene::Scene;
use super::{Size, grouped};
use crate::apiserver::store::Kind;
use crate::lab::Agent;
use crate::perf::objects;
use crate::perf::report::Row;
use crate::perf::samples::Samples;

/// Between two changes that do not concern each other: longer than the agent takes changes together.
const APART: Duration = Duration::from_millis(150);
/// Between two of a thousand changes a second.
const TICK: Duration = Duration::from_millis(1);
/// Between two looks whether a change is written: who looks all the time has the processor that the
/// agent needs, for milliseconds at a time.
const LOOK: Duration = Duration::from_micros(50);
/// How long a change may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Where the Services that change are: a prime, so that all have their turn.
const STRIDE: u32 = 7919;
/// The first address of a pod that takes another one's place.
const FRESH: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

type Key = [u8; size_of::<FrontendKey>()];
type Value = [u8; size_of::<Frontend>()];

/// The frontends in the kernel, looked up one by one.
struct Frontends(HashMap<MapData, Key, Value>);

impl Frontends {
    fn open(agent: &Agent) -> Result<Self> {
        let path = format!("v{LAYOUT_VERSION}/maps/{FRONTENDS}");
        let path = agent.pin_dir().join(path);
        let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self(Map::HashMap(data).try_into()?))
    }

    /// Which tables Service `number` has: each has another generation.
    fn generation(&self, number: u32) -> Result<u32> {
        let key: Key = bytemuck::cast(objects::frontend(number));
        let value = self.0.get(&key, 0).context("look a frontend up")?;
        Ok(bytemuck::pod_read_unaligned::<Frontend>(&value).generation)
    }
}

/// A change that the maps do not have yet.
struct Pending {
    number: u32,
    generation: u32,
    since: Instant,
}

/// Gives the last endpoint of a Service an address that none had before: however many changes are
/// taken together, there is something to write.
pub(super) struct Changer<'a> {
    scene: &'a Scene,
    frontends: Frontends,
    count: u32,
}

impl<'a> Changer<'a> {
    pub(super) fn new(scene: &'a Scene, agent: &Agent) -> Result<Self> {
        Ok(Self {
            scene,
            frontends: Frontends::open(agent)?,
            count: 0,
        })
    }

    fn change(&mut self) -> Result<Pending> {
        let Size {
            services,
            endpoints,
            ..
        } = self.scene.size;
        let number = (u64::from(self.count) * u64::from(STRIDE) % u64::from(services)) as u32;
        let fresh = Ipv4Addr::from_bits(FRESH.to_bits() + self.count);
        self.count += 1;
        let mut slice = objects::slice(number, endpoints);
        let list = slice["endpoints"].as_array_mut();
        if let Some(last) = list.and_then(|list| list.last_mut()) {
            last["addresses"] = json!([fresh]);
        }
        let generation = self.frontends.generation(number)?;
        let since = Instant::now();
        self.scene
            .server
            .write(|store| store.inject(Kind::EndpointSlice, slice));
        Ok(Pending {
            number,
            generation,
            since,
        })
    }

    /// Whether the maps have a change.
    fn is_written(&self, pending: &Pending) -> Result<bool> {
        let written = self.frontends.generation(pending.number)? != pending.generation;
        ensure!(
            written || pending.since.elapsed() < DEADLINE,
            "a change is not written within {DEADLINE:?}"
        );
        Ok(written)
    }
}

/// One change after the other: from the API server's store until it is in the maps.
pub(super) fn one_by_one(changer: &mut Changer<'_>) -> Result<Vec<Row>> {
    let size = changer.scene.size;
    let mut samples = Samples::default();
    let rounds = if size.is_quick { 50 } else { 200 };
    for _ in 0..rounds {
        thread::sleep(APART);
        let pending = changer.change()?;
        while !changer.is_written(&pending)? {
            thread::sleep(LOOK);
        }
        samples.push(milliseconds(pending.since.elapsed()));
    }
    let services = grouped(size.services);
    let name = |what| {
        format!(
            "one endpoint changed among {services} Services: event received → maps written, {what}"
        )
    };
    Ok(vec![
        Row::new(name("p50"), samples.median(), "ms"),
        Row::new(name("p99"), samples.percentile(0.99), "ms"),
    ])
}

/// A thousand changes a second.
pub(super) fn sustained(changer: &mut Changer<'_>, agent: &Agent) -> Result<Vec<Row>> {
    let size = changer.scene.size;
    let before = changer.count;
    let mut samples = Samples::default();
    let mut pending = VecDeque::new();
    let lasting = Duration::from_secs(if size.is_quick { 3 } else { 10 });
    let (begin, cpu) = (Instant::now(), cpu_time(agent)?);
    let mut next = begin;
    while begin.elapsed() < lasting {
        while next <= Instant::now() {
            pending.push_back(changer.change()?);
            next += TICK;
        }
        collect(changer, &mut pending, &mut samples)?;
        thread::sleep(TICK / 4);
    }
    let made = changer.count - before;
    let (lasted, spent) = (begin.elapsed(), cpu_time(agent)?.saturating_sub(cpu));
    while !pending.is_empty() {
        collect(changer, &mut pending, &mut samples)?;
        thread::sleep(TICK);
    }
    let services = grouped(size.services);
    let name = |what| format!("1,000 changes/s among {services} Services: {what}");
    let rate = f64::from(made) / lasted.as_secs_f64();
    let busy = 100.0 * spent.as_secs_f64() / lasted.as_secs_f64();
    Ok(vec![
        Row::new(name("made"), rate, "changes/s"),
        Row::new(name("p50"), samples.median(), "ms"),
        Row::new(name("p99"), samples.percentile(0.99), "ms"),
        Row::new(name("the agent's CPU"), busy, "%"),
    ])
}

/// Takes out what the maps have.
fn collect(
    changer: &Changer<'_>,
    pending: &mut VecDeque<Pending>,
    samples: &mut Samples,
) -> Result<()> {
    for _ in 0..pending.len() {
        let Some(one) = pending.pop_front() else {
            break;
        };
        if changer.is_written(&one)? {
            samples.push(milliseconds(one.since.elapsed()));
        } else {
            pending.push_back(one);
        }
    }
    Ok(())
}

/// How long the agent has been computing, in user space and in the kernel.
fn cpu_time(agent: &Agent) -> Result<Duration> {
    let path = format!("/proc/{}/stat", agent.id());
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no length of a tick")?;
    let spent = ticks_spent(&stat).with_context(|| format!("{path} tells of no time"))?;
    Ok(Duration::from_secs_f64(spent as f64 / ticks as f64))
}

/// `utime` and `stime` of a line of `/proc/<pid>/stat`: the 14th and 15th field, where the second is
/// a name in parentheses.
fn ticks_spent(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let mut time = || times.next()?.parse::<u64>().ok();
    Some(time()? + time()?)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_a_process_has_spent_is_read() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5 1 1";
        assert_eq!(ticks_spent(stat), Some(42));
        assert_eq!(ticks_spent("nothing"), None);
    }
}
