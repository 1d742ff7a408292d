//! Nodes that forward, each in its own way.
//!
//! A datagram comes in by a node's uplink, and leaves by it for a backend on another node: clients
//! outside of the cluster, traffic policy Cluster. So it is translated in full: destination and source.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_common::counter::{Hook, Outcome};

use super::Load;
use crate::lab::{self, Agent, Aim, Cluster, Flows, Node, Place as _, Sent, forget_connections};
use crate::perf::agents::{ApiServers, remove_rules};
use crate::perf::rules::Dialect;
use crate::perf::services::{Family, Services};
use crate::tool::Protocol;

/// Backends of the Service in use.
const BACKENDS: usize = 10;
/// Rules are written for so many Services, at most.
const MOST_RULES: u32 = 10_000;
/// Where the backends' node seems to be.
const GATEWAY_MAC: &str = "02:00:00:00:00:fe";

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Contender {
    /// The kernel, without translation and without netfilter.
    Plain,
    /// An XDP program that sends frames back as they came.
    Bare,
    /// Rules such as kube-proxy's, for so many Services.
    Iptables(u32),
    Nftables(u32),
    /// Ours, through XDP.
    Xdp(u32),
    /// Ours, with `--xdp off`.
    Tcx(u32),
}

impl Contender {
    /// How it is called in tables.
    pub(super) fn name(self) -> String {
        let services = |kind: &str, count: u32| {
            let plural = if count == 1 { "" } else { "s" };
            format!("{kind}, {count} Service{plural}")
        };
        match self {
            Self::Plain => "plain forwarding".to_owned(),
            Self::Bare => "bare redirect".to_owned(),
            Self::Iptables(count) => services("iptables", count),
            Self::Nftables(count) => services("nftables", count),
            Self::Xdp(count) => services("ours, XDP", count),
            Self::Tcx(count) => services("ours, tcx", count),
        }
    }

    /// All of them, with so many Services; for every day, those that there are goals for.
    pub(super) fn all(services: &[u32], quick: bool) -> Vec<Self> {
        let with = |kind: fn(u32) -> Self| services.iter().map(move |count| kind(*count));
        let all = [Self::Plain, Self::Bare]
            .into_iter()
            .chain(with(Self::Iptables))
            .chain(with(Self::Nftables))
            .chain(with(Self::Xdp))
            .chain(with(Self::Tcx));
        let is_wanted = |contender: &Self| match contender {
            // Nobody waits for such rules.
            Self::Iptables(count) | Self::Nftables(count) if *count > MOST_RULES => false,
            Self::Plain | Self::Bare | Self::Xdp(_) => true,
            Self::Iptables(count) => !quick || *count > 1,
            Self::Nftables(count) => !quick || *count == 1,
            Self::Tcx(count) => *count == 1 || !quick && *count <= MOST_RULES,
        };
        all.filter(is_wanted).collect()
    }

    /// Whether it is measured like this. iptables has rules of one family, and learns 65,536 flows
    /// among thousands of Services in half a minute.
    pub(super) fn takes_part(self, load: Load, quick: bool) -> bool {
        let is_v4 = load.family == Family::V4;
        match self {
            Self::Iptables(count) if count > 1000 => is_v4 && load.flows == Flows::New,
            Self::Iptables(_) => is_v4,
            Self::Xdp(1) => true,
            _ => is_v4 || !quick,
        }
    }

    /// Whether datagrams are for the Service, and not for a backend itself.
    fn translates(self) -> bool {
        !matches!(self, Self::Plain | Self::Bare)
    }

    /// The hook that translates, of ours.
    fn hook(self) -> Option<Hook> {
        match self {
            Self::Xdp(_) => Some(Hook::Xdp),
            Self::Tcx(_) => Some(Hook::WireIngress),
            _ => None,
        }
    }
}

/// All that forward, side by side.
pub(super) struct Stage {
    // Fields drop in this order.
    agents: BTreeMap<Contender, Agent>,
    servers: ApiServers,
    load: lab::Load,
    contenders: Vec<Contender>,
    backends: Vec<SocketAddr>,
    cluster: Cluster,
}

impl Stage {
    /// Makes a node for each contender. Calls `progress` with what comes next.
    pub(super) fn build(contenders: &[Contender], progress: impl Fn(&str)) -> Result<Self> {
        progress("nodes");
        let cluster = Cluster::builder()
            .nodes(contenders.len() + 1)
            .build()
            .context("build the lab")?;
        let [v4, v6] = cluster.node(contenders.len()).pod_gateway();
        let ports = lab::Load::ports().take(BACKENDS);
        let backends = ports.flat_map(|port| [(v4, port).into(), (v6, port).into()]);
        let mut stage = Self {
            agents: BTreeMap::new(),
            servers: ApiServers::default(),
            load: lab::Load::new()?,
            contenders: contenders.to_vec(),
            backends: backends.collect(),
            cluster,
        };
        for (index, contender) in contenders.iter().enumerate() {
            progress(&contender.name());
            stage
                .set_up(index, *contender)
                .with_context(|| contender.name())?;
        }
        Ok(stage)
    }

    /// Sends datagrams through a contender's node.
    pub(super) fn send(
        &mut self,
        contender: Contender,
        load: Load,
        window: Duration,
    ) -> Result<Sent> {
        let Load { family, flows } = load;
        let index = self.contenders.iter().position(|other| *other == contender);
        let node = self.cluster.node(index.context("no such contender")?);
        let to = if contender.translates() {
            self.services(1).used(family).1
        } else {
            let mut backends = self.backends.iter();
            *backends
                .find(|addr| addr.is_ipv4() == (family == Family::V4))
                .context("no backend")?
        };
        if flows == Flows::New {
            forget_connections(node.netns())?;
        }
        let before = self.translated(contender)?;
        let sent = self.load.send(Aim { node, to, flows }, window)?;
        // The warm-up has been translated, too, and the answers to it.
        let passed = sent.arrived + flows.warm_up();
        ensure!(
            contender.hook().is_none() || self.translated(contender)? - before >= passed,
            "{}: not all went through the hook",
            contender.name()
        );
        Ok(sent)
    }

    /// What an agent's programs have sent out at its hook.
    fn translated(&self, contender: Contender) -> Result<u64> {
        match (self.agents.get(&contender), contender.hook()) {
            (Some(agent), Some(hook)) => agent.counter(hook, Outcome::Redirected),
            _ => Ok(0),
        }
    }

    fn services(&self, count: u32) -> Services {
        let node = self.cluster.node(self.contenders.len()).name().to_owned();
        Services {
            count,
            protocol: Protocol::Udp,
            backends: self.backends.clone(),
            node,
        }
    }

    fn set_up(&mut self, index: usize, contender: Contender) -> Result<()> {
        let cluster = &self.cluster;
        let node = cluster.node(index);
        prepare(node, cluster.node(self.contenders.len()))?;
        self.load.sink_at(node)?;
        match contender {
            Contender::Plain => Ok(()),
            Contender::Bare => self.load.bounce_at(node),
            Contender::Iptables(count) => {
                let services = self.services(count);
                Dialect::Iptables
                    .write(node, &services, Family::V4)
                    .map(drop)
            }
            Contender::Nftables(count) => {
                let services = self.services(count);
                Family::ALL.into_iter().try_for_each(|family| {
                    Dialect::Nftables.write(node, &services, family).map(drop)
                })
            }
            Contender::Xdp(count) => self.start_agent(index, contender, count, &[]),
            Contender::Tcx(count) => self.start_agent(index, contender, count, &["--xdp", "off"]),
        }
    }

    fn start_agent(
        &mut self,
        index: usize,
        contender: Contender,
        count: u32,
        more: &[&str],
    ) -> Result<()> {
        let node = self.cluster.node(index);
        let number = node.number();
        // Thousands of new flows a millisecond need more source ports than the usual ones.
        let snat = format!(
            "192.168.77.{},fd00:77::{:x}",
            200 + number,
            200 + u16::from(number)
        );
        let flags = [&["--socket-lb", "off", "--snat-address", &snat], more].concat();
        let services = self.services(count);
        let agent = self.servers.start_agent(node, &services, &flags)?;
        self.agents.insert(contender, agent);
        Ok(())
    }
}

/// Lets a node forward to the backends' node at once, and nothing else be on the way.
fn prepare(node: &Node, far: &Node) -> Result<()> {
    let neighbours = far.addresses().map(|addr| {
        format!(
            "neigh replace {addr} lladdr {GATEWAY_MAC} dev {} nud permanent",
            node.uplink()
        )
    });
    node.netns().ip(&neighbours)?;
    let [v4, v6] = far.addresses();
    let routes = lab::Load::SOURCES.iter().zip([v4, v6]);
    let routes = routes.map(|(sources, addr)| format!("route replace {sources} via {addr}"));
    node.netns().ip(&routes.collect::<Vec<_>>())?;
    // Whoever sends back by the device that a packet came from tells its sender of a shorter way.
    node.netns().sysctl(&[
        ("ipv4/conf/all/send_redirects", "0"),
        (&format!("ipv4/conf/{}/send_redirects", node.uplink()), "0"),
    ])?;
    remove_rules(node)
}
