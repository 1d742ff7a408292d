//! The agent without its kernel: a source, and a reconciler that follows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_agent::{
    dataplane::memory::Memory,
    desired::NodeView,
    model::Model,
    reconcile::Reconciler,
    source::{
        self, Snapshot,
        kubernetes::{Connection, Kubernetes, Times},
    },
};
use lb_common::FrontendKey;
use lb_tests::apiserver::ApiServer;

use crate::{
    tables::{self, Leads},
    world::{NODE, STEADY},
};

/// Seed of the flow hash.
const HASH_SEED: u32 = 7;

/// Follows a cluster, and watches itself doing so.
pub(crate) struct Agent {
    pub(crate) receiver: source::Receiver,
    reconciler: Reconciler<Memory>,
    /// Services that were served before.
    seen: BTreeSet<String>,
    /// The newest state of steady Services that was seen.
    newest: BTreeMap<String, u32>,
    /// Services that were served before and then were not.
    pub(crate) lost: BTreeSet<String>,
}

fn times() -> Times {
    let ms = Duration::from_millis;
    Times {
        connect: ms(1000),
        response: ms(400),
        progress: ms(150),
        list: ms(400),
        watch: ms(1000),
        silence: ms(200),
        stale: ms(600),
        short: ms(1),
        pause_min: ms(1),
        pause_max: ms(8),
        calm: ms(50),
        unserved: ms(20),
    }
}

impl Agent {
    /// Sets out to follow `server`.
    pub(crate) async fn start(server: &ApiServer) -> Result<Self> {
        let connection = Connection {
            kubeconfig: Some(server.kubeconfig_path()),
            // Nobody is at the first.
            servers: vec!["http://127.0.0.1:1".to_owned(), server.url().to_owned()],
        };
        let source = Kubernetes::connect(&connection, NODE, times()).await?;
        let (sender, receiver) = source::channel();
        // Ends with its receiver.
        tokio::spawn(source.run(sender));
        Ok(Self {
            receiver,
            reconciler: reconciler()?,
            seen: BTreeSet::new(),
            newest: BTreeMap::new(),
            lost: BTreeSet::new(),
        })
    }

    /// Takes in what was published last. Whether that is `expected`.
    pub(crate) fn follow(&mut self, expected: Option<&Model>) -> Result<bool> {
        let Some(snapshot) = self.receiver.borrow_and_update().clone() else {
            return Ok(false);
        };
        let now: BTreeSet<String> = services(&snapshot).collect();
        let lost = self.seen.difference(&now).cloned();
        self.lost.extend(lost);
        self.seen.extend(now);
        reconcile(&mut self.reconciler, &snapshot.model)?;
        check_steady(&snapshot.model, self.reconciler.dataplane())?;
        self.check_time(&snapshot.model)?;
        Ok(expected == Some(&snapshot.model))
    }

    /// Time goes on, and never back.
    fn check_time(&mut self, model: &Model) -> Result<()> {
        for (name, service) in &model.services {
            let state = service.affinity_timeout_s.unwrap_or_default();
            if STEADY.contains(&name.name.as_str()) {
                let newest = self.newest.entry(name.name.clone()).or_default();
                ensure!(
                    state >= *newest,
                    "{name} went back from {newest} to {state}"
                );
                *newest = state;
            }
        }
        Ok(())
    }

    /// What the maps say.
    pub(crate) fn tables(&mut self) -> Result<BTreeMap<FrontendKey, Leads>> {
        tables::read(self.reconciler.dataplane())
    }
}

fn services(snapshot: &Snapshot) -> impl Iterator<Item = String> {
    let services = snapshot.model.services.keys();
    services.map(|name| name.name.clone())
}

/// Maps without anything in them.
fn reconciler() -> Result<Reconciler<Memory>> {
    let memory = Memory::new(1 << 12, 1 << 12, 1 << 17);
    Ok(Reconciler::new(memory, HASH_SEED)?)
}

fn reconcile(reconciler: &mut Reconciler<Memory>, model: &Model) -> Result<()> {
    let node = NodeView {
        name: NODE.to_owned(),
        node_port_addresses: [IpAddr::from([192, 0, 2, 1])].into(),
        localhost_node_ports: true,
        answers_echo: true,
        ..NodeView::default()
    };
    let outcome = reconciler.reconcile(model, &node, Instant::now())?;
    ensure!(!outcome.no_room, "there is no room");
    Ok(())
}

/// What maps say that have only ever followed `model`.
pub(crate) fn compiled(model: &Model) -> Result<BTreeMap<FrontendKey, Leads>> {
    let mut reconciler = reconciler()?;
    reconcile(&mut reconciler, model)?;
    tables::read(reconciler.dataplane())
}

/// Services that are there throughout are served throughout.
fn check_steady(model: &Model, maps: &Memory) -> Result<()> {
    for name in STEADY {
        let mut services = model.services.iter();
        let found = services.find(|(service, _)| service.name == name);
        let (_, service) = found.with_context(|| format!("{name} is missing"))?;
        for addr in service.cluster_ips.iter().filter(|addr| addr.is_ipv4()) {
            let key = FrontendKey::new((*addr).into(), 80, 6);
            let frontend = maps.maps().frontends.get(&key);
            let frontend = frontend.with_context(|| format!("{name} has no frontend"))?;
            let servers = tables::servers(maps, frontend, frontend.outside)?;
            ensure!(!servers.is_empty(), "{name} has no backend");
        }
    }
    Ok(())
}
