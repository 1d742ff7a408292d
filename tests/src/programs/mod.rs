//! Runs the kernel programs on packets in memory (`BPF_PROG_TEST_RUN`).
//!
//! The [`Bench`] is a node without neighbours: a network namespace with an uplink, a pod's veth
//! and a tunnel, whose routing table answers as on a real node. The programs' tables are filled
//! as the agent fills them: from a model, by its own reconciler.

mod addresses;
mod answer;
mod bench;
mod case;
mod devices;
mod packet;
mod service;
mod store;

pub use addresses::Family;
pub use answer::Answer;
pub use bench::{Bench, Program, Run, Verdict, on_bench, specs};
pub use case::{Case, each_case, each_case_on_the_wire};
pub use devices::{GATEWAY_MAC, NODE2_MAC, UPLINK_MAC};
pub use packet::{Packet, Transport};
pub use service::{BACKEND_PORT, Pod, SERVICE_PORT, Service, model};
