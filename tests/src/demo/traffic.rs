//! Who asks whom.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::scene::Scene;
use super::service::Service;
use super::tally::Tally;
use crate::lab::{Place as _, Request, Requests, Site};
use crate::tool::{Protocol, Reply};

/// A way from a client to the Service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path<'a> {
    pub(super) from: &'a Site,
    pub(super) protocol: Protocol,
    pub(super) to: SocketAddr,
    /// What is at the other end.
    pub(super) kind: Target,
}

/// What a client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    ClusterIp,
    /// On the node of this index.
    NodePort(usize),
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp => write!(out, "ClusterIP"),
            Self::NodePort(node) => write!(out, "node{}", node + 1),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from, protocol, to, ..
        } = self;
        write!(out, "from {}, {} to {to}", from.name(), protocol.name())
    }
}

/// All ways: from a pod and from a process of a node to the cluster addresses, and from outside
/// to every node, over both families and protocols.
pub(super) fn paths(scene: &Scene) -> Vec<Path<'_>> {
    let cluster = scene.cluster();
    let inside = [scene.client().site(), cluster.node(0).site()];
    let inside = inside.into_iter().flat_map(|from| {
        let addresses = scene.service().cluster_addresses();
        ways(from, addresses, Target::ClusterIp)
    });
    let outside = (0..cluster.nodes().len()).flat_map(|node| {
        let from = cluster.client().site();
        ways(from, scene.node_ports(node), Target::NodePort(node))
    });
    inside.chain(outside).collect()
}

fn ways(from: &Site, to: [SocketAddr; 2], kind: Target) -> impl Iterator<Item = Path<'_>> {
    Service::over_all(to).map(move |(protocol, to)| Path {
        from,
        protocol,
        to,
        kind,
    })
}

/// A client that asks until it is told to stop, and what came of it.
#[derive(Debug)]
pub(super) struct Asker {
    /// Who asks whom, and how.
    what: String,
    from: String,
    requests: Requests,
    /// All its requests go over one connection, or from one socket.
    pub(super) held: bool,
    pub(super) protocol: Protocol,
    pub(super) tally: Tally,
    /// Who answered last.
    pub(super) server: Option<String>,
}

impl Asker {
    /// Starts to ask, with a pause after every answer.
    pub(super) fn start(path: &Path<'_>, held: bool, pause: Duration) -> Result<Self> {
        let request = Request {
            count: 0,
            hold: held,
            interval: pause,
            ..Request::new(path.protocol, path.to)
        };
        let what = if held { "over one connection " } else { "" };
        Ok(Self {
            what: format!("{what}{path}"),
            from: path.from.name().to_owned(),
            requests: path.from.start(&request)?,
            held,
            protocol: path.protocol,
            tally: Tally::default(),
            server: None,
        })
    }

    /// Counts what has ended meanwhile.
    fn collect(&mut self) {
        let ended: Vec<_> = self.requests.ended().collect();
        ended.into_iter().for_each(|outcome| self.count(outcome));
    }

    fn count(&mut self, outcome: Result<Reply>) {
        if let Ok(reply) = &outcome {
            self.server = Some(reply.server.clone());
        }
        self.tally.count(&self.from, outcome);
    }

    /// Whether it is not worth waiting for: the demo has failed with its first failure, and what
    /// it asks next may take as long to fail.
    fn has_failed(&self) -> bool {
        self.tally.failed > 0
    }

    /// Asks nothing more after what it is asking now.
    pub(super) fn stop(&mut self) {
        self.requests.stop();
    }

    /// Stops to ask, and waits for the last answer.
    pub(super) fn finish(self) -> Tally {
        let Self {
            from,
            requests,
            mut tally,
            ..
        } = self;
        for outcome in requests.finish() {
            tally.count(&from, outcome);
        }
        tally
    }
}

/// Waits until each that has not failed yet has had `rounds` more requests ended. What was under
/// way when this was called has ended then, too.
///
/// A client gives up a request after its timeout: this ends.
pub(super) fn await_rounds(askers: &mut [Asker], rounds: u64) -> Result<()> {
    askers.iter_mut().for_each(Asker::collect);
    let goals: Vec<_> = askers
        .iter()
        .map(|asker| asker.tally.requests + rounds)
        .collect();
    for (asker, goal) in askers.iter_mut().zip(goals) {
        while asker.tally.requests < goal && !asker.has_failed() {
            let outcome = asker.requests.next();
            let outcome = outcome.with_context(|| format!("lost the client {}", asker.what))?;
            asker.count(outcome);
        }
    }
    Ok(())
}

/// Sends requests one after the other, each over a connection of its own.
pub(super) fn ask(path: &Path<'_>, count: u64) -> Result<Tally> {
    let request = Request {
        count,
        ..Request::new(path.protocol, path.to)
    };
    let mut tally = Tally::default();
    let mut requests = path.from.start(&request)?;
    for _ in 0..count {
        let outcome = requests.next().context("the client ended without a word")?;
        tally.count(path.from.name(), outcome);
    }
    Ok(tally)
}
