//! Clusters out of network namespaces.
//!
//! ```no_run
//! use lb_tests::lab::{Cluster, Cni, Fabric, Place as _};
//! use lb_tests::tool::Protocol;
//!
//! # fn main() -> anyhow::Result<()> {
//! let cluster = Cluster::builder().nodes(3).cni(Cni::Ptp).fabric(Fabric::Vxlan).build()?;
//! let pod = cluster.pod("alpaca-1", 0)?;
//! let _server = pod.serve(8000)?;
//! let client = cluster.pod("client", 1)?;
//! let reply = client.request(Protocol::Tcp, (pod.ipv4(), 8000).into())?;
//! assert_eq!(reply.server, "alpaca-1");
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   pod ── veth ── node1 ── eth0 ──┐
//!                    ┊ vxlan0      ├── br0, router ── client0 ── eth0, client
//!   pod ── veth ── node2 ── eth0 ──┘
//! ```
//!
//! Every *place* (node, pod, router, client) is a network namespace and a cgroup;
//! what [`Place::command`] starts lives in both. Everything carries the lab's name
//! (`lb-<pid>-<counter>`), goes when its value is dropped, panics included, and what
//! a killed process left behind goes when the next process makes its first lab.

mod agent;
mod cgroup;
mod client;
mod cluster;
mod cni;
mod fabric;
mod instance;
mod netns;
mod node;
mod offload;
mod outside;
mod place;
mod plan;
mod pod;
mod preflight;
mod remains;
mod script;
mod server;

pub use agent::Agent;
pub use client::{Request, Requests};
pub use cluster::{Cluster, ClusterBuilder};
pub use cni::Cni;
pub use fabric::Fabric;
pub use netns::Netns;
pub use node::Node;
pub use outside::{Client, Router};
pub use place::{Place, Site};
pub use plan::{POD_NETWORK_V4, POD_NETWORK_V6};
pub use pod::Pod;
pub use preflight::preflight;
pub use remains::{remove_dead, remove_kept, remove_lab};
pub use server::Server;
