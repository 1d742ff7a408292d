//! The API server of the demo: the stand-in, to which agents and people talk.

use std::fs;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::service::{State, document, pod_manifest};
use super::show::Show;
use crate::apiserver::store::object::{Name, is_terminating};
use crate::apiserver::store::{DeleteOptions, Kind, Store};
use crate::apiserver::{ApiServer, Behaviour, Kubelet, Kubelets};
use crate::lab::{Cluster, Node, Place as _, Pod};

/// Where agents find it, at the lab's client outside.
const PORT: u16 = 6443;
const NAMESPACE: &str = "default";
const SERVICE: &str = "alpaca-prod";

/// An API server, and the ways to it.
#[derive(Debug)]
pub(super) struct Api {
    server: ApiServer,
    /// For agents on the lab's nodes.
    agents: PathBuf,
    /// For people on this machine.
    people: PathBuf,
}

impl Api {
    /// Starts it, with the nodes of the lab as its objects.
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let outside = cluster.client();
        let ip = IpAddr::from(outside.ipv4());
        let behaviour = Behaviour {
            // Pods are stopped here, and gone when they are.
            pod_removal: None,
            ..Behaviour::default()
        };
        let builder = ApiServer::builder().tls().known_as(&[ip]);
        let server = builder.behaviour(behaviour).start()?;
        let listener = outside.netns().run(|| TcpListener::bind((ip, PORT)))?;
        let address = server.listen(listener.context("listen to the API server's port")?)?;
        let files = ["kubeconfig-agents", "kubeconfig"].map(|name| cluster.dir().join(name));
        let [agents, people] = files;
        fs::write(&agents, server.kubeconfig_at(address))?;
        fs::write(&people, server.kubeconfig())?;
        for node in cluster.nodes() {
            server.apply(node_object(node))?;
        }
        Ok(Self {
            server,
            agents,
            people,
        })
    }

    pub(super) fn agents_kubeconfig(&self) -> &Path {
        &self.agents
    }

    /// Creates and deletes objects, until the Service and these Pods are there.
    pub(super) fn publish(&self, pods: &[(&Pod, State)]) -> Result<()> {
        for object in self.server.list(Kind::Pod) {
            let name = Name::of(&object);
            if pods.iter().all(|(pod, _)| pod.name() != name.name) {
                self.server.write(|store| end_pod(store, &name))?;
            }
        }
        for &(pod, state) in pods {
            let known = self.server.get(Kind::Pod, NAMESPACE, pod.name());
            match (state, known) {
                (State::Ready, None) => {
                    self.server.apply_yaml(&pod_manifest(pod, State::Ready))?;
                }
                (State::Terminating, Some(known)) if !is_terminating(&known) => {
                    self.server.delete(Kind::Pod, NAMESPACE, pod.name())?;
                }
                _ => {}
            }
        }
        // After its Pods: agents get all of them at once.
        if self.server.get(Kind::Service, NAMESPACE, SERVICE).is_none() {
            self.server.apply_yaml(document())?;
        }
        Ok(())
    }

    /// Lets people scale a Deployment of the Service's pods, which `kubelet` runs.
    pub(super) fn employ(&self, kubelet: impl Kubelet) -> Result<Kubelets> {
        // All files are the lab's from now on: nobody else removes them.
        fs::remove_dir_all(self.server.directory())?;
        let labels = json!({"app": "alpaca", "env": "prod"});
        let template = json!({
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "alpaca", "image": "alpaca"}]},
        });
        self.server.apply(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "alpaca"},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
        }))?;
        self.server.employ(kubelet)
    }

    /// How to ask for its Services.
    pub(super) fn line(&self) -> String {
        format!(
            "KUBECONFIG={} kubectl get services -o wide",
            self.people.display()
        )
    }

    /// Says how to ask for its Services, and shows what is answered, if kubectl is there.
    pub(super) fn show(&self, show: Show) {
        show.note(&self.line());
        let mut kubectl = Command::new("kubectl");
        kubectl.args(["get", "services", "-o", "wide"]);
        match kubectl.env("KUBECONFIG", &self.people).output() {
            Ok(output) => {
                print!("{}", String::from_utf8_lossy(&output.stdout));
                print!("{}", String::from_utf8_lossy(&output.stderr));
            }
            Err(error) => show.note(&format!("there is no kubectl here: {error}")),
        }
    }
}

fn end_pod(store: &mut Store, name: &Name) -> Result<()> {
    let at_once = DeleteOptions {
        grace: Some(0),
        ..DeleteOptions::default()
    };
    let deletion = store.delete(Kind::Pod, name, &at_once, jiff::Timestamp::now());
    deletion
        .map(drop)
        .with_context(|| format!("delete pod {name}"))
}

fn node_object(node: &Node) -> serde_json::Value {
    let addresses = node
        .addresses()
        .map(|ip| json!({"type": "InternalIP", "address": ip}));
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name()},
        "status": {"addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}
