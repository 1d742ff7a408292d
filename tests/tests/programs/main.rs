//! The kernel programs, packet by packet (`BPF_PROG_TEST_RUN`). Needs root.
//!
//! After each packet a test says the verdict, the frame byte for byte, and which counters moved;
//! see [`lb_tests::programs`].

mod behind;
mod chosen;
mod conflicts;
mod datagrams;
mod distribution;
mod drops;
mod edge;
mod errors;
mod established;
mod established_outside;
mod flows;
mod fuzz;
mod inside;
mod introspection;
mod kept;
mod limited;
mod opening;
mod outside;
mod pieces;
mod routes;
mod snat;
mod together;
mod untouched;
mod ways;
mod within;
