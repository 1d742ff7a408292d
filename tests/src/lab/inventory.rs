//! What an agent has in the kernel, asked of the kernel: nothing that is counted elsewhere can hide here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapInfo;
use aya::programs::{loaded_links, loaded_programs};

/// All that belongs to the pins of one agent, whoever holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Programs that use one of the pinned maps.
    pub programs: usize,
    /// Links that run such a program.
    pub links: usize,
    /// Maps that are pinned, or that such a program uses.
    pub maps: usize,
    /// Pins.
    pub pins: usize,
}

impl Inventory {
    /// Counts what belongs to the maps that are pinned below `pin_dir`, of whatever layout.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of(pin_dir: &Path) -> Result<Self> {
        let (maps, pins) = pinned(pin_dir)?;
        let (mut programs, mut used) = (BTreeSet::new(), maps.clone());
        for (program, ids) in users_of(&maps) {
            programs.insert(program);
            used.extend(ids);
        }
        let links = loaded_links().flatten();
        let links = links.filter(|link| programs.contains(&link.program_id()));
        Ok(Self {
            programs: programs.len(),
            links: links.count(),
            maps: used.len(),
            pins,
        })
    }
}

/// Ids of the programs that use one of the maps that are pinned below `pin_dir`.
///
/// # Errors
/// When the kernel does not tell.
pub fn programs(pin_dir: &Path) -> Result<BTreeSet<u32>> {
    let (maps, _) = pinned(pin_dir)?;
    Ok(users_of(&maps).map(|(program, _)| program).collect())
}

/// Ids of the maps that are pinned below `pin_dir`, of whatever layout, and how many pins there are in all.
fn pinned(pin_dir: &Path) -> Result<(BTreeSet<u32>, usize)> {
    let (mut maps, mut pins) = (BTreeSet::new(), 0);
    let layouts = fs::read_dir(pin_dir).with_context(|| format!("list {}", pin_dir.display()))?;
    for layout in layouts {
        let layout = layout?.path();
        for pin in fs::read_dir(layout.join("maps"))? {
            maps.insert(MapInfo::from_pin(pin?.path())?.id());
            pins += 1;
        }
        pins += fs::read_dir(layout.join("links"))?.count();
    }
    Ok((maps, pins))
}

/// Programs that use one of these maps, and the ids of all maps that each uses. What goes while it is
/// listed is gone.
fn users_of(maps: &BTreeSet<u32>) -> impl Iterator<Item = (u32, Vec<u32>)> {
    loaded_programs().flatten().filter_map(|program| {
        let ids = program.map_ids().ok().flatten().unwrap_or_default();
        ids.iter()
            .any(|id| maps.contains(id))
            .then(|| (program.id(), ids))
    })
}

/// What files a process has open, and how many of each: sockets and pipes by their kind alone.
///
/// # Errors
/// When there is no such process.
pub fn open_files(process: u32) -> Result<BTreeMap<String, usize>> {
    let directory = format!("/proc/{process}/fd");
    let files = fs::read_dir(&directory).with_context(|| format!("list {directory}"))?;
    let mut open = BTreeMap::new();
    for file in files {
        // What was closed since it was listed is not open.
        let Ok(target) = fs::read_link(file?.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        let kind = target.split(":[").next().unwrap_or(&target);
        *open.entry(kind.to_owned()).or_default() += 1;
    }
    Ok(open)
}
