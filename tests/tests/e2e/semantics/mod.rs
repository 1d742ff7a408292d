//! What Services mean (SEMANTICS.md), item by item, with real sockets and real packets.

mod affinity;
mod drops;
mod endpoints;
mod frontends;
mod hosts;
mod leaving;
mod nothing;
mod ranges;
mod service;
mod source;
mod world;
