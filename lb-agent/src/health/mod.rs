//! What others are told about this node and this agent: load balancers, and the kubelet.
//!
//! [`Health`] is pure; everything else here answers HTTP requests out of a [`Status`], which the
//! agent's loop keeps up to date. So an agent that is busy, or stuck, still answers.

mod canary;
mod node_ports;
mod ready;
mod server;
mod state;
mod status;

pub use self::{
    canary::Canary,
    node_ports::{ListenFailure, NodePorts},
    ready::{Check, Probe, Prober, Readiness, prober},
    server::HealthSite,
    state::{Family, FamilyHealth, Health, Report},
    status::Status,
};
