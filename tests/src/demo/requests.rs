//! Requests from everywhere, before anything changes.

use anyhow::Result;
use comfy_table::Cell;

use super::scene::Scene;
use super::show::Show;
use super::tally::{Tally, ms};
use super::traffic::{Path, ask, paths};
use crate::lab::Place as _;

/// How many requests over each path.
const REQUESTS: u64 = 30;

/// Sends requests over every path, and shows who answered.
pub(super) fn run(show: &Show, scene: &Scene) -> Result<Tally> {
    let mut total = Tally::default();
    let names = scene.names().iter().map(String::as_str);
    let names: Vec<&str> = names.collect();
    let header = [
        &["FROM", "TO", ""],
        names.as_slice(),
        &["FAILED", "MEDIAN MS", "SOURCE ADDRESSES THAT THEY SAW"],
    ]
    .concat();
    let mut table = show.new_table(&header);
    for path in paths(scene) {
        let tally = ask(&path, REQUESTS)?;
        table.add_row(row(show, scene, &path, &tally));
        total.add(tally);
    }
    show.table(table);
    Ok(total)
}

fn row(show: &Show, scene: &Scene, path: &Path<'_>, tally: &Tally) -> Vec<Cell> {
    let answered = scene.names().iter().map(|name| {
        let count = tally.answered.get(name).copied().unwrap_or(0);
        Cell::new(format!("×{count}"))
    });
    let sources = tally.sources.iter();
    let sources = sources.map(|(ip, count)| format!("{ip} {} ×{count}", scene.owner(*ip)));
    [
        Cell::new(path.from.name()),
        Cell::new(format!("{} {}", path.kind, path.to)),
        Cell::new(path.protocol.name()),
    ]
    .into_iter()
    .chain(answered)
    .chain([
        show.failed_cell(tally.failed),
        Cell::new(ms(tally.median_ms())),
        Cell::new(sources.collect::<Vec<_>>().join("\n")),
    ])
    .collect()
}
