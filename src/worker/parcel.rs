//! One message in our hands, and what it takes to acknowledge it.

use std::sync::{Arc, Mutex, PoisonError};

use lapin::BasicProperties;
use tokio_util::sync::CancellationToken;

use crate::broker::{Claim, Proof};
use crate::config::Source;
use crate::domain::event::Event;
use crate::domain::history::History;
use crate::telemetry::{EventOutcome, EventRef, Fact, Telemetry};

/// A message as it came in, as far as a copy of it needs to be made.
#[derive(Debug)]
pub(super) struct Original {
    pub source: Arc<Source>,
    /// It comes from the queue of retries that are due.
    pub due: bool,
    pub properties: BasicProperties,
    pub exchange: String,
    pub routing_key: String,
    pub body: bytes::Bytes,
}

/// An event in our hands. It is acknowledged when each of its deliveries has been settled with proof; if one of them is
/// dropped instead, the message stays unacknowledged and the broker delivers it again.
#[derive(Debug)]
pub(super) struct Parcel {
    pub original: Original,
    pub event: Event,
    pub history: History,
    /// Ends when the broker will deliver the message again, whatever we do.
    over: CancellationToken,
    state: Mutex<State>,
    telemetry: Telemetry,
}

#[derive(Debug)]
struct State {
    claim: Option<Claim>,
    open: usize,
    outcome: EventOutcome,
}

impl Parcel {
    /// `deliveries` counts the settlements that it takes.
    pub(super) fn new(
        original: Original,
        event: Event,
        history: History,
        claim: Claim,
        (deliveries, telemetry): (usize, &Telemetry),
    ) -> Arc<Self> {
        telemetry.held_add(1);
        Arc::new(Self {
            original,
            event,
            history,
            over: claim.over(),
            state: Mutex::new(State { claim: Some(claim), open: deliveries, outcome: EventOutcome::Skipped }),
            telemetry: telemetry.clone(),
        })
    }

    /// Settles one of the deliveries; the last one acknowledges the message.
    pub(super) fn settle(&self, proof: Proof, outcome: EventOutcome) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open = state.open.saturating_sub(1);
        state.outcome = state.outcome.max(outcome);
        if state.open > 0 {
            return;
        }
        if let Some(claim) = state.claim.take() {
            claim.settle(proof);
            self.telemetry.record(&Fact::Settled {
                source: &self.original.source.name,
                event: Some(self.event_ref()),
                outcome: state.outcome,
            });
        }
    }

    /// Cancelled when the broker will deliver the message again, so that work on it is wasted.
    pub(super) const fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// The event as logs name it.
    pub(super) const fn event_ref(&self) -> EventRef<'_> {
        EventRef { id: &self.event.id, integrator: &self.event.integrator, topic: &self.event.topic }
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.telemetry.held_sub(1);
    }
}
