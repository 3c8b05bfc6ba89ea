//! What a fact is in a trace.

use std::time::Duration;

use crate::domain::decide::{Verdict, Wait};
use crate::domain::event::Event;
use crate::domain::integrator::Endpoint;
use crate::domain::names::{EndpointId, EventId, IntegratorKey, SourceName, Topic};
use crate::domain::reply::Outcome;
use crate::domain::time::Timestamp;
use crate::domain::trace::{SpanId, TraceId, TraceParent};
use crate::telemetry::{EventOutcome, EventRef, Fact, Receipt};

/// A span, as little as it needs to be made where it happens; names and ids are made of it later.
#[derive(Debug, Clone)]
pub struct Span {
    /// Whose span it is.
    pub of: Subject,
    /// When it began; never after its end.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// What happened.
    pub what: What,
}

/// The event of a span, and the receipt of its message.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The event's id.
    pub event: EventId,
    /// Whose it is.
    pub integrator: IntegratorKey,
    /// What it is about.
    pub topic: Topic,
    /// What the publisher has named as the parent.
    pub parent: Option<TraceParent>,
    /// What the publisher's own tracing says beside it.
    pub state: Option<String>,
    /// How the message came in.
    pub receipt: Receipt,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum What {
    /// A message was worked on, from its receipt until it was acknowledged.
    Process {
        /// Where from.
        source: SourceName,
        /// The furthest that any of its deliveries got.
        outcome: EventOutcome,
        /// Bytes of the body.
        bytes: usize,
    },
    /// A request was made.
    Attempt {
        /// The endpoint.
        endpoint: EndpointId,
        /// Its host.
        host: String,
        /// Its port.
        port: Option<u16>,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// Events in the request.
        events: usize,
        /// The status of the answer.
        status: Option<u16>,
        /// Why it failed, where it did.
        error: Option<&'static str>,
        /// What follows.
        verdict: &'static str,
    },
    /// The event, or one delivery of it, was put into the ladder.
    Wait {
        /// The endpoint, where it is one delivery.
        endpoint: Option<EndpointId>,
        /// Why.
        cause: &'static str,
    },
    /// A delivery has ended.
    Deliver {
        /// The endpoint.
        endpoint: EndpointId,
        /// How: `delivered`, `dead` or `rejected`.
        outcome: &'static str,
        /// Why, where it was not delivered.
        reason: Option<&'static str>,
        /// Attempts made, as far as they are known.
        attempts: Option<u32>,
    },
}

impl Subject {
    /// The subject of a span; `None` where the message is not in hand, or the publisher does not record the trace. Without a word of the
    /// publisher's, `ratio` decides.
    fn of(event: EventRef<'_>, ratio: f64) -> Option<Self> {
        let (whole, receipt) = (event.whole?, event.receipt?);
        let parent = parent(whole);
        let is_sampled = match parent {
            Some(parent) => parent.is_sampled,
            None => ratio >= 1.0 || TraceParent::derived(event.integrator, event.topic, event.id).0.is_within(ratio),
        };
        is_sampled.then(|| Self {
            event: event.id.clone(),
            integrator: event.integrator.clone(),
            topic: event.topic.clone(),
            parent,
            state: whole.trace.as_ref().and_then(|trace| trace.state.clone()),
            receipt,
        })
    }

    /// The trace, the parent of what happens to the event as a whole, and the span of this receipt.
    #[must_use]
    pub fn ids(&self) -> (TraceId, Option<SpanId>, SpanId) {
        match self.parent {
            Some(parent) => (parent.trace, Some(parent.span), self.receipt.span),
            None => {
                let (trace, root) = TraceParent::derived(&self.integrator, &self.topic, &self.event);
                // The first receipt is the root, which all others can name without having seen it.
                if self.receipt.due { (trace, Some(root), self.receipt.span) } else { (trace, None, root) }
            }
        }
    }

    /// The parent of a delivery: the publisher's span or, without one, the first receipt.
    #[must_use]
    pub fn root(&self) -> SpanId {
        match self.parent {
            Some(parent) => parent.span,
            None => TraceParent::derived(&self.integrator, &self.topic, &self.event).1,
        }
    }
}

fn parent(event: &Event) -> Option<TraceParent> {
    TraceParent::parse(&event.trace.as_ref()?.parent)
}

impl Span {
    /// The spans that a fact ends: none of most.
    pub fn all_of(fact: &Fact<'_>, ratio: f64, now: Timestamp) -> impl Iterator<Item = Self> + use<> {
        let [first, second] = match *fact {
            Fact::Settled { source, event: Some(event), outcome } => [Self::process(source, event, outcome, ratio, now), None],
            Fact::Attempted { event, verdict, .. } => {
                let attempt = Self::attempt(fact, ratio);
                let is_delivered = matches!(verdict, Verdict::Delivered) && attempt.is_some();
                let delivered = is_delivered.then(|| Self::delivered(fact, event, ratio, now)).flatten();
                [attempt, delivered]
            }
            Fact::Waits { event, endpoint, cause, wait, .. } => {
                let what = What::Wait { endpoint: endpoint.cloned(), cause: cause.as_str() };
                [Self::wait(event, wait, what, ratio, now), None]
            }
            Fact::DeadLettered { event, endpoint, reason, attempts, .. } => {
                let what = deliver(endpoint, "dead", Some(reason.as_str()), Some(attempts));
                [Self::deliver(event, what, ratio, now), None]
            }
            Fact::Rejected { event: Some(event), endpoint: Some(endpoint), reason, .. } => {
                [Self::deliver(event, deliver(endpoint, "rejected", Some(reason.code()), None), ratio, now), None]
            }
            _ => [None, None],
        };
        first.into_iter().chain(second)
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let names = self.of.event.as_str().len() + self.of.integrator.as_str().len() + self.of.topic.as_str().len();
        let host = if let What::Attempt { host, .. } = &self.what { host.len() } else { 0 };
        size_of::<Self>() + names + host + self.of.state.as_ref().map_or(0, String::len)
    }

    fn new(of: Subject, (start, end): (Timestamp, Timestamp), what: What) -> Self {
        // Another worker's clock may be ahead of ours.
        Self { of, start: start.min(end), end, what }
    }

    fn process(source: &SourceName, event: EventRef<'_>, outcome: EventOutcome, ratio: f64, now: Timestamp) -> Option<Self> {
        let of = Subject::of(event, ratio)?;
        let what = What::Process { source: source.clone(), outcome, bytes: event.whole.map_or(0, Event::body_len) };
        let times = (of.receipt.at, now);
        Some(Self::new(of, times, what))
    }

    fn attempt(fact: &Fact<'_>, ratio: f64) -> Option<Self> {
        let Fact::Attempted { event, endpoint, attempt, place, started_at, reply, verdict, .. } = *fact else { return None };
        let of = Subject::of(event, ratio)?;
        let is_success = matches!(reply.outcome, Outcome::Answered { status: 200..=299, .. });
        let url = endpoint.url.as_url();
        let what = What::Attempt {
            endpoint: endpoint.id.clone(),
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default(),
            attempt,
            events: place.of,
            status: reply.status(),
            error: (!is_success).then(|| reply.class()),
            verdict: verdict.as_str(),
        };
        Some(Self::new(of, (started_at, started_at.plus(reply.took)), what))
    }

    fn delivered(fact: &Fact<'_>, event: EventRef<'_>, ratio: f64, now: Timestamp) -> Option<Self> {
        let Fact::Attempted { endpoint: Endpoint { id, .. }, attempt, .. } = *fact else { return None };
        Self::deliver(event, deliver(id, "delivered", None, Some(attempt)), ratio, now)
    }

    fn deliver(event: EventRef<'_>, what: What, ratio: f64, now: Timestamp) -> Option<Self> {
        let of = Subject::of(event, ratio)?;
        let times = (of.receipt.first_at, now);
        Some(Self::new(of, times, what))
    }

    fn wait(event: EventRef<'_>, wait: Wait, what: What, ratio: f64, now: Timestamp) -> Option<Self> {
        Some(Self::new(Subject::of(event, ratio)?, (now, now.plus(wait.due_at.since(now))), what))
    }
}

fn deliver(endpoint: &EndpointId, outcome: &'static str, reason: Option<&'static str>, attempts: Option<u32>) -> What {
    What::Deliver { endpoint: endpoint.clone(), outcome, reason, attempts }
}

/// Nanoseconds since the Unix epoch, as OTLP counts.
#[must_use]
pub fn nanos(at: Timestamp) -> u64 {
    let since = at.since(Timestamp::from_millis(0));
    u64::try_from(Duration::as_nanos(&since)).unwrap_or(u64::MAX)
}
