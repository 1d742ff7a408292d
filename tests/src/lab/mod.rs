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
mod capture;
mod cgroup;
mod client;
mod cluster;
mod cni;
mod conntrack;
mod crowd;
mod fabric;
mod flood;
mod foreign;
mod hop;
mod instance;
mod inventory;
mod live;
mod load;
mod mode;
mod netns;
mod node;
mod offload;
mod outside;
mod place;
mod plan;
mod pod;
mod preflight;
mod processor;
mod remains;
mod script;
mod server;
mod traffic;
mod vlan;
mod wiring;

pub(crate) use agent::BINARY_VARIABLE as AGENT_VARIABLE;
pub use agent::{Agent, AgentSetup, drops, lb_agent};
pub use capture::{Capture, Captured};
pub use client::{Request, Requests};
pub use cluster::{Cluster, ClusterBuilder};
pub use cni::Cni;
pub use conntrack::forget_connections;
pub use crowd::Attendant;
pub use fabric::Fabric;
pub use flood::{Flood, Flooded, Pace};
pub use foreign::ForeignProgram;
pub use inventory::{Inventory, open_files, programs};
pub use load::{Aim, Flows, Load, Sent};
pub use mode::{MODE_VARIABLE, Mode};
pub use netns::Netns;
pub use node::Node;
pub use outside::{Client, Router};
pub use place::{Place, Site};
pub use plan::{POD_NETWORK_V4, POD_NETWORK_V6};
pub use pod::Pod;
pub use preflight::preflight;
pub use remains::{remove_dead, remove_kept, remove_lab};
pub use server::Server;
pub use traffic::{Echo, Traffic};
pub use vlan::Tag;
pub use wiring::Narrow;
