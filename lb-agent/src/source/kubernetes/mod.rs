//! The objects of a cluster, by watching its API server.
//!
//! Three watches (Services, EndpointSlices, this node) feed three [`Fold`]s. Nothing is published
//! before each has had a whole list; from then on every batch of changes is a new model.

use std::path::{Path, PathBuf};

use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio::time::{self, Instant};
use tracing::{info, warn};

use self::{fold::Fold, watched::Watched};
use super::{
    Rejection, Sender,
    objects::{EndpointSlice, HEADLESS, Node, SERVICE_PROXY_NAME, Service},
};
use crate::model::Model;

mod fold;
mod watched;

/// Changes that are ready at once are taken in at once, so many at the most.
const BATCH: usize = 1024;
/// After a model has been put together, no other is for so many times the time that it took: the
/// larger the cluster, the more changes make one model.
const PAUSE: u32 = 9;

/// The source that watches a cluster.
pub struct Kubernetes {
    client: Client,
    node_name: String,
}

/// Why a cluster cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig file cannot be used.
    #[error("read kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// There is no service account, so this is no pod of a cluster.
    #[error("read the service account of the pod (outside a cluster, say --kubeconfig)")]
    InCluster(#[source] Box<kube::config::InClusterError>),
    /// The configuration does not make a client.
    #[error("set up the client of the API server")]
    Client(#[source] Box<kube::Error>),
}

type Services = Watched<Service, core::Service>;
type Slices = Watched<EndpointSlice, discovery::EndpointSlice>;
type Nodes = Watched<Node, core::Node>;

/// An event of one of the watches.
#[expect(
    clippy::large_enum_variant,
    reason = "no more than a batch of them lives at once"
)]
enum Change {
    Service(watcher::Result<Event<Services>>),
    Slice(watcher::Result<Event<Slices>>),
    Node(watcher::Result<Event<Nodes>>),
}

impl Kubernetes {
    /// Connects with `kubeconfig`, or as a pod of the cluster, for the node called `node_name`.
    ///
    /// Does not talk to the API server yet.
    ///
    /// # Errors
    ///
    /// [`Error::Kubeconfig`] or [`Error::InCluster`] if the configuration cannot be read,
    /// [`Error::Client`] if it does not make a client.
    pub async fn connect(kubeconfig: Option<&Path>, node_name: &str) -> Result<Self, Error> {
        // A second installation fails and changes nothing.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let config = match kubeconfig {
            Some(path) => load(path).await?,
            None => Config::incluster().map_err(|error| Error::InCluster(Box::new(error)))?,
        };
        let client = Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))?;
        Ok(Self::new(client, node_name))
    }

    /// Watches through `client`.
    pub fn new(client: Client, node_name: &str) -> Self {
        Self {
            client,
            node_name: node_name.to_owned(),
        }
    }

    /// Publishes what the cluster says until all receivers are gone.
    ///
    /// Errors of the API server are logged, and tried again with growing delays: what was
    /// published stays in force meanwhile.
    pub async fn run(self, sender: Sender) {
        let mut state = State::default();
        let mut changes = self.changes().ready_chunks(BATCH);
        let mut is_dirty = false;
        let mut due = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = sender.closed() => return,
                () = time::sleep_until(due), if is_dirty && state.is_synced() => {
                    let begin = Instant::now();
                    let (model, rejections) = state.assemble();
                    super::publish(&sender, model, rejections);
                    is_dirty = false;
                    due = Instant::now() + begin.elapsed() * PAUSE;
                }
                batch = changes.next() => match batch {
                    Some(batch) => {
                        batch.into_iter().for_each(|change| state.apply(change));
                        is_dirty = true;
                    }
                    None => return,
                },
            }
        }
    }

    /// All events, of the three watches in turn.
    fn changes(&self) -> impl Stream<Item = Change> + use<> {
        let Self { client, node_name } = self;
        let services = watcher::Config::default()
            .labels(&format!("!{SERVICE_PROXY_NAME}"))
            .fields("spec.clusterIP!=None");
        let slices = watcher::Config::default().labels(&format!("!{HEADLESS}"));
        let node = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
        let watches: [BoxStream<'static, Change>; 3] = [
            watch(client, services).map(Change::Service).boxed(),
            watch(client, slices).map(Change::Slice).boxed(),
            watch(client, node).map(Change::Node).boxed(),
        ];
        stream::select_all(watches)
    }
}

async fn load(path: &Path) -> Result<Config, Error> {
    let wrap = |source| Error::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrap)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(wrap)
}

fn watch<K>(
    client: &Client,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + use<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    watcher::watcher(Api::all(client.clone()), config).default_backoff()
}

/// All that is known of the cluster.
#[derive(Default)]
struct State {
    services: Fold<Service>,
    slices: Fold<EndpointSlice>,
    node: Fold<Node>,
}

impl State {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Service(event) => feed(&mut self.services, event),
            Change::Slice(event) => feed(&mut self.slices, event),
            Change::Node(event) => feed(&mut self.node, event),
        }
    }

    /// Whether each watch has had a whole list once (item 11).
    fn is_synced(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced() && self.node.is_synced()
    }

    fn assemble(&self) -> (Model, Vec<Rejection>) {
        let Self {
            services,
            slices,
            node,
        } = self;
        let mut model = Model {
            node: node.models().map(|(_, node)| node.clone()).next(),
            ..Model::default()
        };
        let services_by_name = services.models();
        model.services = services_by_name
            .map(|(name, service)| (name.clone(), service.clone()))
            .collect();
        for (name, owned) in slices.models() {
            let of_service = model.slices.entry(owned.service.clone()).or_default();
            of_service.insert(name.name.clone(), owned.slice.clone());
        }
        let rejections = services.rejections().chain(slices.rejections());
        (
            model,
            rejections.chain(node.rejections()).cloned().collect(),
        )
    }
}

fn feed<O: super::objects::Object, F>(
    fold: &mut Fold<O>,
    event: watcher::Result<Event<Watched<O, F>>>,
) {
    match event {
        Ok(event) => {
            let was_synced = fold.is_synced();
            fold.apply(event);
            if fold.is_synced() && !was_synced {
                info!(
                    "{} list is complete: {} objects",
                    O::KIND,
                    fold.models().count()
                );
            }
        }
        Err(error) => warn!("watch {}: {error}", O::KIND),
    }
}

#[cfg(test)]
mod tests;
