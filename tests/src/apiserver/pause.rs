//! Waiting, where waiting is what is asked for.

use std::time::Duration;

/// Waits.
pub(super) async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
