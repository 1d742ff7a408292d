//! The lab: clusters out of network namespaces, and what tests need in them.
//!
//! [`tool`] is what runs inside of it: small servers and clients that say who answered
//! whom, and which addresses each of them saw.

pub mod tool;
