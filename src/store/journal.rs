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
    #[expect(clippy::vec_box, reason = "the list grows in the middle of deliveries: pointers are moved, not entries of 400 bytes")]
    entries: Vec<Box<Entry>>,
    /// Entries that are not written yet, those that were taken included, and their bytes.
    held: usize,
    bytes: usize,
    dropped: u64,
}

/// What was taken to be written.
pub(super) struct Taken {
    #[expect(clippy::vec_box, reason = "as it was held")]
    pub entries: Vec<Box<Entry>>,
    /// Entries that were left out since the last time.
    pub dropped: u64,
}

impl Journal {
    /// An empty one. Losses are told through `telemetry`, which must not be observed by this journal.
    #[must_use]
    pub fn new(kept: Kept, limit: usize, telemetry: Telemetry) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), kept, limit, telemetry }
    }

    fn push(&self, entry: Box<Entry>) {
        let weight = entry.weight();
        let mut waiting = self.lock();
        if waiting.bytes + weight > self.limit {
            drop(waiting);
            return self.leave_out();
        }
        waiting.bytes += weight;
        waiting.held += 1;
        waiting.entries.push(entry);
        let (count, held) = (waiting.entries.len(), waiting.held);
        drop(waiting);
        self.telemetry.delivery_log_waiting(held);
        // The writer looks by itself as long as there is something: a thread woken for each entry would cost more than the entry.
        if count == 1 {
            self.arrived.notify_one();
        }
    }

    fn leave_out(&self) {
        let dropped = {
            let mut waiting = self.lock();
            waiting.dropped += 1;
            waiting.dropped
        };
        self.telemetry.delivery_log_dropped(1);
        if dropped == 1 {
            self.telemetry.record(&Fact::DeliveryLogFull);
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
        Taken { entries: mem::take(&mut waiting.entries), dropped: mem::take(&mut waiting.dropped) }
    }

    /// So many entries, of so many bytes, are written, or given up.
    pub(super) fn released(&self, entries: usize, bytes: usize) {
        let mut waiting = self.lock();
        waiting.held = waiting.held.saturating_sub(entries);
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        self.telemetry.delivery_log_waiting(waiting.held);
    }

    /// Whether there is room for the least of entries. To be asked before an entry is made, which takes a look at its event.
    fn has_room(&self) -> bool {
        self.lock().bytes + size_of::<Entry>() <= self.limit
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Journal {
    fn see(&self, fact: &Fact<'_>) {
        if !Entry::is_made_of(fact) {
            return;
        }
        if !self.has_room() {
            return self.leave_out();
        }
        if let Some(entry) = Entry::of(fact, &self.kept, clock::now()) {
            self.push(Box::new(entry));
        }
    }
}
