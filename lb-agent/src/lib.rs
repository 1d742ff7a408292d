//! The agent: reads Services and endpoints, fills the maps of the kernel programs.
//!
//! `source` → [`model`] → `desired` → `reconcile` → [`dataplane`]; see `ARCHITECTURE.md`.
#![warn(missing_docs)]

pub mod agent;
pub mod cli;
pub mod dataplane;
pub mod desired;
pub mod event;
pub mod health;
pub mod http;
pub mod interfaces;
pub mod metrics;
pub mod model;
pub mod object;
mod pace;
pub mod reconcile;
pub mod report;
pub mod source;
