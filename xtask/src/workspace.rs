//! The workspace as cargo sees it.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process;

/// What `cargo metadata` says.
#[derive(Deserialize)]
pub(crate) struct Workspace {
    /// Directory of the top `Cargo.toml`.
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds.
    #[serde(rename = "target_directory")]
    pub(crate) target: PathBuf,
    /// The workspace's own packages.
    pub(crate) packages: Vec<Package>,
}

/// One package of the workspace.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A dependency of a package.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`, or nothing.
    pub(crate) kind: Option<String>,
}

impl Workspace {
    /// Asks cargo about the workspace around the current directory.
    pub(crate) fn find() -> Result<Self> {
        let mut metadata = Command::new(cargo());
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
        serde_json::from_slice(&process::output(&mut metadata)?)
            .context("cannot read cargo's metadata")
    }

    /// A cargo that runs at the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = process::clean(cargo());
        command.current_dir(&self.root);
        command
    }
}

/// The cargo that runs us; its wrapper, if somebody started the binary by hand.
fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}
