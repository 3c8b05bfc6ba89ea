//! An event: what the platform says happened, for one integrator.

use std::fmt;
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
    /// The body as published.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

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
    let whose = [b"webhook-id".as_slice(), integrator.as_str().as_bytes(), endpoint.as_str().as_bytes()];
    let which = events.iter().flat_map(|event| [event.topic.as_str().as_bytes(), event.id.as_str().as_bytes()]);
    fingerprint("msg_", whose.into_iter().chain(which))
}

/// The same for a single event of which no more than its names is known.
#[must_use]
pub fn webhook_id_of(integrator: &IntegratorKey, endpoint: &EndpointId, topic: &Topic, id: &EventId) -> String {
    let parts = [integrator.as_str(), endpoint.as_str(), topic.as_str(), id.as_str()].map(str::as_bytes);
    fingerprint("msg_", [b"webhook-id".as_slice()].into_iter().chain(parts))
}

/// The id of an event that came without one: the same bytes published twice are one event.
pub(super) fn id_from_content(integrator: &IntegratorKey, topic: &Topic, body: &[u8]) -> Option<EventId> {
    let parts = [b"event-id".as_slice(), integrator.as_str().as_bytes(), topic.as_str().as_bytes(), body];
    EventId::try_new(fingerprint("sha256-", parts)).ok()
}

/// After the prefix, 128 bits of SHA-256 over the parts, each with its length in front so that no two lists of parts collide,
/// in hex.
pub(super) fn fingerprint<'a>(prefix: &str, parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    const BYTES: usize = 16;
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut print = String::with_capacity(prefix.len() + 2 * BYTES);
    print.push_str(prefix);
    for byte in hash.finalize().iter().take(BYTES) {
        for half in [byte >> 4, byte & 0xf] {
            print.push(char::from(DIGITS[usize::from(half)]));
        }
    }
    print
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::decode::{Metadata, decode};

    /// Receivers have stored these ids: another one would make every event in flight a new one to them.
    #[test]
    fn ids_stay_what_they_have_always_been() {
        let event = |body: &'static str| decode(body.into(), &Metadata::default()).unwrap();
        let named = event(r#"{"id":"evt-1","integrator":"acme","topic":"t","data":[]}"#);
        let nameless = event(r#"{"integrator":"acme","topic":"t","data":[1]}"#);
        let endpoint = EndpointId::try_new("main").unwrap();
        assert_eq!(nameless.id.as_str(), "sha256-95e571c8b7762fab71a0591306a53364");
        assert_eq!(webhook_id(&named.integrator, &endpoint, &[&named]), "msg_919d411c21f50415e05036ce059de3dc");
        assert_eq!(
            webhook_id_of(&named.integrator, &endpoint, &named.topic, &named.id),
            webhook_id(&named.integrator, &endpoint, &[&named])
        );
        assert_eq!(webhook_id(&named.integrator, &endpoint, &[&named, &nameless]), "msg_f3a98eb1d9944199e16124d87df11d58");
    }
}
