//! A running server, as tests hold it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime;
use tokio::sync::oneshot;

use super::behaviour::Behaviour;
use super::builder::Builder;
use super::controller::Controllers;
use super::faults::Faults;
use super::http::view;
use super::kubeconfig::kubeconfig;
use super::kubelet::{self, Kubelet, Kubelets};
use super::shared::{Request, Shared};
use super::store::object::{fields_mut, items, metadata_mut, text};
use super::store::{DeleteOptions, Deletion, Kind, Name, Object, Part, Resource, Store};
use super::tls::Identity;

/// A running server. It ends when this is dropped.
///
/// It has a thread of its own, so it serves whatever its holder does meanwhile, async or not.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    url: String,
    identity: Option<Identity>,
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// A server without a listener.
    pub(super) fn new(
        address: SocketAddr,
        identity: Option<Identity>,
        (store, controllers): (Store, Controllers),
        behaviour: Behaviour,
    ) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let shared = Arc::new(Shared::new(store, controllers, behaviour, handle));
        let directory = tempfile::tempdir().context("make a directory for the kubeconfig")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("apiserver".to_owned());
        let thread = thread.spawn(move || {
            // Both ends of it mean the same.
            let _ = runtime.block_on(stopped);
        })?;
        let scheme = if identity.is_some() { "https" } else { "http" };
        let server = Self {
            shared,
            address,
            url: format!("{scheme}://{address}"),
            identity,
            directory,
            stop: Some(stop),
            thread: Some(thread),
        };
        fs::write(server.kubeconfig_path(), server.kubeconfig())?;
        Ok(server)
    }

    /// Listens to one more socket, which may be of another network namespace.
    ///
    /// # Errors
    /// When it is none that can be listened to.
    pub fn listen(&self, listener: TcpListener) -> Result<SocketAddr> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let tls = self
            .identity
            .as_ref()
            .map(|identity| identity.acceptor.clone());
        self.shared.listen(listener, tls);
        Ok(address)
    }

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
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_at(self.address)
    }

    /// A kubeconfig for clients that reach it at another address.
    #[must_use]
    pub fn kubeconfig_at(&self, address: SocketAddr) -> String {
        match &self.identity {
            Some(Identity { authority, .. }) => {
                kubeconfig(&format!("https://{address}"), Some(authority))
            }
            None => kubeconfig(&format!("http://{address}"), None),
        }
    }

    /// The file that its kubeconfig stands in, as long as the server lives.
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

    /// Waits until `condition` holds, looking whenever an object changes or a request comes;
    /// false if it does not in time.
    #[must_use]
    pub fn wait_until(&self, timeout: Duration, condition: impl FnMut() -> bool) -> bool {
        self.shared.wait_until(timeout, condition)
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

    /// Keeps all connections, and each that comes, without a word, as if the machine had stopped.
    pub fn freeze(&self) {
        let epoch = &self.shared.epoch;
        epoch.send_modify(|epoch| epoch.is_frozen = true);
    }

    /// Serves again: new connections, and those that were frozen.
    pub fn open(&self) {
        self.shared.epoch.send_modify(|epoch| {
            epoch.is_closed = false;
            epoch.is_frozen = false;
        });
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
    pub fn apply(&self, object: Value) -> Result<Object> {
        let (version, kind) = (text(&object, "/apiVersion"), text(&object, "/kind"));
        let resource = Resource::of(version, kind)
            .with_context(|| format!("no resource has objects of {version} {kind}"))?;
        let kind = resource.storage;
        let mut object = view::stored(resource, object);
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
        let options = DeleteOptions::default();
        let delete = |store: &mut Store, now| store.delete(kind, &name, &options, now);
        let deletion = self.shared.write(delete);
        deletion.with_context(|| format!("delete {kind} {name}"))
    }

    /// Lets `kubelet` run all pods that come without an address. Deleted pods stay until it has
    /// stopped them only if [`Behaviour::pod_removal`] is `None`.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn employ(&self, kubelet: impl Kubelet) -> Result<Kubelets> {
        kubelet::employ(&self.shared, kubelet)
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
