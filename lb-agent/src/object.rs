//! The compiled kernel programs (ELF), as the build script left them.

/// What the agent loads and attaches.
pub static LB: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb"));

/// What only the test lab attaches.
pub static LAB: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lab"));
