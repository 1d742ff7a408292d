//! The agent: reads Services and endpoints, fills the maps of the kernel programs.
//!
//! `source` → [`model`] → `desired` → `reconcile` → [`dataplane`]; see `ARCHITECTURE.md`.
#![warn(missing_docs)]

pub mod agent;
pub mod cli;
pub mod dataplane;
pub mod desired;
pub mod drops;
pub mod event;
pub mod flat;
pub mod harden;
pub mod health;
pub mod http;
pub mod interfaces;
pub mod kube_proxy;
pub mod metrics;
pub mod model;
pub mod object;
mod pace;
pub mod preflight;
pub mod reconcile;
pub mod report;
mod sockets;
pub mod source;
