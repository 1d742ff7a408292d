//! The lab: clusters out of network namespaces, and what tests need in them.
//!
//! [`lab`] builds a cluster (nodes, pods, an outside network) on the machine at
//! hand; [`tool`] is what runs inside of it: small servers and clients that say who
//! answered whom, and which addresses each of them saw. [`programs`] runs the kernel
//! programs on single packets; [`demo`] shows the main job; [`perf`] measures; [`scene`] is a cluster
//! with a Service and agents.

pub mod apiserver;
pub mod demo;
pub mod dial;
pub mod fuzz;
pub mod lab;
mod mapped;
pub mod model;
pub mod perf;
pub mod programs;
pub mod scene;
pub mod tool;
pub mod ways;
