//! One message in our hands, and what it takes to acknowledge it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lapin::BasicProperties;
use tokio_util::sync::CancellationToken;

use crate::broker::headers::Trust;
use crate::broker::{Claim, Proof, Weight};
use crate::config::Source;
use crate::domain::event::Event;
use crate::domain::history::History;
use crate::telemetry::{EventOutcome, EventRef, Fact, Telemetry};

/// A message as it came in, as far as a copy of it needs to be made.
pub(super) struct Original {
    pub source: Arc<Source>,
    /// It comes from the queue of retries that are due.
    pub due: bool,
    pub properties: BasicProperties,
    pub exchange: String,
    pub routing_key: String,
    pub body: Bytes,
    /// Counts it among the messages in our hands.
    pub held: Held,
}

impl Original {
    /// Who wrote its `x-callback-*` headers.
    pub(super) const fn trust(&self) -> Trust {
        if self.due { Trust::Ours } else { Trust::Foreign }
    }
}

/// A message that is an event, with its past and the right to settle it.
pub(super) type Message = (Original, Event, History, Claim);

/// Counts a message in our hands, and what it weighs there, from its receipt until nothing of it is left.
pub(super) struct Held {
    telemetry: Telemetry,
    weight: Weight,
}

impl Held {
    pub(super) fn new(telemetry: &Telemetry, weight: Weight) -> Self {
        telemetry.held_add(1);
        Self { telemetry: telemetry.clone(), weight }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.telemetry.held_sub(1);
    }
}

/// An event in our hands, shared by its deliveries.
pub(super) struct Parcel {
    pub original: Original,
    pub event: Event,
    pub history: History,
    /// Ends when the broker will deliver the message again, whatever we do.
    over: CancellationToken,
    /// One of its deliveries is being made or has been made: given back whole, the event would be told twice there.
    begun: AtomicBool,
    state: Mutex<State>,
    telemetry: Telemetry,
}

struct State {
    claim: Option<Claim>,
    open: usize,
    outcome: EventOutcome,
}

/// One delivery's part in a message. The message is acknowledged when every stake in it has been settled, each with proof. A
/// stake that is dropped instead leaves the message unacknowledged: the broker delivers it again when the session ends.
#[must_use = "an event whose stake is dropped comes again"]
pub(super) struct Stake(Arc<Parcel>);

impl Parcel {
    /// Takes charge of a message on behalf of so many deliveries, one stake for each.
    pub(super) fn split(mut message: Message, stakes: usize, telemetry: &Telemetry) -> Vec<Stake> {
        message.0.held.weight.for_deliveries(stakes);
        let parcel = Self::take(message, stakes, telemetry);
        (0..stakes).map(|_| Stake(Arc::clone(&parcel))).collect()
    }

    /// Takes charge of a message as one piece.
    pub(super) fn whole(message: Message, telemetry: &Telemetry) -> Stake {
        Stake(Self::take(message, 1, telemetry))
    }

    fn take((original, event, history, claim): Message, open: usize, telemetry: &Telemetry) -> Arc<Self> {
        let over = claim.over();
        let state = Mutex::new(State { claim: Some(claim), open, outcome: EventOutcome::Skipped });
        Arc::new(Self { original, event, history, over, begun: AtomicBool::new(false), state, telemetry: telemetry.clone() })
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

impl Stake {
    pub(super) fn parcel(&self) -> &Parcel {
        &self.0
    }

    /// Notes that an attempt for this event starts.
    pub(super) fn begin(&self) {
        self.0.begun.store(true, Ordering::Relaxed);
    }

    /// Whether an attempt for this event has started, at this endpoint or at another one.
    pub(super) fn is_begun(&self) -> bool {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// Settles this delivery; the last one of a message acknowledges it.
    pub(super) fn settle(self, proof: Proof, outcome: EventOutcome) {
        let parcel = &*self.0;
        let mut state = parcel.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open = state.open.saturating_sub(1);
        state.outcome = state.outcome.max(outcome);
        if state.open > 0 {
            return;
        }
        if let Some(claim) = state.claim.take() {
            claim.settle(proof);
            let (source, event) = (&parcel.original.source.name, Some(parcel.event_ref()));
            parcel.telemetry.record(&Fact::Settled { source, event, outcome: state.outcome });
        }
    }

    /// Leaves the whole message to the broker, which moves it to the rejected: no copy of it can be made. Deliveries of it that
    /// are still open then settle nothing.
    pub(super) fn reject(self) {
        let claim = self.0.state.lock().unwrap_or_else(PoisonError::into_inner).claim.take();
        if let Some(claim) = claim {
            claim.reject();
        }
    }
}
