//! The end, in order: no new connections, no new requests, then what is left gets `limits.drain`.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Everything that must come to an end before the process does.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    ending: CancellationToken,
    tasks: TaskTracker,
}

// === impl Drain ===

impl Drain {
    /// Runs `task` as one of those to wait for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Ends when the end has begun.
    pub async fn begun(&self) {
        self.ending.cancelled().await;
    }

    pub fn has_begun(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Begins the end.
    pub fn begin(&self) {
        self.ending.cancel();
    }

    /// Begins the end and waits for it; answers whether everything came to its own end within `limit`.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.begin();
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }
}
