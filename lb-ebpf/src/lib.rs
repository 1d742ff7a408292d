//! The kernel programs; see `main.rs`. This library is empty: it lets `lb-agent` depend on the
//! package, so that cargo rebuilds the programs when they change.
#![no_std]
