//! The control plane: what an agent takes to learn a cluster, and to follow it.

mod changes;
mod scene;
mod writing;

use anyhow::{Result, ensure};
use clap::Args;

use self::changes::Changer;
use self::scene::Scene;
use super::{Common, objects, report::Row};

/// How large the cluster is.
#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Services: for each number it is measured anew.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "100,1000,10000"
    )]
    services: Vec<u32>,

    /// Endpoints of each Service.
    #[arg(long, value_name = "N", default_value_t = 10)]
    endpoints: u32,

    /// Seconds that the agent may take to learn it.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    deadline: u64,
}

/// A cluster of one size.
#[derive(Clone, Copy, Debug)]
struct Size {
    services: u32,
    endpoints: u32,
    deadline_s: u64,
    is_quick: bool,
}

impl Size {
    /// As the goals spell it.
    fn name(self) -> String {
        format!("{} × {}", grouped(self.services), self.endpoints)
    }
}

/// Measures each size, the largest last.
pub(super) fn measure(options: &Options, common: &Common) -> Result<Vec<Row>> {
    let mut all = options.services.clone();
    all.sort_unstable();
    if common.quick {
        // The goals are about the largest one that is usual.
        all.drain(..all.len().saturating_sub(1));
    }
    let mut rows = Vec::new();
    for services in all {
        let size = Size {
            services,
            endpoints: options.endpoints,
            deadline_s: options.deadline,
            is_quick: common.quick,
        };
        let pods = services.saturating_mul(size.endpoints);
        ensure!(
            services > 0 && services.max(pods) < objects::MOST,
            "there have to be a Service, and less than {} Services and endpoints",
            objects::MOST
        );
        rows.extend(measure_size(size)?);
    }
    Ok(rows)
}

fn measure_size(size: Size) -> Result<Vec<Row>> {
    let scene = Scene::build(size)?;
    let (agent, mut rows) = scene.first_sync()?;
    // Without endpoints there is nothing to change.
    if size.endpoints > 0 {
        let mut changer = Changer::new(&scene, &agent)?;
        rows.extend(changes::one_by_one(&mut changer)?);
        rows.extend(changes::sustained(&mut changer, &agent)?);
    }
    drop(agent);
    rows.extend(writing::measure(&scene)?);
    Ok(rows)
}

/// A number with a comma before every three digits.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_spelled_as_in_the_goals() {
        let name = |services| {
            let size = Size {
                services,
                endpoints: 10,
                deadline_s: 1,
                is_quick: true,
            };
            size.name()
        };
        assert_eq!(name(7), "7 × 10");
        assert_eq!(name(1000), "1,000 × 10");
        assert_eq!(name(100_000), "100,000 × 10");
    }
}
