//! What Services mean (SEMANTICS.md), item by item, with real sockets and real packets.

mod affinity;
mod endpoints;
mod frontends;
mod nothing;
mod ranges;
mod source;
mod world;
