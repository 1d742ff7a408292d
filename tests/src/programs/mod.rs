//! Runs the kernel programs on packets in memory (`BPF_PROG_TEST_RUN`).
//!
//! The [`Bench`] is a node without neighbours: a network namespace with an uplink, a pod's veth
//! and a tunnel, whose routing table answers as on a real node. The programs' tables are filled
//! as the agent fills them: from a model, by its own reconciler.

mod addresses;
mod answer;
mod behind;
mod bench;
mod case;
mod devices;
mod driven;
mod drops;
mod frame;
mod icmp;
mod kernel;
mod known;
mod opening;
mod packet;
mod pins;
mod run;
mod service;
mod store;

pub use addresses::Family;
pub use answer::Answer;
pub use bench::{Bench, FLOWS_MAX, on_bench, on_own_bench, specs};
pub use case::{Case, each_case, each_case_on_the_wire};
pub use devices::{BEHIND_MAC, GATEWAY_MAC, NODE2_MAC, TUNNEL_MAC, UPLINK_MAC};
pub(crate) use driven::{create_map, set_program};
pub use frame::Frame;
pub use icmp::IcmpError;
pub use kernel::Kernel;
pub use opening::on_bench_with_opening;
pub(crate) use packet::ends;
pub use packet::{Packet, SEQUENCE, Transport};
pub use run::{Program, Run, Verdict};
pub use service::{BACKEND_PORT, Pod, SERVICE_PORT, Service, model};
