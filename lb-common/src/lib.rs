//! What the kernel programs and the agent share.
//!
//! Everything here is pure: no system call, no clock, no randomness, no `unsafe`. The kernel
//! programs of `lb-ebpf` supply packets and maps through the traits of [`packet`] and [`path`];
//! the tests of this crate supply the same on the host.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

#[cfg(any(test, feature = "alloc"))]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod addr;
pub mod addresses;
pub mod answer;
pub mod backend;
pub mod checksum;
pub mod client;
pub mod config;
pub mod counter;
pub mod drops;
pub mod flow;
pub mod fragment;
pub mod frontend;
pub mod hash;
pub mod interface;
pub mod known;
#[cfg(any(test, feature = "alloc"))]
pub mod maglev;
pub mod maps;
pub mod packet;
pub mod path;
pub mod protocol;
pub mod rewrite;
pub mod select;
pub mod socket;
pub mod tuple;
pub mod vip;
pub mod ways;
pub mod wire;

pub use self::{
    addr::Addr,
    backend::{Backend, BackendRef, BackendState, Slot},
    client::{Affinity, AffinityKey, SourceRange},
    config::DatapathConfig,
    counter::Counter,
    drops::DropKey,
    flow::{Flow, FlowKey, Hop, Phase, Pin, PinKey},
    fragment::{FragmentKey, Fragments, Held, HeldKey},
    frontend::{Extent, Frontend, FrontendKey},
    interface::{Interface, Role},
    protocol::Protocol,
    tuple::Tuple,
    vip::{ServiceNet, ServiceNets, Vip},
};
