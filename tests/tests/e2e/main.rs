//! The life of a packet (DESIGN.md, section 3), through real sockets: agents on the nodes of a lab.

mod demo;
mod health;
mod http;
mod kubernetes;
mod lifecycle;
mod perf;
mod scene;
mod semantics;
mod walks;
