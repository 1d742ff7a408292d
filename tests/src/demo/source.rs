//! Where the agents of the demo learn of the Service from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::api::Api;
use super::service::{State, manifests};
use crate::lab::{Cluster, Pod};

/// Where the agents learn of the Service and its Pods from.
#[derive(Debug)]
pub(super) enum Source {
    /// A file, which all agents read.
    Manifests(PathBuf),
    /// An API server, which all agents follow.
    Kubernetes(Api),
}

impl Source {
    pub(super) fn new(cluster: &Cluster, is_kubernetes: bool) -> Result<Self> {
        if is_kubernetes {
            return Api::start(cluster).map(Self::Kubernetes);
        }
        let directory = cluster.dir().join("manifests");
        fs::create_dir_all(&directory)?;
        Ok(Self::Manifests(directory.join("alpaca-prod.yaml")))
    }

    /// What an agent is told of it.
    pub(super) fn flags(&self) -> Result<[&str; 2]> {
        let (flag, path) = match self {
            Self::Manifests(path) => ("--manifests", path.as_path()),
            Self::Kubernetes(api) => ("--kubeconfig", api.agents_kubeconfig()),
        };
        Ok([flag, path.to_str().context("a path in UTF-8")?])
    }

    /// Says that these are the Service's Pods.
    pub(super) fn publish<'a>(&self, pods: impl Iterator<Item = (&'a Pod, State)>) -> Result<()> {
        match self {
            Self::Manifests(path) => replace(path, &manifests(pods)),
            Self::Kubernetes(api) => api.publish(&pods.collect::<Vec<_>>()),
        }
    }
}

/// Writes a file as one change: no agent reads half of it.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, path).context("replace the manifests")
}
