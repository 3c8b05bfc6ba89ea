//! Whether the thread that delivers still runs, for whoever is asked on another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often it beats.
const BEAT: Duration = Duration::from_secs(1);

/// A sign of life. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct Pulse {
    epoch: Instant,
    /// Milliseconds after the epoch of the latest beat.
    latest: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { epoch: Instant::now(), latest: Arc::default() }
    }
}

impl Pulse {
    /// Beats for ever. Runs among all other work of its thread, so that it stops when that does.
    pub async fn beat(self) {
        loop {
            self.latest.store(self.now(), Ordering::Relaxed);
            tokio::time::sleep(BEAT).await;
        }
    }

    /// How long ago the latest beat was.
    #[must_use]
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.latest.load(Ordering::Relaxed)))
    }

    /// As if it had not beaten for so long.
    #[cfg(test)]
    pub(crate) fn silent_for(mut self, silence: Duration) -> Self {
        self.epoch = self.epoch.checked_sub(silence).unwrap_or(self.epoch);
        self
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
