//! Notices that manifests may have changed.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{sync::Notify, time};
use tracing::{debug, warn};

/// Manifests are read again this often, whatever the kernel reports: network file systems report
/// nothing, and a symbolic link further up the path can change unseen.
const RELIST: Duration = Duration::from_secs(10);
/// … and this often if the kernel cannot be asked to report.
const POLL: Duration = Duration::from_secs(1);

/// A watch over the directories that hold manifests.
pub(super) struct Watch {
    path: PathBuf,
    changes: Arc<Notify>,
    /// `None` if the kernel has no watch left for us.
    watcher: Option<RecommendedWatcher>,
    armed: BTreeSet<PathBuf>,
}

impl Watch {
    /// A watch for `path`, a file or a directory; [`arm`](Self::arm) starts it.
    pub(super) fn new(path: &Path) -> Self {
        let changes = Arc::new(Notify::new());
        let notify = changes.clone();
        // The directory's own parent is watched for the directory only.
        let sibling_of = path.is_dir().then(|| path.to_owned());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| concerns(&event, sibling_of.as_deref())) {
                notify.notify_one();
            }
        });
        Self {
            path: path.to_owned(),
            changes,
            watcher: watcher
                .inspect_err(|error| warn!("manifests are polled, they cannot be watched: {error}"))
                .ok(),
            armed: BTreeSet::new(),
        }
    }

    /// Watches `path`'s directory, the path itself if it is one, and `directories`.
    ///
    /// A directory may be another one under the same name by now, so each is watched anew.
    pub(super) fn arm(&mut self, directories: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for directory in &self.armed {
            // Fails if the directory is gone, and its watch with it.
            let _gone = watcher.unwatch(directory);
        }
        let mut wanted: BTreeSet<PathBuf> = directories.iter().cloned().collect();
        wanted.extend(self.path.parent().map(Path::to_owned));
        if self.path.is_dir() {
            wanted.insert(self.path.clone());
        }
        for directory in &wanted {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                debug!("watch {}: {error}", directory.display());
            }
        }
        self.armed = wanted;
    }

    /// Waits for a change, or for the time to look without one.
    pub(super) async fn changed(&self) {
        let period = if self.watcher.is_some() { RELIST } else { POLL };
        let _elapsed = time::timeout(period, self.notified()).await;
    }

    /// Waits for a change.
    pub(super) async fn notified(&self) {
        self.changes.notified().await;
    }
}

/// Whether an event may mean other manifests. Our own reading must not, or it would never end.
fn concerns(event: &Event, directory: Option<&Path>) -> bool {
    let is_change = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    };
    let is_sibling = |path: &PathBuf| {
        directory.is_some_and(|directory| path != directory && path.parent() == directory.parent())
    };
    is_change && (event.paths.is_empty() || !event.paths.iter().all(is_sibling))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn reading_is_no_change_and_writing_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, "a").unwrap();
        for path in [directory.path(), &file] {
            let mut watch = Watch::new(path);
            watch.arm(&[]);
            fs::read_dir(directory.path()).unwrap().count();
            fs::read_to_string(&file).unwrap();
            let quiet = time::timeout(Duration::from_millis(200), watch.notified()).await;
            assert!(quiet.is_err(), "its own reading wakes it");
            fs::write(&file, "b").unwrap();
            let noticed = time::timeout(Duration::from_secs(5), watch.notified()).await;
            assert!(noticed.is_ok(), "{} was written", path.display());
        }
    }

    #[tokio::test]
    async fn what_stands_beside_a_directory_is_no_change() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("manifests");
        fs::create_dir(&directory).unwrap();
        let mut watch = Watch::new(&directory);
        watch.arm(&[]);
        fs::write(parent.path().join("other"), "x").unwrap();
        let quiet = time::timeout(Duration::from_millis(200), watch.notified()).await;
        assert!(quiet.is_err());
        fs::rename(&directory, parent.path().join("gone")).unwrap();
        let noticed = time::timeout(Duration::from_secs(5), watch.notified()).await;
        assert!(noticed.is_ok());
    }
}
