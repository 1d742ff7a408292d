//! The first synchronisation of an agent that knows nothing yet.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use lb_agent::dataplane::bpf;
use lb_common::{maglev, maps};
use serde::Serialize;

use super::memory::Memory;
use super::objects;
use crate::apiserver::ApiServer;
use crate::apiserver::store::Kind;
use crate::lab::{Agent, Cluster, Node, Place as _};

/// How often it is looked whether all is there, at most.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looking is to take no more than this part of the time: the agent needs it.
const SHARE: u32 = 5;

/// How large the cluster is.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Services.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    services: u32,

    /// Endpoints of each Service.
    #[arg(long, value_name = "N", default_value_t = 10)]
    endpoints: u32,

    /// Seconds that the agent may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    deadline: u64,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Measurement {
    measured: &'static str,
    services: u32,
    endpoints: u32,
    /// From the start of the agent's process until all Services were in the maps.
    first_sync_s: f64,
    /// The most memory that the agent's process had, the look-up tables that it maps included.
    peak_rss_mib: f64,
    /// The most of its own.
    peak_own_mib: f64,
}

impl Measurement {
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.force_no_tty();
        table.set_header([
            "Services",
            "endpoints",
            "first sync",
            "peak memory",
            "of its own",
        ]);
        table.add_row([
            self.services.to_string(),
            (u64::from(self.services) * u64::from(self.endpoints)).to_string(),
            format!("{:.2} s", self.first_sync_s),
            format!("{:.1} MiB", self.peak_rss_mib),
            format!("{:.1} MiB", self.peak_own_mib),
        ]);
        table
    }
}

/// Starts an agent on a node whose API server has everything already, and waits for the maps.
pub(super) fn measure(options: &Options) -> Result<Measurement> {
    let pods = options.services.saturating_mul(options.endpoints);
    ensure!(
        options.services > 0 && options.services.max(pods) < objects::MOST,
        "there have to be a Service, and less than {} Services and endpoints",
        objects::MOST
    );
    let cluster = Cluster::builder()
        .nodes(1)
        .build()
        .context("build the lab")?;
    let node = cluster.node(0);
    let server = serve(node, options)?;
    let kubeconfig = server.kubeconfig_path();
    let mut flags = vec!["--socket-lb", "off", "--kubeconfig"];
    flags.push(kubeconfig.to_str().context("a path that is not UTF-8")?);
    let capacities = capacities(options);
    flags.extend(capacities.iter().map(String::as_str));

    let started = Instant::now();
    let agent = Agent::start_with_log(node, &flags, "info")?;
    let (took, own) = watch(&agent, options, started)?;
    let peak = Memory::of(agent.id())?.peak;
    Ok(Measurement {
        measured: "control",
        services: options.services,
        endpoints: options.endpoints,
        first_sync_s: round(took.as_secs_f64(), 1e3),
        peak_rss_mib: mebibytes(peak),
        peak_own_mib: mebibytes(own),
    })
}

/// An API server on the node that has all objects.
fn serve(node: &Node, options: &Options) -> Result<ApiServer> {
    let listener = node
        .netns()
        .run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let server = ApiServer::builder()
        .bare()
        .without_slices()
        .listener(listener.context("listen on the node")?)
        .start()?;
    server.write(|store| {
        for number in 0..options.services {
            store.inject(Kind::Service, objects::service(number));
            store.inject(
                Kind::EndpointSlice,
                objects::slice(number, options.endpoints),
            );
        }
    });
    Ok(server)
}

/// Flags for maps that everything fits into, where the usual ones are too small.
fn capacities(options: &Options) -> Vec<String> {
    let (services, endpoints) = (u64::from(options.services), u64::from(options.endpoints));
    let table = 1 + (1 << maglev::bits_for(options.endpoints as usize));
    let needed = [
        ("--frontends-max", services, maps::FRONTENDS_MAX),
        (
            "--backends-max",
            services * endpoints + 1,
            maps::BACKENDS_MAX,
        ),
        ("--slots-max", 1 + services * table, maps::SLOTS_MAX),
    ];
    let needed = needed
        .into_iter()
        .filter(|&(_, needed, usual)| needed > usual as u64);
    needed
        // A map that is full to the last element may refuse one for a moment.
        .flat_map(|(flag, needed, _)| [flag.to_owned(), (needed + needed / 16).to_string()])
        .collect()
}

/// Waits until all Services are in the maps: how long it took, and the most memory of its own that
/// the agent had meanwhile.
fn watch(agent: &Agent, options: &Options, started: Instant) -> Result<(Duration, u64)> {
    let deadline = started + Duration::from_secs(options.deadline);
    let mut own = 0;
    loop {
        let now = Instant::now();
        let memory = Memory::of(agent.id())
            .with_context(|| format!("lb-agent ended:\n{}", agent.log_end()))?;
        own = own.max(memory.own);
        let there = served(agent, options);
        if there == options.services {
            return Ok((now - started, own));
        }
        ensure!(
            now < deadline,
            "{there} of {} Services after {} s:\n{}",
            options.services,
            options.deadline,
            agent.log_end()
        );
        thread::sleep(INTERVAL.max(now.elapsed() * (SHARE - 1)));
    }
}

/// How many Services are in the maps, with a table if they have endpoints.
fn served(agent: &Agent, options: &Options) -> u32 {
    // Until the maps are there, nothing is.
    let frontends = bpf::pinned_frontends(agent.pin_dir()).unwrap_or_default();
    let is_served = |number: &u32| {
        let frontend = frontends.get(&objects::frontend(*number));
        frontend.is_some_and(|frontend| !frontend.inside.is_empty() || options.endpoints == 0)
    };
    (0..options.services)
        .filter(is_served)
        .fold(0, |count, _| count + 1)
}

fn mebibytes(bytes: u64) -> f64 {
    round(bytes as f64 / f64::from(1 << 20), 10.0)
}

/// Rounds to a part: 10.0 is one digit after the point.
fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(services: u32, endpoints: u32) -> Options {
        Options {
            services,
            endpoints,
            deadline: 20,
        }
    }

    #[test]
    fn maps_are_enlarged_only_for_what_does_not_fit() {
        assert_eq!(capacities(&options(1000, 10)), Vec::<String>::new());
        let flags = capacities(&options(10_000, 10));
        assert_eq!(flags.len(), 2, "{flags:?}");
        assert_eq!(flags[0], "--slots-max");
        assert!(flags[1].parse::<u64>().unwrap() > 10_000 * 2049);
        assert_eq!(capacities(&options(100_000, 10)).len(), 6);
    }

    #[test]
    fn line_says_what_was_measured() {
        let measurement = Measurement {
            measured: "control",
            services: 10_000,
            endpoints: 10,
            first_sync_s: 1.5,
            peak_rss_mib: mebibytes(3 << 19),
            peak_own_mib: 1.0,
        };
        let line = serde_json::to_string(&measurement).unwrap();
        assert_eq!(
            line,
            r#"{"measured":"control","services":10000,"endpoints":10,"first_sync_s":1.5,"peak_rss_mib":1.5,"peak_own_mib":1.0}"#
        );
        assert!(measurement.table().to_string().contains("100000"));
    }
}
