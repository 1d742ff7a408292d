//! A running server, as tests hold it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime;
use tokio::sync::oneshot;

use super::behaviour::Behaviour;
use super::connections;
use super::controller::Controllers;
use super::faults::Faults;
use super::kubeconfig::kubeconfig;
use super::seed;
use super::shared::{Request, Shared};
use super::store::object::{fields_mut, items, metadata_mut, text};
use super::store::{
    DeleteOptions, Deletion, Kind, Name, Object, Part, Resource, Settings, Status, Store,
};
use super::tls::Identity;

/// A server that is to be started.
#[derive(Debug)]
pub struct Builder {
    address: SocketAddr,
    listener: Option<TcpListener>,
    has_tls: bool,
    has_seed: bool,
    has_slices: bool,
    behaviour: Behaviour,
    settings: Settings,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            listener: None,
            has_tls: false,
            has_seed: true,
            has_slices: true,
            behaviour: Behaviour::default(),
            settings: Settings::default(),
        }
    }
}

impl Builder {
    /// Listens to this address; port 0 is any that is free.
    #[must_use]
    pub fn address(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// Listens to this socket, which may be of another network namespace.
    #[must_use]
    pub fn listener(self, listener: TcpListener) -> Self {
        Self {
            listener: Some(listener),
            ..self
        }
    }

    /// Speaks HTTPS, with a certificate from an authority that only its kubeconfig knows.
    #[must_use]
    pub fn tls(self) -> Self {
        Self {
            has_tls: true,
            ..self
        }
    }

    /// Starts without the objects that each cluster has: only with the namespace `default`.
    #[must_use]
    pub fn bare(self) -> Self {
        Self {
            has_seed: false,
            ..self
        }
    }

    /// Leaves EndpointSlices to whoever writes them.
    #[must_use]
    pub fn without_slices(self) -> Self {
        Self {
            has_slices: false,
            ..self
        }
    }

    /// Behaves like this.
    #[must_use]
    pub fn behaviour(self, behaviour: Behaviour) -> Self {
        Self { behaviour, ..self }
    }

    /// Remembers so many changes of each kind.
    #[must_use]
    pub fn history_limit(mut self, limit: usize) -> Self {
        self.settings.history_limit = limit;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(self) -> Result<ApiServer> {
        let listener = match self.listener {
            Some(listener) => listener,
            None => TcpListener::bind(self.address)
                .with_context(|| format!("listen to {}", self.address))?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let identity = self
            .has_tls
            .then(|| Identity::generate(&[address.ip(), Ipv4Addr::LOCALHOST.into()]));
        let identity = identity.transpose()?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let settings = Settings {
            pods_linger: self
                .behaviour
                .pod_removal
                .is_none_or(|after| !after.is_zero()),
            ..self.settings
        };
        let store =
            new_store(settings, self.has_seed, address).context("make the first objects")?;
        let controllers = Controllers::new(self.has_slices);
        let handle = runtime.handle().clone();
        let shared = Arc::new(Shared::new(store, controllers, self.behaviour, handle));
        let (stop, stopped) = oneshot::channel();
        let scheme = if identity.is_some() { "https" } else { "http" };
        let (acceptor, authority) = identity.map(|it| (it.acceptor, it.authority)).unzip();
        let url = format!("{scheme}://{address}");
        let directory = tempfile::tempdir().context("make a directory for the kubeconfig")?;
        let kubeconfig = kubeconfig(&url, authority.as_deref());
        fs::write(directory.path().join("kubeconfig"), &kubeconfig)?;
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("apiserver".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    // Only what is no socket at all could fail here.
                    if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                        connections::accept(listener, acceptor, of_thread, stopped).await;
                    }
                });
            })?;
        Ok(ApiServer {
            shared,
            address,
            url,
            kubeconfig,
            directory,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

fn new_store(settings: Settings, has_seed: bool, address: SocketAddr) -> Result<Store, Status> {
    let networks: Vec<_> = settings
        .service_networks
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut store = Store::empty(settings);
    if has_seed {
        seed::plant(&mut store, address, &networks)?;
    } else {
        let namespace = json!({"metadata": {"name": "default"}});
        store.create(Kind::Namespace, namespace, jiff::Timestamp::now())?;
    }
    Ok(store)
}

/// A running server. It ends when this is dropped.
///
/// It has a thread of its own, so it serves whatever its holder does meanwhile, async or not.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    url: String,
    kubeconfig: String,
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts one on a free port of the loopback, without TLS.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Starts another sort of it.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A kubeconfig for its clients.
    #[must_use]
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// The file that the kubeconfig stands in, as long as the server lives.
    #[must_use]
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// A directory that lives as long as the server.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Changes how it behaves; watches that are there keep their intervals.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        self.shared.behave(change);
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.forget_requests();
    }

    /// Ends all connections.
    pub fn disconnect(&self) {
        self.shared.epoch.send_modify(|epoch| epoch.number += 1);
    }

    /// Ends all connections, and each that comes.
    pub fn close(&self) {
        self.shared.epoch.send_modify(|epoch| {
            epoch.number += 1;
            epoch.is_closed = true;
        });
    }

    /// Serves again.
    pub fn open(&self) {
        self.shared
            .epoch
            .send_modify(|epoch| epoch.is_closed = false);
    }

    /// Forgets all history.
    pub fn compact(&self) {
        self.write(Store::compact);
    }

    /// Looks at all objects at once.
    pub fn read<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        self.shared.read(look)
    }

    /// Changes several objects at once.
    pub fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        self.shared.write(|store, _| change(store))
    }

    /// The object `name` of a kind; the namespace of what lives in none is "".
    #[must_use]
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Object> {
        let name = Name::new(namespace, name);
        self.read(|store| store.get(kind, &name).cloned())
    }

    /// All objects of a kind, by name.
    #[must_use]
    pub fn list(&self, kind: Kind) -> Vec<Object> {
        self.read(|store| {
            store
                .objects(kind)
                .map(|(_, object)| Arc::clone(object))
                .collect()
        })
    }

    /// Makes an object what it says it is, whether there is one already or not.
    ///
    /// # Errors
    /// What the server says against it.
    pub fn apply(&self, mut object: Value) -> Result<Object> {
        let (version, kind) = (text(&object, "/apiVersion"), text(&object, "/kind"));
        let resource = Resource::of(version, kind)
            .with_context(|| format!("no resource has objects of {version} {kind}"))?;
        let kind = resource.storage;
        if resource.is_namespaced && text(&object, "/metadata/namespace").is_empty() {
            metadata_mut(&mut object).insert("namespace".to_owned(), json!("default"));
        }
        metadata_mut(&mut object).remove("resourceVersion");
        let name = Name::of(&object);
        let applied = self
            .shared
            .write(|store, now| match store.get(kind, &name) {
                None => store.create(kind, object, now),
                Some(_) => store.replace(kind, &name, object, Part::Main),
            });
        applied.with_context(|| format!("apply {kind} {name}"))
    }

    /// Applies all objects of a YAML or JSON text, in order.
    ///
    /// # Errors
    /// When it cannot be read, or the server says something against an object.
    pub fn apply_yaml(&self, text: &str) -> Result<Vec<Object>> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("read YAML")?;
        let mut applied = Vec::new();
        for document in documents {
            match document["kind"].as_str() {
                Some("List") => {
                    for item in items(&document, "/items") {
                        applied.push(self.apply(item.clone())?);
                    }
                }
                Some(_) => applied.push(self.apply(document)?),
                None => bail!("a document is no object: {document}"),
            }
        }
        Ok(applied)
    }

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    /// What the server says against it.
    pub fn patch(&self, kind: Kind, namespace: &str, name: &str, patch: &Value) -> Result<Object> {
        self.merge(kind, &Name::new(namespace, name), Part::Main, patch)
    }

    /// Changes the status of an object by a merge patch.
    ///
    /// # Errors
    /// What the server says against it.
    pub fn patch_status(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        status: &Value,
    ) -> Result<Object> {
        let patch = json!({"status": status});
        self.merge(kind, &Name::new(namespace, name), Part::Status, &patch)
    }

    fn merge(&self, kind: Kind, name: &Name, part: Part, patch: &Value) -> Result<Object> {
        let merged = self.shared.write(|store, _| {
            store.update(kind, name, part, |object| {
                json_patch::merge(object, patch);
                fields_mut(object);
                Ok(())
            })
        });
        merged.with_context(|| format!("patch {kind} {name}"))
    }

    /// Deletes an object as `kubectl delete` does.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<Deletion> {
        let name = Name::new(namespace, name);
        let deletion = self.shared.delete(kind, &name, &DeleteOptions::default());
        deletion.with_context(|| format!("delete {kind} {name}"))
    }

    /// Stores whatever it is, as no real server would.
    pub fn inject(&self, kind: Kind, object: Value) -> Object {
        self.write(|store| store.inject(kind, object))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the server's has been printed.
            let _ = thread.join();
        }
    }
}
