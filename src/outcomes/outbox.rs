//! Where outcomes wait to be published.

use super::message::{Outcome, kind_of};
use crate::clock;
use crate::domain::outcome::OutcomeKind;
use crate::telemetry::backlog::{Backlog, Pushed, Weighed};
use crate::telemetry::{Fact, Observer, Telemetry};

/// Outcomes that wait to be published. What finds no room is left out and counted.
pub struct Outbox {
    backlog: Backlog<Outcome>,
    told: Vec<OutcomeKind>,
    telemetry: Telemetry,
}

impl Outbox {
    /// An empty one for these kinds. Losses are told through `telemetry`, which must not be observed by this outbox.
    #[must_use]
    pub fn new(told: Vec<OutcomeKind>, limit: usize, telemetry: Telemetry) -> Self {
        Self { backlog: Backlog::new(limit), told, telemetry }
    }

    pub(super) const fn backlog(&self) -> &Backlog<Outcome> {
        &self.backlog
    }

    /// An outcome that was taken is done with.
    pub(super) fn release(&self, outcome: Box<Outcome>) {
        let released = self.backlog.release(&[outcome]);
        self.telemetry.outcomes_waiting(released.held);
        if released.dropped > 0 {
            self.telemetry.record(&Fact::OutcomesDropped { outcomes: released.dropped });
        }
    }

    /// Gives up what is left, and tells how many that were with those that were left out before.
    pub(super) fn give_up(&self) {
        let (left, before) = self.backlog.give_up();
        self.telemetry.outcomes_waiting(0);
        self.telemetry.outcomes_dropped(left);
        if left + before > 0 {
            self.telemetry.record(&Fact::OutcomesDropped { outcomes: left + before });
        }
    }
}

impl Observer for Outbox {
    fn see(&self, fact: &Fact<'_>) {
        let Some(outcome) = kind_of(fact).filter(|kind| self.told.contains(kind)).and_then(|_| Outcome::of(fact, clock::now())) else {
            return;
        };
        match self.backlog.push(outcome) {
            Pushed::Waits(held) => self.telemetry.outcomes_waiting(held),
            Pushed::LeftOut { is_first } => {
                self.telemetry.outcomes_dropped(1);
                if is_first {
                    self.telemetry.record(&Fact::OutcomesFull);
                }
            }
        }
    }
}

impl Weighed for Outcome {
    fn weight(&self) -> usize {
        self.weight()
    }
}
