//! Nodes with a client and a server each, which translate in their own way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_common::counter::{Hook, Outcome};

use super::{Contender, From, Question};
use crate::lab::{Agent, Attendant, Cluster, Cni, Load, Place, Pod, Site, forget_connections};
use crate::perf::agents::{ApiServers, remove_rules};
use crate::perf::rules::Dialect;
use crate::perf::services::{Family, NODE_PORT, Services};
use crate::tool::{AttendOptions, CrowdOptions, Crowded, Protocol};

/// Backends of the Service in use: as many ports of one pod.
const BACKENDS: u16 = 10;
/// How long a crowd goes on before it counts.
const WARM_UP: Duration = Duration::from_millis(50);
/// How many ask at once.
const AT_ONCE: usize = 64;

/// A node's client and server.
struct Pods {
    client: Pod,
    server: Pod,
    _attendant: Attendant,
}

/// All contenders, side by side.
pub(super) struct Stage {
    // Fields drop in this order.
    agents: BTreeMap<Contender, Agent>,
    servers: ApiServers,
    pods: Vec<Pods>,
    contenders: Vec<Contender>,
    cluster: Cluster,
}

impl Stage {
    /// Makes a node for each contender. Calls `progress` with what comes next.
    pub(super) fn build(contenders: &[Contender], progress: impl Fn(&str)) -> Result<Self> {
        progress("nodes");
        let cluster = Cluster::builder()
            .nodes(contenders.len())
            .cni(Cni::Ptp)
            .build()
            .context("build the lab")?;
        let pods = (0..contenders.len()).map(|index| pods(&cluster, index));
        let mut stage = Self {
            agents: BTreeMap::new(),
            servers: ApiServers::default(),
            pods: pods.collect::<Result<_>>()?,
            contenders: contenders.to_vec(),
            cluster,
        };
        prepare(stage.cluster.client())?;
        for (index, contender) in contenders.iter().enumerate() {
            progress(&contender.name());
            stage
                .set_up(index, *contender)
                .with_context(|| contender.name())?;
        }
        Ok(stage)
    }

    fn set_up(&mut self, index: usize, contender: Contender) -> Result<()> {
        let node = self.cluster.node(index);
        remove_rules(node)?;
        let services = self.services(index, contender.services());
        let (dialect, sockets) = match contender {
            Contender::Direct => return Ok(()),
            Contender::Iptables(_) => (Some(Dialect::Iptables), ""),
            Contender::Nftables(_) => (Some(Dialect::Nftables), ""),
            Contender::PerPacket => (None, "off"),
            Contender::Sockets => (None, "all"),
        };
        if let Some(dialect) = dialect {
            return dialect.write(node, &services, Family::V4).map(drop);
        }
        let flags = ["--socket-lb", sockets];
        let agent = self.servers.start_agent(node, &services, &flags)?;
        self.agents.insert(contender, agent);
        Ok(())
    }

    /// The Services that a node serves: its own pod is behind the one in use.
    fn services(&self, index: usize, count: u32) -> Services {
        let server = &self.pods[index].server;
        let backends = Load::ports().take(BACKENDS.into());
        let backends =
            backends.flat_map(|port| server.addresses().map(|addr| SocketAddr::new(addr, port)));
        Services {
            count,
            protocol: Protocol::Tcp,
            backends: backends.collect(),
            node: self.cluster.node(index).name().to_owned(),
        }
    }

    /// Lets a crowd ask through a contender.
    pub(super) fn ask(
        &self,
        contender: Contender,
        question: Question,
        window: Duration,
    ) -> Result<Crowded> {
        let index = self.contenders.iter().position(|other| *other == contender);
        let index = index.context("no such contender")?;
        let (node, pods) = (self.cluster.node(index), &self.pods[index]);
        let services = self.services(index, contender.services());
        let from: &Site = match question.from {
            From::Pod => pods.client.site(),
            From::Outside => self.cluster.client().site(),
        };
        let (to, ports) = match (contender, question.from) {
            (Contender::Direct, _) => (services.backends[0], BACKENDS),
            (_, From::Pod) => (services.used(Family::V4).0, 1),
            (_, From::Outside) => ((node.ipv4(), NODE_PORT).into(), 1),
        };
        forget_connections(node.netns())?;
        let options = CrowdOptions {
            to,
            ports,
            at_once: AT_ONCE,
            keep: question.keep,
            warm_up: WARM_UP,
            window,
        };
        let before = self.translated(contender, question)?;
        let crowded = from.crowd(&options)?;
        let translated = self.translated(contender, question)? - before;
        // Each asks at least once.
        ensure!(
            !self.agents.contains_key(&contender) || translated >= AT_ONCE as u64,
            "{}: {translated} connections were translated where they ought to be",
            contender.name()
        );
        Ok(crowded)
    }

    /// How many packets, or sockets, an agent's programs have translated where they should.
    fn translated(&self, contender: Contender, question: Question) -> Result<u64> {
        let Some(agent) = self.agents.get(&contender) else {
            return Ok(0);
        };
        let hook = match (question.from, contender) {
            (From::Outside, _) => Hook::Xdp,
            (From::Pod, Contender::Sockets) => Hook::Socket,
            (From::Pod, _) => Hook::PodIngress,
        };
        let outcomes = [Outcome::NewFlow, Outcome::ToStack, Outcome::Redirected];
        let counts = outcomes.map(|outcome| agent.counter(hook, outcome));
        counts.into_iter().sum()
    }
}

/// The pods of a node.
fn pods(cluster: &Cluster, index: usize) -> Result<Pods> {
    let client = cluster.pod(&format!("client-{index}"), index)?;
    let server = cluster.pod(&format!("server-{index}"), index)?;
    prepare(&client)?;
    prepare(&server)?;
    let port = Load::ports().next().context("no port")?;
    let attendant = server.attend(AttendOptions {
        port,
        ports: BACKENDS,
    })?;
    Ok(Pods {
        client,
        server,
        _attendant: attendant,
    })
}

/// A client that makes thousands of connections a second soon has no port left; those that are
/// over may be taken again. Both ends send when they can, whatever this machine prefers.
fn prepare(end: &impl Place) -> Result<()> {
    end.netns().sysctl(&[
        ("ipv4/tcp_congestion_control", "reno"),
        ("ipv4/ip_local_port_range", "1024 65535"),
        ("ipv4/tcp_tw_reuse", "1"),
    ])
}
