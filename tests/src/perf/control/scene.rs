//! A cluster of some size, and an agent that learns it.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_agent::agent::Capacities;
use lb_agent::dataplane::bpf;
use lb_common::maglev;

use super::Size;
use crate::apiserver::ApiServer;
use crate::apiserver::store::Kind;
use crate::lab::{Agent, Cluster, Node, Place as _};
use crate::perf::memory::Memory;
use crate::perf::objects;
use crate::perf::report::Row;

/// How often it is looked whether all is there, at most.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looking is to take no more than this part of the time: the agent needs it.
const SHARE: u32 = 5;

/// A node whose API server has everything already.
pub(super) struct Scene {
    pub(super) size: Size,
    pub(super) server: ApiServer,
    cluster: Cluster,
}

impl Scene {
    pub(super) fn build(size: Size) -> Result<Self> {
        let cluster = Cluster::builder()
            .nodes(1)
            .build()
            .context("build the lab")?;
        let server = serve(cluster.node(0), size)?;
        Ok(Self {
            size,
            server,
            cluster,
        })
    }

    pub(super) fn node(&self) -> &Node {
        self.cluster.node(0)
    }

    /// Starts an agent, and waits until all Services are in the maps.
    pub(super) fn first_sync(&self) -> Result<(Agent, Vec<Row>)> {
        let kubeconfig = self.server.kubeconfig_path();
        let mut flags = vec!["--socket-lb", "off", "--kubeconfig"];
        flags.push(kubeconfig.to_str().context("a path that is not UTF-8")?);
        let capacities = capacities(self.size);
        let enlarged = enlarged(&capacities);
        flags.extend(enlarged.iter().map(String::as_str));

        let started = Instant::now();
        let agent = Agent::start_with_log(self.node(), &flags, "info")?;
        let took = self.wait(&agent, started)?;
        let peak = Memory::of(agent.id())?.peak;
        let arena = u64::from(capacities.slots) * size_of::<lb_common::Slot>() as u64;
        let name = |what| {
            let size = self.size.name();
            format!("first sync of {size} from the API stand-in: {what}")
        };
        let rows = vec![
            Row::new(name("time"), took.as_secs_f64(), "s"),
            // The tables are the kernel's, wherever they are mapped.
            Row::new(name("memory"), mebibytes(peak.saturating_sub(arena)), "MiB"),
            Row::new(name("tables mapped besides"), mebibytes(arena), "MiB"),
        ];
        Ok((agent, rows))
    }

    fn wait(&self, agent: &Agent, started: Instant) -> Result<Duration> {
        let deadline = started + Duration::from_secs(self.size.deadline_s);
        loop {
            let now = Instant::now();
            Memory::of(agent.id())
                .with_context(|| format!("lb-agent ended:\n{}", agent.log_end()))?;
            let there = served(agent, self.size);
            if there == self.size.services {
                return Ok(now - started);
            }
            ensure!(
                now < deadline,
                "{there} of {} Services after {} s:\n{}",
                self.size.services,
                self.size.deadline_s,
                agent.log_end()
            );
            thread::sleep(INTERVAL.max(now.elapsed() * (SHARE - 1)));
        }
    }
}

/// An API server on the node that has all objects.
fn serve(node: &Node, size: Size) -> Result<ApiServer> {
    let listener = node
        .netns()
        .run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let server = ApiServer::builder()
        .bare()
        .without_slices()
        .listener(listener.context("listen on the node")?)
        .start()?;
    server.write(|store| {
        for number in 0..size.services {
            store.inject(Kind::Service, objects::service(number));
            store.inject(Kind::EndpointSlice, objects::slice(number, size.endpoints));
        }
    });
    Ok(server)
}

/// Changes for which there is room at once: as many as are made in a second, at most.
const CHANGES_PER_SECOND: u32 = 1000;

/// Capacities of maps that everything fits into: the usual ones where they are enough.
pub(super) fn capacities(size: Size) -> Capacities {
    let usual = Capacities::default();
    let table = 1 + (1_u32 << maglev::bits_for(size.endpoints as usize));
    // A map that is full to the last element may refuse one for a moment.
    let room = |needed: u32, usual: u32| {
        if needed > usual {
            needed + needed / 16
        } else {
            usual
        }
    };
    Capacities {
        frontends: room(size.services, usual.frontends),
        backends: room(size.services * size.endpoints + 1, usual.backends),
        // A new table is written beside the old one, whose place stays taken for a second.
        slots: room(
            1 + (size.services + CHANGES_PER_SECOND) * table,
            usual.slots,
        ),
        ..usual
    }
}

/// The flags for those that are not as usual.
fn enlarged(capacities: &Capacities) -> Vec<String> {
    let usual = Capacities::default();
    let flags = [
        ("--frontends-max", capacities.frontends, usual.frontends),
        ("--backends-max", capacities.backends, usual.backends),
        ("--slots-max", capacities.slots, usual.slots),
    ];
    let flags = flags
        .into_iter()
        .filter(|(_, needed, usual)| needed > usual);
    flags
        .flat_map(|(flag, needed, _)| [flag.to_owned(), needed.to_string()])
        .collect()
}

/// How many Services are in the maps, with a table if they have endpoints.
fn served(agent: &Agent, size: Size) -> u32 {
    // Until the maps are there, nothing is.
    let frontends = bpf::pinned_frontends(agent.pin_dir()).unwrap_or_default();
    let is_served = |number: &u32| {
        let frontend = frontends.get(&objects::frontend(*number));
        frontend.is_some_and(|frontend| !frontend.inside.is_empty() || size.endpoints == 0)
    };
    (0..size.services)
        .filter(is_served)
        .fold(0, |count, _| count + 1)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_enlarged_only_for_what_does_not_fit() {
        let flags = |services| {
            let size = Size {
                services,
                endpoints: 10,
                deadline_s: 20,
                is_quick: true,
            };
            enlarged(&capacities(size))
        };
        assert_eq!(flags(1000), Vec::<String>::new());
        let some = flags(10_000);
        assert_eq!(some.first().map(String::as_str), Some("--slots-max"));
        assert!(some[1].parse::<u64>().unwrap() > 10_000 * 2049);
        assert_eq!(flags(100_000).len(), 6);
    }
}
