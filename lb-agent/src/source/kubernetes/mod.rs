//! The objects of a cluster, by watching its API server.
//!
//! Four watches (Services, EndpointSlices, this node, ServiceCIDRs) feed four [`Fold`]s. Nothing
//! is published before each has had a whole list; from then on every batch of changes is a new
//! model.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use http::Uri;
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use kube::{Api, Client, runtime::watcher::Event};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{info, warn};

pub use self::{
    connect::{Connection, Error},
    times::Times,
};
use self::{
    events::Sink,
    fold::{Changed, Fold},
    follow::{Follower, Wanted},
    watched::Watched,
};
use super::{
    Rejection, Role, Sender,
    objects::{
        EndpointSlice, HEADLESS, Node, Object, OwnedSlice, SERVICE_PROXY_NAME, Service, ServiceCidr,
    },
};
use crate::{event, model::Model, pace::until};

mod connect;
mod events;
mod fold;
mod follow;
mod rotation;
mod times;
mod watched;

/// Changes that are ready at once are taken in at once, so many at the most.
const BATCH: usize = 256;
/// So many more may wait meanwhile; then the API server waits. Each is an object as it was sent.
const WAITING_MAX: usize = 64;
/// After a model has been put together, no other is for so many times the time that it took: the
/// larger the cluster, the more changes make one model.
const PAUSE: u32 = 9;
/// However long it took: it may have been held up.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The source that watches a cluster.
pub struct Kubernetes {
    client: Client,
    servers: Vec<Uri>,
    role: Role,
    times: Times,
}

type Services = Watched<Service, core::Service>;
type Slices = Watched<EndpointSlice, discovery::EndpointSlice>;
type Nodes = Watched<Node, core::Node>;
type ServiceCidrs = Watched<ServiceCidr, networking::ServiceCIDR>;

/// An event of one of the watches.
#[expect(
    clippy::large_enum_variant,
    reason = "no more than two batches of them live at once"
)]
enum Change {
    Service(Event<Services>),
    Slice(Event<Slices>),
    Node(Event<Nodes>),
    ServiceCidr(Event<ServiceCidrs>),
}

impl Kubernetes {
    /// Sets out to watch a cluster for `role`.
    ///
    /// Does not talk to the API server yet.
    ///
    /// # Errors
    ///
    /// [`Error::Kubeconfig`] or [`Error::InCluster`] if the configuration cannot be read,
    /// [`Error::Server`], [`Error::Plain`], [`Error::Proxy`] or [`Error::Client`] if it does not
    /// make a client.
    pub async fn connect(
        connection: &Connection,
        role: impl Into<Role>,
        times: Times,
    ) -> Result<Self, Error> {
        let connect::Connected { client, servers } = connect::connect(connection, &times).await?;
        Ok(Self {
            client,
            servers,
            role: role.into(),
            times,
        })
    }

    /// Publishes what the cluster says until all receivers are gone.
    ///
    /// Errors of the API server are logged, and tried again with growing delays: what was
    /// published stays in force meanwhile.
    pub async fn run(self, sender: Sender) {
        let (changes_in, mut changes) = mpsc::channel(WAITING_MAX);
        let mut followers = self.follow(&changes_in);
        let mut state = State::new(&self.role);
        let mut batch = Vec::with_capacity(BATCH);
        let mut is_dirty = false;
        let mut due = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = sender.closed() => return,
                // None of them ever does.
                _ended = followers.join_next() => return,
                () = until(Some(due)), if is_dirty && state.is_synced() => {
                    let begin = Instant::now();
                    let (model, rejections) = state.assemble();
                    state.warn_of_cluster_ip(&self.servers, &model);
                    super::publish(&sender, model, rejections);
                    is_dirty = false;
                    due = Instant::now() + (begin.elapsed() * PAUSE).min(PAUSE_MAX);
                }
                _count = changes.recv_many(&mut batch, BATCH) => {
                    batch.drain(..).for_each(|change| state.apply(change));
                    is_dirty = true;
                }
            }
        }
    }

    /// Passes events on to the cluster until all their senders are gone.
    pub fn publish_events(&self, receiver: event::Receiver) -> impl Future<Output = ()> + use<> {
        let sink = Sink::new(self.client.clone(), &self.role.node_name, self.times);
        sink.run(receiver)
    }

    /// Starts the watches, with the selectors of a proxy (items 1 to 3).
    fn follow(&self, changes: &mpsc::Sender<Change>) -> JoinSet<()> {
        let Role {
            node_name,
            proxy_name,
            service_cidrs,
        } = &self.role;
        let labels = match proxy_name {
            None => format!("!{SERVICE_PROXY_NAME}"),
            Some(name) => format!("{SERVICE_PROXY_NAME}={name}"),
        };
        let services = Wanted {
            labels: Some(labels),
            fields: Some("spec.clusterIP!=None".to_owned()),
            ..Wanted::default()
        };
        let slices = Wanted {
            labels: Some(format!("!{HEADLESS}")),
            ..Wanted::default()
        };
        let node = Wanted {
            fields: Some(format!("metadata.name={node_name}")),
            ..Wanted::default()
        };
        let mut followers = JoinSet::new();
        followers.spawn(self.follower(services, changes, Change::Service).run());
        followers.spawn(self.follower(slices, changes, Change::Slice).run());
        followers.spawn(self.follower(node, changes, Change::Node).run());
        if service_cidrs.is_empty() {
            let service_cidrs = Wanted {
                is_optional: true,
                ..Wanted::default()
            };
            let follower = self.follower(service_cidrs, changes, Change::ServiceCidr);
            followers.spawn(follower.run());
        }
        followers
    }

    fn follower<O: Object, F: k8s_openapi::Resource + 'static>(
        &self,
        wanted: Wanted,
        changes: &mpsc::Sender<Change>,
        wrap: fn(Event<Watched<O, F>>) -> Change,
    ) -> Follower<Watched<O, F>, Change> {
        let api = Api::all(self.client.clone());
        Follower::new(api, wanted, self.times, changes.clone(), wrap)
    }
}

/// All that is known of the cluster.
#[derive(Default)]
struct State {
    services: Fold<Service>,
    slices: Fold<EndpointSlice>,
    node: Fold<Node>,
    service_cidrs: Fold<ServiceCidr>,
    /// Services and slices, as they are now.
    model: Model,
    /// In place of what ServiceCIDRs say, unless empty.
    given_cidrs: BTreeSet<IpNet>,
    /// Whether somebody has been warned of the way to the API server.
    has_warned: bool,
}

impl State {
    fn new(role: &Role) -> Self {
        Self {
            given_cidrs: role.service_cidrs.clone(),
            ..Self::default()
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Service(event) => {
                for changed in feed(&mut self.services, event) {
                    match changed.now {
                        Some(service) => self.model.services.insert(changed.name, service),
                        None => self.model.services.remove(&changed.name),
                    };
                }
            }
            Change::Slice(event) => {
                for changed in feed(&mut self.slices, event) {
                    self.move_slice(&changed);
                }
            }
            Change::Node(event) => {
                feed(&mut self.node, event);
            }
            Change::ServiceCidr(event) => {
                feed(&mut self.service_cidrs, event);
            }
        }
    }

    /// Puts a slice into the place of what it was.
    fn move_slice(&mut self, changed: &Changed<OwnedSlice>) {
        let Changed { name, before, now } = changed;
        let all = &mut self.model.slices;
        let owner = now.as_ref().map(|now| &now.service);
        if let Some(left) = before.as_ref().filter(|old| Some(&old.service) != owner)
            && let Some(slices) = all.get_mut(&left.service)
        {
            slices.remove(&name.name);
            if slices.is_empty() {
                all.remove(&left.service);
            }
        }
        if let Some(now) = now {
            let slices = all.entry(now.service.clone()).or_default();
            slices.insert(name.name.clone(), now.slice.clone());
        }
    }

    /// Whether each watch has had a whole list once (item 11).
    fn is_synced(&self) -> bool {
        self.services.is_synced()
            && self.slices.is_synced()
            && self.node.is_synced()
            && (self.service_cidrs.is_synced() || !self.given_cidrs.is_empty())
    }

    fn assemble(&self) -> (Model, Vec<Rejection>) {
        let Self {
            services,
            slices,
            node,
            service_cidrs,
            model,
            given_cidrs,
            has_warned: _,
        } = self;
        let nets = service_cidrs.models().flat_map(|(_, nets)| nets.iter());
        let model = Model {
            node: node.models().map(|(_, node)| node.clone()).next(),
            service_cidrs: nets.chain(given_cidrs).copied().collect(),
            ..model.clone()
        };
        let rejections = services.rejections().chain(slices.rejections());
        let rejections = rejections.chain(node.rejections());
        let rejections = rejections.chain(service_cidrs.rejections()).cloned();
        (model, rejections.collect())
    }

    /// Says once if the API server is reached by a Service.
    fn warn_of_cluster_ip(&mut self, servers: &[Uri], model: &Model) {
        if self.has_warned {
            return;
        }
        if let Some(host) = connect::served_by_us(servers, model) {
            self.has_warned = true;
            warn!(
                "the API server is reached at {host}, by the Service `kubernetes`, which this \
                 agent itself has to serve: after a restart of the node neither comes up; give \
                 an address that needs no Service by --apiserver, or in a pod by the environment \
                 variables KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT"
            );
        }
    }
}

fn feed<O: Object, F>(fold: &mut Fold<O>, event: Event<Watched<O, F>>) -> Vec<Changed<O::Model>> {
    let was_synced = fold.is_synced();
    let changed = fold.apply(event);
    if fold.is_synced() && !was_synced {
        let objects = fold.models().count();
        info!("{} list is complete: {objects} objects", O::KIND);
    }
    changed
}

#[cfg(test)]
mod tests;
