//! One pass over a queue at a time: a second one would find it empty, as the first holds all that is there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

/// The way to a queue, within this process.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    way: Mutex<()>,
    waiting: AtomicUsize,
}

/// Waits, and is counted as long.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// For a pass of a job.
    pub(crate) async fn enter(&self) -> MutexGuard<'_, ()> {
        self.way.lock().await
    }

    /// For somebody who looks and waits for the answer; the job that is on its way makes room. `None` when it has not within `limit`.
    pub(crate) async fn visit(&self, limit: Duration) -> Option<MutexGuard<'_, ()>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        timeout(limit, self.way.lock()).await.ok()
    }

    /// Whether somebody waits to look.
    pub(crate) fn has_visitors(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}
