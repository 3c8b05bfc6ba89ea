//! Where outcomes wait to be published: bounded, and never waited for.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::message::{Outcome, kind_of};
use crate::clock;
use crate::domain::outcome::OutcomeKind;
use crate::telemetry::{Fact, Observer, Telemetry};

/// Outcomes that wait to be published. What finds no room is left out and counted.
pub struct Outbox {
    waiting: Mutex<Waiting>,
    /// Told when the first outcome comes after none were there.
    arrived: Notify,
    told: Vec<OutcomeKind>,
    /// Bytes that outcomes may take, those that are just being published included.
    limit: usize,
    telemetry: Telemetry,
}

#[derive(Default)]
struct Waiting {
    outcomes: VecDeque<Box<Outcome>>,
    /// Outcomes that are not published yet, those that were taken included, and their bytes.
    held: usize,
    bytes: usize,
    /// Left out since something was published last.
    dropped: u64,
}

impl Outbox {
    /// An empty one for these kinds. Losses are told through `telemetry`, which must not be observed by this outbox.
    #[must_use]
    pub fn new(told: Vec<OutcomeKind>, limit: usize, telemetry: Telemetry) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), told, limit, telemetry }
    }

    fn push(&self, outcome: Box<Outcome>) {
        let weight = outcome.weight();
        let mut waiting = self.lock();
        if waiting.bytes + weight > self.limit {
            waiting.dropped += 1;
            let dropped = waiting.dropped;
            drop(waiting);
            return self.tell_dropped(dropped);
        }
        waiting.bytes += weight;
        waiting.held += 1;
        waiting.outcomes.push_back(outcome);
        let (count, held) = (waiting.outcomes.len(), waiting.held);
        drop(waiting);
        self.telemetry.outcomes_waiting(held);
        // The sender looks by itself as long as there is something: a thread woken for each outcome would cost more than the outcome.
        if count == 1 {
            self.arrived.notify_one();
        }
    }

    fn tell_dropped(&self, dropped: u64) {
        self.telemetry.outcomes_dropped(1);
        if dropped == 1 {
            self.telemetry.record(&Fact::OutcomesFull);
        }
    }

    /// Waits until there is something to publish. Nothing is lost when it is not waited for to the end.
    pub(super) async fn arrived(&self) {
        while self.lock().outcomes.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Takes the oldest. Its bytes count until [`Self::released`].
    pub(super) fn take(&self) -> Option<Box<Outcome>> {
        self.lock().outcomes.pop_front()
    }

    /// Puts back what was taken and not published.
    pub(super) fn put_back(&self, outcome: Box<Outcome>) {
        self.lock().outcomes.push_front(outcome);
        self.arrived.notify_one();
    }

    /// An outcome that was taken is done with. Returns how many were left out since the last time, where that is not to go on: there is
    /// room again.
    pub(super) fn released(&self, outcome: &Outcome) -> u64 {
        let mut waiting = self.lock();
        waiting.held = waiting.held.saturating_sub(1);
        waiting.bytes = waiting.bytes.saturating_sub(outcome.weight());
        self.telemetry.outcomes_waiting(waiting.held);
        // Half of it, or each outcome that makes room for the next one would be an episode of its own.
        if waiting.bytes <= self.limit / 2 { std::mem::take(&mut waiting.dropped) } else { 0 }
    }

    /// Gives up what is left and returns how many that were, those that were left out before included.
    pub(super) fn give_up(&self) -> u64 {
        let mut waiting = self.lock();
        let Waiting { held, dropped, .. } = std::mem::take(&mut *waiting);
        drop(waiting);
        self.telemetry.outcomes_waiting(0);
        self.telemetry.outcomes_dropped(held as u64);
        held as u64 + dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().held == 0
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Outbox {
    fn see(&self, fact: &Fact<'_>) {
        let Some(kind) = kind_of(fact) else { return };
        if self.told.contains(&kind)
            && let Some(outcome) = Outcome::of(fact, clock::now())
        {
            self.push(Box::new(outcome));
        }
    }
}
