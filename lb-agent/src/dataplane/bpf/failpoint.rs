//! Ends the process between two operations on maps or links, for tests of what is left then.
//!
//! Only with the feature `failpoints`: `LB_FAILPOINT=7` kills the process before its seventh
//! operation.

/// An operation is about to be done.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(super) fn pass() {}

/// An operation is about to be done.
#[cfg(feature = "failpoints")]
pub(super) fn pass() {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    use nix::sys::signal::{Signal, raise};

    static LAST: LazyLock<Option<u64>> =
        LazyLock::new(|| std::env::var("LB_FAILPOINT").ok()?.parse().ok());
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let number = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    if *LAST == Some(number) {
        // Nothing comes after it.
        let _killed = raise(Signal::SIGKILL);
    }
}
