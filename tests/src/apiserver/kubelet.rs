//! Who runs the pods: a test, or nobody.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use futures::executor::block_on;
use futures::future::{Either, select};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::shared::Shared;
use super::store::object::{is_terminating, text};
use super::store::{DeleteOptions, Kind, Name, Object, Part};

/// Runs pods.
pub trait Kubelet: Send + 'static {
    /// Starts a pod, and says where it runs when it is ready.
    ///
    /// # Errors
    /// When it cannot be started: then it is shown as failed.
    fn start(&mut self, pod: &Value) -> Result<Running>;

    /// Ends a pod that was deleted. It is gone when this returns.
    fn stop(&mut self, pod: &Value);
}

/// A pod that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The node that it runs on.
    pub node: String,
    /// Its addresses, the first family's first.
    pub addresses: Vec<IpAddr>,
}

/// A kubelet at work; it stops working when this is dropped.
pub struct Kubelets {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Kubelets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kubelets")
    }
}

impl Drop for Kubelets {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the kubelet's has been printed.
            let _ = thread.join();
        }
    }
}

/// Lets `kubelet` run all pods that come without an address, from now on.
pub(super) fn employ(shared: &Arc<Shared>, mut kubelet: impl Kubelet) -> Result<Kubelets> {
    let (stop, mut stopped) = oneshot::channel::<()>();
    let mut revisions = shared.revisions();
    // The server may end before its kubelet does.
    let shared = Arc::downgrade(shared);
    let work = move || {
        loop {
            revisions.mark_unchanged();
            while let Some(task) = next_task(&shared) {
                if stopped.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
                    return;
                }
                task.run(&shared, &mut kubelet);
            }
            let changed = Box::pin(revisions.changed());
            match block_on(select(changed, &mut stopped)) {
                Either::Left((Ok(()), _)) => {}
                Either::Left((Err(_), _)) | Either::Right(_) => return,
            }
        }
    };
    let thread = thread::Builder::new()
        .name("kubelet".to_owned())
        .spawn(work);
    Ok(Kubelets {
        stop: Some(stop),
        thread: Some(thread.context("start a thread")?),
    })
}

/// Something to be done about a pod.
enum Task {
    Start(Object),
    Stop(Object),
}

/// What is to be done next: first what ends.
fn next_task(shared: &Weak<Shared>) -> Option<Task> {
    shared.upgrade()?.read(|store| {
        let pods = || store.objects(Kind::Pod).map(|(_, pod)| pod);
        let ends = pods().find(|pod| is_terminating(pod));
        if let Some(pod) = ends {
            return Some(Task::Stop(Arc::clone(pod)));
        }
        let begins = pods().find(|pod| {
            text(pod, "/status/phase") == "Pending" && text(pod, "/status/podIP").is_empty()
        });
        begins.map(|pod| Task::Start(Arc::clone(pod)))
    })
}

impl Task {
    fn run(self, shared: &Weak<Shared>, kubelet: &mut impl Kubelet) {
        match self {
            Self::Start(pod) => {
                let started = kubelet.start(&pod);
                if let Some(shared) = shared.upgrade() {
                    report(&shared, &Name::of(&pod), started);
                }
            }
            Self::Stop(pod) => {
                kubelet.stop(&pod);
                let options = DeleteOptions {
                    grace: Some(0),
                    uid: Some(text(&pod, "/metadata/uid").to_owned()),
                    version: None,
                };
                if let Some(shared) = shared.upgrade() {
                    let name = Name::of(&pod);
                    // Somebody else may have removed it meanwhile.
                    let _ =
                        shared.write(|store, now| store.delete(Kind::Pod, &name, &options, now));
                }
            }
        }
    }
}

/// Writes into a pod how its start went.
fn report(shared: &Arc<Shared>, name: &Name, started: Result<Running>) {
    // It may be gone already.
    let _ = shared.write(|store, _| {
        store.update(Kind::Pod, name, Part::Main, |pod| {
            match started {
                Ok(Running { node, addresses }) => {
                    pod["spec"]["nodeName"] = json!(node);
                    let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
                    pod["status"] = json!({
                        "phase": "Running", "podIP": addresses.first(), "podIPs": ips,
                        "conditions": [{"type": "Ready", "status": "True"}],
                    });
                }
                Err(error) => {
                    pod["status"] = json!({"phase": "Failed", "message": format!("{error:#}")});
                }
            }
            Ok(())
        })
    });
}
