//! Runs the kernel programs against the [model](crate::model) on random packets
//! (`BPF_PROG_TEST_RUN`).
//!
//! An [`Episode`] is a handful of random Services and a few hundred steps: packets of plausible
//! conversations with them, garbage, and changes of what is served. After each packet the programs
//! and the model must agree on the verdict and on every byte; after the episode on everything that
//! is remembered and counted. An episode on which they disagree is made as small as it goes, and
//! can be committed as a regression.

mod compare;
mod constancy;
mod conversation;
mod episode;
mod garbage;
mod maps;
mod packets;
mod rig;
mod services;
mod shapes;
mod shrink;
mod statistics;
mod tables;
mod talk;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;

use self::talk::Talk;
pub use self::{
    episode::{Constants, Episode, Step},
    rig::{Disagreement, Distortion, Rig},
    services::{Served, ServedPod, ServedPort},
    statistics::Statistics,
};

/// What is run.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// Packets, at least.
    #[arg(long, default_value_t = 1_000_000)]
    pub packets: u64,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A disagreement, and the smallest episode that shows it.
#[derive(Debug)]
pub struct Found {
    /// What they disagree about.
    pub disagreement: Disagreement,
    /// What leads there.
    pub episode: Episode,
    /// Seed of the episode that it was found in.
    pub seed: u64,
}

/// Steps of an episode.
const STEPS: usize = 400;

/// Runs as many episodes as it takes for `options.packets`. What programs and model disagree
/// about, if anything.
pub fn fuzz(rig: &mut Rig, options: &Options) -> Option<Found> {
    let (mut said, started) = (Instant::now(), Instant::now());
    let mut seeds = fastrand::Rng::with_seed(options.seed);
    while rig.statistics.packets < options.packets {
        let seed = seeds.u64(..);
        if let Some((episode, disagreement)) = play(rig, seed) {
            let (episode, disagreement) = shrink::shrink(rig, episode, disagreement);
            let found = Found {
                disagreement,
                episode,
                seed,
            };
            return Some(found);
        }
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            eprintln!("{}", rig.statistics.progress(options, started.elapsed()));
        }
    }
    eprintln!("{}", rig.statistics.progress(options, started.elapsed()));
    None
}

/// Makes up an episode while it runs: what answers a packet depends on what became of it.
fn play(rig: &mut Rig, seed: u64) -> Option<(Episode, Disagreement)> {
    let mut talk = Talk::new(seed);
    let mut episode = talk.episode(rig.constants);
    let outcome = rig.begin(&episode).and_then(|()| {
        for _ in 0..STEPS {
            let step = talk.next();
            episode.steps.push(step.clone());
            let met = rig.step(&step)?;
            talk.learn(&step, met);
        }
        rig.end()
    });
    let disagreement = outcome.err()?;
    Some((episode, disagreement))
}

/// Plays an episode again.
///
/// # Errors
///
/// What programs and model disagree about.
pub fn replay(rig: &mut Rig, episode: &Episode) -> Result<(), Disagreement> {
    rig.begin(episode)?;
    for step in &episode.steps {
        rig.step(step)?;
    }
    rig.end()
}

/// Runs, and tells of it, for `lab-fuzz`. Says whether they agreed.
///
/// # Errors
///
/// If there can be no bench, or a case cannot be written.
pub fn main(options: &Options) -> Result<bool> {
    println!("fuzz: {} packets, seed {}", options.packets, options.seed);
    for (constants, packets) in share(options.packets) {
        let options = Options {
            packets,
            ..options.clone()
        };
        let started = Instant::now();
        let (summary, found) = Rig::with(constants, |rig| {
            let found = fuzz(rig, &options);
            (rig.statistics.summary(started.elapsed()), found)
        })?;
        println!("{summary}");
        if let Some(found) = found {
            return tell(&found).map(|()| false);
        }
    }
    Ok(true)
}

/// How many packets for which constants.
#[must_use]
pub fn share(packets: u64) -> [(Constants, u64); 2] {
    let others = packets / 5;
    [
        (Constants::Usual, packets - others),
        (Constants::Other, others),
    ]
}

fn tell(found: &Found) -> Result<()> {
    let path = format!("tests/regressions/seed-{}.json", found.seed);
    std::fs::write(&path, found.episode.to_json()?).with_context(|| format!("write {path}"))?;
    println!("{}\n{}", found.episode, found.disagreement);
    println!("The case is in {path}: give it a name, and commit it with what mends it.");
    Ok(())
}
