//! The life of a packet (DESIGN.md, section 3), through real sockets: agents on the nodes of a lab.

mod bridge;
mod carry;
mod demo;
mod health;
mod http;
mod known;
mod kubernetes;
mod lifecycle;
mod mode;
mod perf;
mod privileges;
mod semantics;
mod shapes;
mod snat;
mod walks;
