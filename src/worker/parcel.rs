//! One message in our hands, and what it takes to acknowledge it.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;
use tokio_util::sync::CancellationToken;

use crate::broker::headers::Trust;
use crate::broker::{Claim, Proof, Weight};
use crate::config::Source;
use crate::domain::event::Event;
use crate::domain::history::History;
use crate::telemetry::{EventOutcome, EventRef, Fact, Receipt, Telemetry};

/// A message as it came in, as far as a copy of it needs to be made.
pub(super) struct Original {
    pub source: Arc<Source>,
    /// It comes from the queue of retries that are due.
    pub due: bool,
    pub properties: BasicProperties,
    pub exchange: ShortString,
    pub routing_key: ShortString,
    pub body: Bytes,
    /// How it came in.
    pub receipt: Receipt,
    /// Counts it among the messages in our hands.
    pub held: Held,
}

impl Original {
    /// AMQP `message_id`.
    pub(super) fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(ShortString::as_str)
    }

    /// Who wrote its `x-callback-*` headers.
    pub(super) const fn trust(&self) -> Trust {
        if self.due { Trust::Ours } else { Trust::Foreign }
    }
}

/// A message that is an event, with its past and the right to settle it.
pub(super) type Message = (Original, Event, History, Claim);

/// The prefetch window of one queue: so many messages at most, and how many of them are in our hands.
pub(super) struct Window {
    size: NonZeroU16,
    held: AtomicUsize,
    telemetry: Telemetry,
}

impl Window {
    pub(super) fn new(size: NonZeroU16, telemetry: &Telemetry) -> Arc<Self> {
        Arc::new(Self { size, held: AtomicUsize::new(0), telemetry: telemetry.clone() })
    }
}

/// Counts a message in our hands, and what it weighs there, from its receipt until nothing of it is left.
pub(super) struct Held {
    window: Arc<Window>,
    weight: Weight,
}

impl Held {
    pub(super) fn new(window: &Arc<Window>, weight: Weight) -> Self {
        window.held.fetch_add(1, Ordering::Relaxed);
        window.telemetry.held_add(1);
        Self { window: Arc::clone(window), weight }
    }

    /// Messages that its window may hold at one time, and how many like the others it still has room for: by their number,
    /// and by what they weigh.
    pub(super) fn window(&self) -> (usize, usize) {
        let size = usize::from(self.window.size.get());
        let by_weight = size * usize::from(self.weight.free_percent()) / 100;
        (size, size.saturating_sub(self.window.held.load(Ordering::Relaxed)).min(by_weight))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.window.held.fetch_sub(1, Ordering::Relaxed);
        self.window.telemetry.held_sub(1);
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
    pub(super) fn split(mut message: Message, stakes: usize, telemetry: &Telemetry) -> impl Iterator<Item = Stake> {
        message.0.held.weight.for_deliveries(stakes);
        let parcel = Self::take(message, stakes, telemetry);
        std::iter::repeat_n(parcel, stakes).map(Stake)
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
        EventRef::received(&self.event, self.original.receipt)
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
