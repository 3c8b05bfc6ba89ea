//! An event: what the platform says happened, for one integrator.

use std::fmt::{self, Write as _};
use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::names::{EndpointId, EventId, IntegratorKey, Topic};
use super::time::Timestamp;

/// One thing that happened, for one integrator, with the bytes it came in.
#[derive(Clone)]
pub struct Event {
    /// Stable over every copy of the event.
    pub id: EventId,
    /// Whom to tell.
    pub integrator: IntegratorKey,
    /// What it is about.
    pub topic: Topic,
    /// When it happened, where the publisher said so.
    pub occurred_at: Option<OccurredAt>,
    /// The W3C trace context to pass on.
    pub trace: Option<Trace>,
    pub(super) content: Content,
    pub(super) body: Bytes,
}

impl fmt::Debug for Event {
    /// Without the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, integrator, topic, .. } = self;
        f.debug_struct("Event").field("id", id).field("integrator", integrator).field("topic", topic).finish_non_exhaustive()
    }
}

/// When an event happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OccurredAt {
    /// As the publisher wrote it.
    pub text: String,
    /// The same as a point in time, where the text can be read as one.
    pub at: Option<Timestamp>,
}

/// W3C trace context (<https://www.w3.org/TR/trace-context/>), passed on unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Header `traceparent`.
    pub parent: String,
    /// Header `tracestate`.
    pub state: Option<String>,
}

/// Where in the body the parts are that a format passes on. Every span is valid JSON in valid UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// `data` is an array: records.
    Records(Span),
    /// `data` is an object: fields that stand beside `topic`.
    Fields { object: Span, names_topic: bool },
    /// The body is the topic message itself.
    Bare { message: Span, names_topic: bool, records: Option<Span> },
}

/// A range of bytes of the body.
pub(super) type Span = Range<usize>;

impl Event {
    pub(super) fn slice(&self, span: &Span) -> &[u8] {
        &self.body[span.clone()]
    }

    /// Bytes of the body as published.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body.len()
    }
}

/// The `webhook-id` of one message to an endpoint: the same for every attempt, replay and copy, different for every other
/// id, topic or endpoint; of several events, an id of that list in that order. Opaque and free of `.`, as Standard Webhooks
/// 1.0.0 asks; 128 bits of SHA-256.
#[must_use]
pub fn webhook_id(integrator: &IntegratorKey, endpoint: &EndpointId, events: &[&Event]) -> String {
    let mut parts: Vec<&[u8]> = vec![b"webhook-id", integrator.as_str().as_bytes(), endpoint.as_str().as_bytes()];
    for event in events {
        parts.extend([event.topic.as_str().as_bytes(), event.id.as_str().as_bytes()]);
    }
    format!("msg_{}", fingerprint(&parts))
}

/// The id of an event that came without one: the same bytes published twice are one event.
pub(super) fn id_from_content(integrator: &IntegratorKey, topic: &Topic, body: &[u8]) -> Option<EventId> {
    let print = fingerprint(&[b"event-id", integrator.as_str().as_bytes(), topic.as_str().as_bytes(), body]);
    EventId::try_new(format!("sha256-{print}")).ok()
}

/// 128 bits of SHA-256 over the parts, each with its length in front so that no two lists of parts collide, in hex.
fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut print = String::with_capacity(32);
    for byte in hash.finalize().iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(print, "{byte:02x}");
    }
    print
}
