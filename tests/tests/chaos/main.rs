//! The agent's source and reconciler against an API server where much goes wrong by chance.
//!
//! `LB_CHAOS_SEEDS` says how many seeds there are, `LB_CHAOS_SEED` runs a single one.

mod agent;
mod run;
mod tables;
mod truth;
mod world;

use std::env;

use futures::StreamExt as _;

/// Seeds that run at once: they mostly wait.
const AT_ONCE: usize = 64;
/// Seeds, unless somebody says otherwise.
const SEEDS: u64 = 1000;

fn seeds() -> Vec<u64> {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    match number("LB_CHAOS_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("LB_CHAOS_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_s63_whatever_goes_wrong_the_maps_end_as_the_cluster_is_and_nothing_is_missing() {
    let seeds = seeds();
    let count = seeds.len();
    let runs = futures::stream::iter(seeds)
        .map(|seed| async move { (seed, tokio::spawn(run::run(seed)).await) })
        .buffer_unordered(AT_ONCE);
    let failures = runs
        .filter_map(|(seed, ended)| async move {
            let problem = match ended {
                Ok(Ok(())) => return None,
                Ok(Err(problem)) => format!("{problem:#}"),
                Err(panic) => panic.to_string(),
            };
            println!(
                "seed {seed}: {problem}\nalone: LB_CHAOS_SEED={seed} cargo test -p lb-tests --test chaos"
            );
            Some(seed)
        })
        .collect::<Vec<_>>()
        .await;
    assert!(
        failures.is_empty(),
        "of {count} seeds, these failed: {failures:?}"
    );
}
