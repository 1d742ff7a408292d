//! Takes over from earlier programs whose maps are not what this agent wants: of other capacities, or
//! of another layout.
//!
//! New maps are made beside the old ones and filled from them; programs that use the new maps are
//! attached before the old programs, so that these see what the new ones do not know; what the old
//! ones have recorded meanwhile is carried over; then the old ones go. Killed anywhere in between,
//! the next start goes on from there: what serves is complete at any time.

mod copy;
mod flows;
mod plan;
mod records;
mod stage;
mod switch;

use std::collections::BTreeSet;

use aya::Ebpf;
use lb_common::maps::{KNOWN, MapSpec};
use tracing::{debug, info, warn};

pub use self::plan::Kept;
use self::{
    copy::{Copies, Phase},
    plan::{Found, Plan, Way, plan},
    stage::{Directory, discard},
};
use super::{
    Options, addresses,
    error::Error,
    index::Index,
    known::Bits,
    layout::{self, Layout},
    load, opening,
    pins::Pins,
    plan::Attachment,
    raw::RawMap,
    sockets,
};

/// Points between which a process may be killed; for tests of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The new maps are there, and the programs are loaded.
    Loaded,
    /// The new maps are filled.
    Filled,
    /// Programs of sockets are attached.
    SocketsAttached,
    /// All programs are attached.
    Attached,
    /// The new maps have all that the old ones have.
    CaughtUp,
    /// What served is set aside.
    SetAside,
    /// What is new is in its place.
    Placed,
}

/// Programs and maps, ready to be used.
pub(super) struct Opened {
    pub(super) ebpf: Ebpf,
    pub(super) pins: Pins,
    /// Links that run these programs.
    pub(super) current: BTreeSet<Attachment>,
    pub(super) kept: Vec<Kept>,
    /// Whether the programs of sockets are attached.
    pub(super) has_sockets: bool,
}

/// Loads `object`, with the maps of earlier runs or with what becomes of them.
pub(super) fn open(object: &[u8], options: &Options) -> Result<Opened, Error> {
    let directory = Directory::open(&options.pin_dir)?;
    directory.settle()?;
    if directory.staging().exists() {
        resume(object, options, &directory)?;
    }
    let live = directory.live();
    opening::settle(&live)?;
    let Some((source, layout)) = source(&directory, options)? else {
        live.create()?;
        return adopt(object, options, live, options.maps.clone(), Vec::new());
    };
    let plan = make_plan(&options.maps, &source, layout)?;
    for kept in &plan.kept {
        warn!("{kept}");
    }
    if !plan.is_needed {
        let specs = plan.specs();
        return adopt(object, options, live, specs, plan.kept);
    }
    info!(from = %source.layout().display(), "carrying connections over into new maps");
    let staging = directory.staging();
    staging.create()?;
    let carry = Carry {
        object,
        options,
        directory: &directory,
        source: &source,
        plan: &plan,
    };
    match carry.run(&staging, false) {
        Ok(opened) => Ok(opened),
        Err(error) => {
            let is_stopped = matches!(error, Error::Stopped(_));
            // With a link it serves already, and the next start goes on.
            if !is_stopped && staging.link_names().is_ok_and(|links| links.is_empty()) {
                discard(staging.layout())?;
            }
            Err(error)
        }
    }
}

/// Loads the programs for the maps that are pinned, or will be.
fn adopt(
    object: &[u8],
    options: &Options,
    pins: Pins,
    maps: Vec<MapSpec>,
    kept: Vec<Kept>,
) -> Result<Opened, Error> {
    pins.create()?;
    let options = Options {
        maps,
        ..options.clone()
    };
    Ok(Opened {
        ebpf: load::load(object, &options, &pins, &pins)?,
        pins,
        current: BTreeSet::new(),
        kept,
        has_sockets: false,
    })
}

/// What serves; in which layout, if it is not ours.
fn source(
    directory: &Directory,
    options: &Options,
) -> Result<Option<(Pins, Option<&'static Layout>)>, Error> {
    let live = directory.live();
    let mut source = live.exists().then_some((live, None));
    for version in directory.others()? {
        let other = directory.other(version);
        match layout::known(version) {
            Some(layout) if source.is_none() => source = Some((other, Some(layout))),
            // What is known and does not serve is of an agent that knew nothing of ours.
            Some(_) => discard(other.layout())?,
            None if options.discards_unknown_layouts => discard(other.layout())?,
            None => {
                return Err(Error::UnknownLayout {
                    path: other.layout().into(),
                    version,
                });
            }
        }
    }
    Ok(source)
}

fn make_plan(wanted: &[MapSpec], source: &Pins, layout: Option<&Layout>) -> Result<Plan, Error> {
    let mut all = Vec::new();
    for spec in wanted {
        let path = source.map(spec.name);
        if let Some(map) = RawMap::open(spec.name, &path)? {
            let used = if map.spec.max_entries > spec.max_entries {
                map.used().map_err(|source| Error::Carry {
                    map: spec.name,
                    source,
                })?
            } else {
                0
            };
            let spec = map.spec;
            all.push(Found { spec, used });
        }
    }
    let found = |name: &str| all.iter().find(|found| found.spec.name == name).copied();
    plan(wanted, found, layout).map_err(|differences| Error::Incompatible {
        path: source.maps().into(),
        differences,
    })
}

/// Goes on where another process was killed: the sizes are those that it wanted.
fn resume(object: &[u8], options: &Options, directory: &Directory) -> Result<(), Error> {
    let staging = directory.staging();
    let is_serving = staging.link_names().is_ok_and(|links| !links.is_empty());
    let source = source(directory, options)?;
    let (true, Some((source, layout))) = (is_serving, source) else {
        return discard(staging.layout());
    };
    info!("another process was carrying connections over: going on from there");
    let mut wanted = options.maps.clone();
    for spec in &mut wanted {
        if let Some(map) = RawMap::open(spec.name, &staging.map(spec.name))? {
            spec.max_entries = map.spec.max_entries;
        }
    }
    let mut plan = make_plan(&wanted, &source, layout)?;
    // There was room when that was decided.
    for (map, wanted) in plan.maps.iter_mut().zip(&wanted) {
        map.spec = *wanted;
    }
    let carry = Carry {
        object,
        options,
        directory,
        source: &source,
        plan: &plan,
    };
    carry.run(&staging, true).map(drop)
}

/// Everything that has to do with one take-over.
struct Carry<'a> {
    object: &'a [u8],
    options: &'a Options,
    directory: &'a Directory,
    source: &'a Pins,
    plan: &'a Plan,
}

impl Carry<'_> {
    fn run(&self, staging: &Pins, is_resumed: bool) -> Result<Opened, Error> {
        if RawMap::open(KNOWN, &self.source.map(KNOWN))?.is_some() {
            // New programs note only in their own map what they insert into those that are shared.
            Bits::open(self.source)?.distrust();
        }
        self.share(staging)?;
        let options = Options {
            maps: self.plan.specs(),
            ..self.options.clone()
        };
        let mut ebpf = load::load(self.object, &options, staging, self.source)?;
        self.reach(Step::Loaded)?;
        let mut copies = Copies::open(self.source, staging, &self.plan.maps)?;
        if !is_resumed && switch::leaves_old_ones_behind(self.source)? {
            copies.defer(staging)?;
        }
        if is_resumed {
            copies.fill_in(Phase::Before)?;
        } else {
            copies.fill()?;
            // The first time takes a while, this time is short.
            copies.catch_up(Phase::Before)?;
        }
        // Also where an earlier version has filled the new maps, which knew nothing of either.
        addresses::complete(staging)?;
        drop(Index::open(staging)?);
        self.reach(Step::Filled)?;
        sockets::sync(&mut ebpf, staging, options.cgroup.as_deref())?;
        self.reach(Step::SocketsAttached)?;
        let current = self.attach(&mut ebpf, staging, &mut copies)?;
        self.reach(Step::Attached)?;
        if is_resumed {
            copies.fill_in(Phase::After)?;
        } else {
            copies.catch_up(Phase::After)?;
        }
        copies.finish()?;
        self.reach(Step::CaughtUp)?;
        self.directory.set_aside(self.source)?;
        self.reach(Step::SetAside)?;
        self.directory.place()?;
        self.reach(Step::Placed)?;
        // What is set aside goes.
        self.directory.settle()?;
        Ok(Opened {
            ebpf,
            pins: self.directory.live(),
            current,
            kept: self.plan.kept.clone(),
            has_sockets: true,
        })
    }

    /// Attaches the new programs; last of all those that open connections with SNAT, once it is known
    /// which ports of that are taken.
    fn attach(
        &self,
        ebpf: &mut Ebpf,
        staging: &Pins,
        copies: &mut Copies,
    ) -> Result<BTreeSet<Attachment>, Error> {
        let links = switch::links(self.source, staging)?;
        let (last, first): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|a| switch::opens_with_snat(*a));
        let mut switch = switch::Switch {
            ebpf,
            old: self.source,
            new: staging,
            xdp: self.options.xdp,
        };
        let mut attached = switch.attach_before(&first);
        copies.reserve()?;
        attached.append(&mut switch.attach_before(&last));
        Ok(attached)
    }

    /// Pins the maps that stay in the new place, too.
    fn share(&self, staging: &Pins) -> Result<(), Error> {
        let shared = self.plan.maps.iter().filter(|map| map.way == Way::Share);
        for name in shared.map(|map| map.spec.name) {
            let path = staging.map(name);
            if !path.exists()
                && let Some(map) = RawMap::open(name, &self.source.map(name))?
            {
                map.pin(&path)?;
            }
        }
        Ok(())
    }

    fn reach(&self, step: Step) -> Result<(), Error> {
        debug!(?step, "carrying over");
        if self.options.stop_after == Some(step) {
            return Err(Error::Stopped(step));
        }
        Ok(())
    }
}
