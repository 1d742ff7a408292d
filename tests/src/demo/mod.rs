//! The main job, as a person would like to see it.
//!
//! A lab of three nodes with a real agent on each, the Service `alpaca-prod` with three pods,
//! requests to it from everywhere, and the replacement of a pod under continuous requests. The
//! agents read manifests, or follow an API server that people can talk to, too. The last line of
//! standard output says in JSON how it went.

mod api;
mod frontends;
mod interrupt;
mod keep;
mod kubelet;
mod requests;
mod rollout;
mod scene;
mod service;
mod show;
mod source;
mod stay;
mod tally;
mod traffic;

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::Serialize;

use self::scene::Scene;
use self::show::Show;
use self::source::Source;
use self::tally::Tally;
use crate::lab;

/// Shows the main job: a Service's packets reach its pods, and the replies come back.
#[derive(Clone, Copy, Debug, Parser)]
#[command(name = "demo")]
pub struct Options {
    /// Leave the lab and its agents up, and say how to enter it.
    #[arg(long)]
    keep: bool,

    /// Remove the labs that earlier demos have left up, and do nothing else.
    #[arg(long, conflicts_with = "keep")]
    remove: bool,

    /// Let the agents follow an API server (a stand-in, for kubectl as well) instead of manifests.
    #[arg(long, conflicts_with = "remove")]
    kubernetes: bool,

    /// Be the process that stays with a kept lab's API server.
    #[arg(long, hide = true, requires = "keep", requires = "kubernetes")]
    stay: bool,
}

/// The last line.
#[derive(Debug, Serialize)]
struct Summary {
    requests: u64,
    failed: u64,
    backends_seen: usize,
    seconds: f64,
}

/// Runs the demo. True if no request failed and every backend answered.
///
/// # Errors
/// When the lab cannot be made, or an agent does not do its work.
pub fn run(options: &Options) -> Result<bool> {
    if options.remove {
        lab::remove_kept()?;
        println!("removed all labs that had been kept");
        return Ok(true);
    }
    if options.kubernetes && options.keep && !options.stay {
        return stay::run_behind();
    }
    let started = Instant::now();
    let show = Show::new();
    show.heading("The lab: three nodes, their pods, and a client outside");
    let mut scene = Scene::build(options.kubernetes).context("build the lab")?;
    show.table(scene.places(&show));
    show.note(&format!(
        "built, and programmed by an lb-agent per node, in {:.1} s",
        started.elapsed().as_secs_f64()
    ));

    show.heading("The Service");
    show.table(scene.service_table(&show));
    if let Source::Kubernetes(api) = scene.source() {
        api.show(show);
    }

    let mut total = Tally::default();
    // Whatever goes wrong, the lab that was asked for can be looked at.
    let shown = story(&show, &mut scene, &mut total);
    if options.keep {
        print!("{}", keep::keep(&show, &scene)?);
    }
    let outcome = shown.and_then(|()| conclude(&scene, &total, started));
    if options.stay {
        scene.hand_over()?;
        return stay::stay(scene, outcome);
    }
    outcome
}

/// What happens in the lab.
fn story(show: &Show, scene: &mut Scene, total: &mut Tally) -> Result<()> {
    show.heading("Requests, each over a connection or a socket of its own");
    let tally = requests::run(show, scene)?;
    explain(show, scene, &tally);
    total.add(tally);

    show.heading("What the kernel has: the map FRONTENDS of node1");
    frontends::show(show, scene)?;

    show.heading("A pod is replaced while everybody goes on asking");
    let tally = rollout::run(show, scene)?;
    explain(show, scene, &tally);
    total.add(tally);
    Ok(())
}

/// Says which requests failed, and what the agents say to that.
fn explain(show: &Show, scene: &Scene, tally: &Tally) {
    for failure in &tally.failures {
        show.failure(failure);
    }
    if tally.failed == 0 {
        return;
    }
    for agent in scene.agents() {
        show.note(&format!("the end of {}:", agent.log().display()));
        println!("{}", agent.log_end());
    }
}

/// Prints the last line.
fn conclude(scene: &Scene, total: &Tally, started: Instant) -> Result<bool> {
    let silent: Vec<_> = scene
        .names()
        .iter()
        .filter(|name| !total.answered.contains_key(*name))
        .cloned()
        .collect();
    if !silent.is_empty() {
        println!("never answered: {}", silent.join(", "));
    }
    let summary = Summary {
        requests: total.requests,
        failed: total.failed,
        backends_seen: total.answered.len(),
        seconds: (started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
    };
    println!("\n{}", serde_json::to_string(&summary)?);
    Ok(total.failed == 0 && silent.is_empty())
}
