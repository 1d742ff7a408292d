//! How the server behaves where servers differ.

use std::time::Duration;

/// How a client is told that a version has been forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// By an event of the watch.
    InStream,
    /// By the status of the answer.
    Status,
}

/// How the server behaves where servers differ by version and configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// How often a watch has a bookmark.
    pub bookmark_interval: Duration,
    /// How long a watch lasts at most.
    pub watch_timeout: Duration,
    /// Whether a watch may begin with a list (the feature gate `WatchList`).
    pub has_streaming_lists: bool,
    /// How a watch is told that its version has been forgotten.
    pub gone: Gone,
    /// Answers from this length on are compressed, if the client can read that.
    pub gzip_from: usize,
    /// Whether watches are compressed too, event by event, as from Kubernetes 1.37 on.
    pub has_gzip_watches: bool,
    /// After how long a deleted pod that runs on a node is gone; `None` waits until somebody
    /// deletes it with a grace period of 0.
    pub pod_removal: Option<Duration>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            bookmark_interval: Duration::from_secs(5),
            watch_timeout: Duration::from_secs(30 * 60),
            has_streaming_lists: true,
            gone: Gone::InStream,
            gzip_from: 128 * 1024,
            has_gzip_watches: false,
            pod_removal: Some(Duration::ZERO),
        }
    }
}
