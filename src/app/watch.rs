//! `watch_config`: the configuration file's change, taken up by itself.
//!
//! Editors put a new file in the place of the old one, and Kubernetes swaps a symlink beside it, so it
//! is the directories that are watched: the file's own, and the one it really is in. What counts is
//! whether the bytes are others than before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::reload::Reloader;

/// A file that is watched.
pub(super) struct Watch {
    file: PathBuf,
    watcher: RecommendedWatcher,
    /// Directories that are watched.
    watched: Vec<PathBuf>,
    stirred: Arc<Notify>,
    /// Of the file as it was last read.
    seen: Option<[u8; 32]>,
}

// === impl Watch ===

impl Watch {
    /// Begins to watch the directory of `file`, which must be there.
    pub(super) fn begin(file: &Path) -> notify::Result<Self> {
        let stirred = Arc::new(Notify::new());
        let told = stirred.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may stand for events that were lost.
            if event.map_or(true, |event| is_change(event.kind)) {
                told.notify_one();
            }
        })?;
        let mut watch = Self {
            file: file.to_owned(),
            watcher,
            watched: Vec::new(),
            stirred,
            seen: fingerprint(file).ok(),
        };
        let own = directory(file);
        watch.watcher.watch(&own, RecursiveMode::NonRecursive)?;
        watch.watched.push(own);
        watch.follow_links();
        Ok(watch)
    }

    /// Reloads whenever the file has become another one. Never ends.
    pub(super) async fn run(mut self, reloader: Arc<Reloader>) {
        loop {
            self.stirred.notified().await;
            self.settle().await;
            self.follow_links();
            // One that is gone will come back, or its owner hears of it at the next reload.
            let Ok(now) = fingerprint(&self.file) else {
                warn!(file = %self.file.display(), "the configuration file is gone or cannot be read; everything stays as it was");
                continue;
            };
            if self.seen.replace(now) != Some(now) {
                info!(file = %self.file.display(), "the configuration file has changed");
                // The log and the metrics tell how it went.
                let _ = reloader.reload().await;
            }
        }
    }

    /// Waits until whoever writes has done so: a moment without a change, though not for ever.
    async fn settle(&self) {
        let end = Instant::now() + PATIENCE;
        while timeout_at(end, timeout(QUIET, self.stirred.notified()))
            .await
            .is_ok_and(|stirred| stirred.is_ok())
        {}
    }

    /// Watches the directory that the file really is in, too.
    fn follow_links(&mut self) {
        let Ok(real) = self.file.canonicalize() else {
            return;
        };
        let real = directory(&real);
        let own = self.watched[0].clone();
        let wanted = match own.canonicalize() {
            Ok(canonical) if canonical == real => None,
            _ => Some(real),
        };
        // A directory that went has taken its watch along; one that came may bear the same name.
        for before in self.watched.drain(1..) {
            let _ = self.watcher.unwatch(&before);
        }
        if let Some(real) = wanted
            && self
                .watcher
                .watch(&real, RecursiveMode::NonRecursive)
                .is_ok()
        {
            self.watched.push(real);
        }
    }
}

/// Our own reading of the file is an event, too.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Of the bytes: the text holds secrets and is not kept.
fn fingerprint(file: &Path) -> io::Result<[u8; 32]> {
    std::fs::read(file).map(|bytes| Sha256::digest(bytes).into())
}

const QUIET: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(2);
