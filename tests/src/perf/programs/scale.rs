//! How costs grow: look-ups with Services and flows, memory with both.

use std::{fs, os::fd::AsRawFd as _, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use lb_common::{
    maglev,
    maps::{self, MapSpec},
};

use super::{
    UNIT, cell::Rig, connections::Known, driver::FLOWS_MAX, grouped, others, walk::Walk, world,
};
use crate::{
    perf::{
        Common,
        plot::{Axes, Line, lines},
        progress::Progress,
        report::Row,
    },
    programs::{Bench, Family, Program, create_map},
};

/// How far.
#[derive(Args, Debug)]
pub(in crate::perf) struct Options {
    /// Services at most.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    services: u32,

    /// Flows at most; a power of two.
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    flows: u32,
}

/// Flows of the look-ups that Services are counted for.
const FLOWS: u32 = 1 << 16;

/// Endpoints of each Service whose memory is counted.
const ENDPOINTS: u32 = 10;

/// Measures, and draws what came out.
pub(in crate::perf) fn measure(options: &Options, common: &Common) -> Result<Vec<Row>> {
    let services = if common.quick {
        options.services.min(super::USUAL)
    } else {
        options.services
    };
    let flows = (options.flows as usize).next_power_of_two().min(FLOWS_MAX) as u32;
    let flows = if common.quick {
        flows.min(1 << 18)
    } else {
        flows
    };
    // One more, that others may be there.
    let specs = world::specs(services, flows + 64);
    let (netns, bench) = Bench::set_up("scale", world::config(), specs)?;
    let (services, flows) = (powers(1, 10, services), powers(1 << 10, 4, flows));
    let progress = Progress::new("scale", services.len() + flows.len());
    let patience = Duration::from_secs(1);
    let mut found = netns.run(|| {
        let mut rig = Rig::new(bench, 7, patience, None)?;
        let mut found = Found::default();
        by_services(&mut rig, &services, &mut found, &progress)?;
        by_flows(&mut rig, &flows, &mut found, &progress)?;
        rig.complain();
        Ok::<_, anyhow::Error>(found)
    })??;
    memory(&services, &flows, &mut found)?;
    found.draw(common)?;
    Ok(found.rows)
}

/// 1, 10, 100 … for a base of 10, and what they lead to.
fn powers(first: u32, base: u32, last: u32) -> Vec<u32> {
    let all = std::iter::successors(Some(first), |power| power.checked_mul(base));
    let mut all: Vec<_> = all.take_while(|power| *power < last).collect();
    all.push(last);
    all
}

/// Rows, and the lines that they are points of.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    services: Vec<Line>,
    flows: Vec<Line>,
    memory: Vec<Line>,
}

impl Found {
    fn draw(&self, common: &Common) -> Result<()> {
        let plot =
            |name: &str, axes: &Axes<'_>, all: &[Line]| lines(&common.out.join(name), axes, all);
        fs::create_dir_all(&common.out).context("make the directory for plots")?;
        plot(
            "scale-services.svg",
            &Axes {
                title: "Cost of a packet by the number of Services (IPv4)",
                x: "Services",
                y: "ns/packet",
            },
            &self.services,
        )?;
        plot(
            "scale-flows.svg",
            &Axes {
                title: "Cost of an established connection's packet by the number of connections (XDP, IPv4)",
                x: "connections, visited in random order",
                y: "ns/packet",
            },
            &self.flows,
        )?;
        plot(
            "scale-memory.svg",
            &Axes {
                title: "Memory of the maps by what they have room for",
                x: "connections, or Services with 10 endpoints",
                y: "MiB",
            },
            &self.memory,
        )
    }
}

/// One more point of a line.
fn point(lines: &mut Vec<Line>, name: &str, at: u32, value: f64) {
    let at = (f64::from(at), value);
    match lines.iter_mut().find(|line| line.name == name) {
        Some(line) => line.points.push(at),
        None => lines.push(Line {
            name: name.to_owned(),
            points: vec![at],
        }),
    }
}

fn by_services(
    rig: &mut Rig,
    counts: &[u32],
    found: &mut Found,
    progress: &Progress,
) -> Result<()> {
    for &count in counts {
        progress.at(format!("{count} Services"));
        rig.bench.serve_model(&world::services(count));
        let unserved = others::unserved(Family::V4, Program::Xdp);
        let mut costs = vec![("not a Service", rig.cost(&unserved.cell())?)];
        rig.forget()?;
        let mut known = Known::new(Walk::XDP_SNAT, Family::V4);
        let name = "one Service in use, one connection";
        known.grow(rig, super::Size::HOT.flows)?;
        costs.push((name, known.forward(rig)?));
        rig.forget()?;
        if count > 1 {
            let mut known = Known::new(Walk::to_others(count - 1), Family::V4);
            known.grow(rig, FLOWS)?;
            costs.push(("all Services in use, 64k connections", known.forward(rig)?));
            rig.forget()?;
        }
        for (name, samples) in costs {
            point(&mut found.services, name, count, samples.median());
            let services = grouped(count);
            let row = Row::of(
                format!("scale: {name}, {services} Services"),
                &samples,
                UNIT,
            );
            found.rows.push(row);
        }
        progress.step();
    }
    Ok(())
}

fn by_flows(rig: &mut Rig, counts: &[u32], found: &mut Found, progress: &Progress) -> Result<()> {
    let walks = [Walk::XDP_DNAT, Walk::XDP_SNAT];
    rig.bench.serve_model(&world::services(1));
    for walk in walks {
        rig.forget()?;
        let mut known = Known::new(walk, Family::V4);
        for &count in counts {
            progress.at(format!("{count} connections"));
            known.grow(rig, count)?;
            let mut costs = vec![(walk.nat.to_owned(), known.forward(rig)?)];
            if walk.is_snat() {
                costs.push(("reply to SNAT".to_owned(), known.reply(rig)?));
            }
            for (name, samples) in costs {
                point(&mut found.flows, &name, count, samples.median());
                let name = format!("scale: {name}, {} connections", grouped(count));
                found.rows.push(Row::of(name, &samples, UNIT));
            }
        }
    }
    rig.forget()?;
    counts.iter().for_each(|_| progress.step());
    Ok(())
}

/// What the kernel says that maps take.
fn memory(services: &[u32], flows: &[u32], found: &mut Found) -> Result<()> {
    /// As a line of its own.
    const FLOWS: &str = "connections";
    for &count in flows {
        let bytes = bytes_of_connections(count)?;
        point(&mut found.memory, FLOWS, count, mebibytes(bytes));
        let name = format!("scale: memory of {} connections", grouped(count));
        found.rows.push(Row::new(name, mebibytes(bytes), "MiB"));
    }
    for &count in services {
        let table = 1 + (1 << maglev::bits_for(ENDPOINTS as usize));
        let bytes = bytes_of(maps::FRONTENDS, count)?
            + bytes_of(maps::FRONTEND_INDEX, maps::index_buckets(count))?
            + bytes_of(maps::FRONTEND_COPIES, maps::index_copies(count))?
            + bytes_of(maps::VIPS, count)?
            + bytes_of(maps::BACKENDS, count * ENDPOINTS)?
            + bytes_of(maps::SLOTS, count * table)?;
        let name = "Services with 10 endpoints";
        point(&mut found.memory, name, count, mebibytes(bytes));
        let name = format!("scale: memory of {} {name}", grouped(count));
        found.rows.push(Row::new(name, mebibytes(bytes), "MiB"));
    }
    let usual = maps::FLOWS_MAX as u32;
    let each = bytes_of_connections(usual)? as f64 / f64::from(usual);
    for family in ["IPv4", "IPv6"] {
        // Both have the same records.
        let name = format!("memory per connection, {family}");
        found.rows.push(Row::new(name, each, "bytes"));
    }
    Ok(())
}

/// Bytes of the maps that have something of each connection which goes on, with room for so many.
fn bytes_of_connections(count: u32) -> Result<u64> {
    Ok(bytes_of(maps::FLOWS, count)? + bytes_of(maps::ESTABLISHED, maps::mark_buckets(count))?)
}

/// Bytes of a map with room for so many elements.
fn bytes_of(name: &str, elements: u32) -> Result<u64> {
    let spec = maps::SPECS.iter().find(|spec| spec.name == name);
    let spec = MapSpec {
        max_entries: elements,
        ..*spec.with_context(|| format!("no {name}"))?
    };
    let map = create_map(&spec).with_context(|| format!("make a {name}"))?;
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = bytes.with_context(|| format!("{path} tells of no memory"))?;
    bytes.trim().parse().context("read a number of bytes")
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_end_with_the_last_one_whatever_it_is() {
        assert_eq!(powers(1, 10, 1000), [1, 10, 100, 1000]);
        assert_eq!(powers(1, 10, 250), [1, 10, 100, 250]);
        assert_eq!(powers(1, 10, 1), [1]);
    }
}
