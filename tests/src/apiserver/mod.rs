//! An API server to test against.

pub mod store;
