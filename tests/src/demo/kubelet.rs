//! Runs the pods that people ask the API server for, in a lab that stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use serde_json::Value;

use super::scene::Alpaca;
use super::service::State;
use crate::apiserver::store::object::text;
use crate::apiserver::{Kubelet, Running};
use crate::lab::{Cluster, Place as _};

/// Starts and ends pods of a lab.
#[derive(Debug)]
pub(super) struct Alpacas {
    pods: BTreeMap<String, Alpaca>,
    cluster: Arc<Cluster>,
    port: u16,
    /// How many have been started.
    started: usize,
}

impl Alpacas {
    /// Takes over the pods that are there; new ones serve `port`.
    pub(super) fn new(pods: Vec<Alpaca>, cluster: Arc<Cluster>, port: u16) -> Self {
        let pods = pods.into_iter();
        let by_name = pods.map(|alpaca| (alpaca.pod.name().to_owned(), alpaca));
        Self {
            pods: by_name.collect(),
            cluster,
            port,
            started: 0,
        }
    }
}

impl Kubelet for Alpacas {
    fn start(&mut self, pod: &Value) -> Result<Running> {
        let name = text(pod, "/metadata/name");
        // One node after the other.
        let node = self.started % self.cluster.nodes().len();
        self.started += 1;
        let pod = self.cluster.pod(name, node)?;
        let running = Running {
            node: pod.node().name().to_owned(),
            addresses: pod.addresses().to_vec(),
        };
        let alpaca = Alpaca {
            server: pod.serve(self.port)?,
            pod,
            state: State::Ready,
        };
        self.pods.insert(name.to_owned(), alpaca);
        Ok(running)
    }

    fn stop(&mut self, pod: &Value) {
        let ended = self.pods.remove(text(pod, "/metadata/name"));
        if let Some(Alpaca { server, pod, .. }) = ended {
            // In a kept lab nothing ends by being dropped.
            server.end();
            // What fails here goes with the lab.
            let _ = pod.remove();
        }
    }
}
