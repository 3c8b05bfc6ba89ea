//! Where entries wait for the database: bounded, and never waited for.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::entry::{Entry, Kept};
use crate::clock;
use crate::telemetry::{Fact, Observer, Telemetry};

/// Entries that wait to be written. What finds no room is left out and counted.
pub struct Journal {
    waiting: Mutex<Waiting>,
    /// Told when the first entry comes after none were there.
    arrived: Notify,
    kept: Kept,
    /// Bytes that entries may take, those that are just being written included.
    limit: usize,
    telemetry: Telemetry,
}

#[derive(Default)]
struct Waiting {
    entries: Vec<Entry>,
    bytes: usize,
    dropped: u64,
}

/// What was taken to be written.
pub(super) struct Taken {
    pub entries: Vec<Entry>,
    /// Entries that were left out since the last time.
    pub dropped: u64,
}

impl Journal {
    /// An empty one. Losses are told through `telemetry`, which must not be observed by this journal.
    #[must_use]
    pub fn new(kept: Kept, limit: usize, telemetry: Telemetry) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), kept, limit, telemetry }
    }

    fn push(&self, entry: Entry) {
        let weight = entry.weight();
        let mut waiting = self.lock();
        if waiting.bytes + weight > self.limit {
            waiting.dropped += 1;
            let is_news = waiting.dropped == 1;
            drop(waiting);
            self.telemetry.delivery_log_dropped();
            if is_news {
                self.telemetry.record(&Fact::DeliveryLogFull);
            }
            return;
        }
        waiting.bytes += weight;
        waiting.entries.push(entry);
        let count = waiting.entries.len();
        drop(waiting);
        // The writer looks by itself as long as there is something: a thread woken for each entry would cost more than the entry.
        if count == 1 {
            self.arrived.notify_one();
        }
    }

    /// Waits until there is something to write. Nothing is lost when it is not waited for to the end.
    pub(super) async fn arrived(&self) {
        while self.lock().entries.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Takes what waits. Its bytes count until [`Self::released`].
    pub(super) fn take(&self) -> Taken {
        let mut waiting = self.lock();
        self.telemetry.delivery_log_waiting(waiting.entries.len());
        Taken { entries: mem::take(&mut waiting.entries), dropped: mem::take(&mut waiting.dropped) }
    }

    /// Entries of so many bytes are written, or given up.
    pub(super) fn released(&self, bytes: usize) {
        let mut waiting = self.lock();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        self.telemetry.delivery_log_waiting(waiting.entries.len());
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Journal {
    fn see(&self, fact: &Fact<'_>) {
        if let Some(entry) = Entry::of(fact, &self.kept, clock::now()) {
            self.push(entry);
        }
    }
}
