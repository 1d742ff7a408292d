//! The kernel programs, packet by packet (`BPF_PROG_TEST_RUN`). Needs root.
//!
//! After each packet a test says the verdict, the frame byte for byte, and which counters moved;
//! see [`lb_tests::programs`].

mod chosen;
mod conflicts;
mod distribution;
mod flows;
mod inside;
mod introspection;
mod outside;
mod untouched;
