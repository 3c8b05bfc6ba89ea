//! From the bytes of an AMQP message to an event, or to the reason why it is none.
//!
//! Two shapes come in: a body with a `data` member (enveloped), and the topic message itself with its metadata in the
//! AMQP properties (bare). Only the members that route an event are read; the rest stays the bytes that it was.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{self, Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::event::{Content, Event, OccurredAt, Span, Trace, id_from_content};
use super::names::{BadName, EventId, IntegratorKey, Topic};
use super::time::Timestamp;
use super::trace::TraceParent;

/// The longest `occurredAt` that is read, quotes included: RFC 3339 with nanoseconds and offset has 35 characters.
const LONGEST_TIME: usize = 66;

/// What the AMQP properties say, as raw as the broker may send it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Metadata<'a> {
    /// Property `message_id`.
    pub message_id: Option<&'a str>,
    /// Property `type`.
    pub message_type: Option<&'a str>,
    /// Property `timestamp`, in seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// Header `integrator`; any bytes may stand there.
    pub integrator: Option<&'a [u8]>,
    /// Header `traceparent`.
    pub traceparent: Option<&'a [u8]>,
    /// Header `tracestate`.
    pub tracestate: Option<&'a [u8]>,
}

/// Why a message is no event. No variant holds anything of the body, so that it can be logged and put into a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEvent {
    /// The body is not one JSON value in UTF-8.
    #[error("the body is not JSON: {0}")]
    NotJson(JsonFault),
    /// The body is JSON, but not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A member that decides where the event goes stands in the body twice.
    #[error("member `{0}` stands in the body twice")]
    Twice(&'static str),
    /// A member that decides where the event goes has a value that cannot be used.
    #[error("member `{0}` is not a string")]
    NotAString(&'static str),
    /// `data` is neither an array nor an object.
    #[error("member `data` is neither an array nor an object")]
    DataShape,
    /// A name is unusable.
    #[error("{place} {fault}")]
    BadName {
        /// Where the name stands.
        place: &'static str,
        /// What is wrong with it.
        fault: BadName,
    },
    /// The header `integrator` is not UTF-8 text.
    #[error("header `integrator` is not UTF-8")]
    HeaderNotText,
    /// Neither body nor headers name an integrator.
    #[error("no integrator: neither member `integrator` nor AMQP header `integrator` is given")]
    NoIntegrator,
    /// Neither body nor properties name a topic.
    #[error("no topic: neither member `topic` nor AMQP property `type` is given")]
    NoTopic,
}

/// Where the JSON broke, without what stood there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonFault {
    /// Not UTF-8 from this byte on.
    Utf8(usize),
    /// A syntax error at this line and column.
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
    },
    /// The body ends within a value, or is empty.
    Cut,
}

impl fmt::Display for JsonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utf8(at) => write!(f, "not UTF-8 at byte {at}"),
            Self::Syntax { line, column } => write!(f, "syntax error at line {line}, column {column}"),
            Self::Cut => f.write_str("it ends too early"),
        }
    }
}

impl From<serde_json::Error> for JsonFault {
    fn from(error: serde_json::Error) -> Self {
        if error.is_eof() { Self::Cut } else { Self::Syntax { line: error.line(), column: error.column() } }
    }
}

/// Reads one message.
///
/// Each of id, integrator, topic and time is taken from the first place that has it: the envelope (for the topic also the
/// bare message), then the AMQP properties; an absent, `null` or empty value does not count as having it. An event without any id gets one made
/// from integrator, topic and body.
///
/// # Errors
/// [`NoEvent`]: the message can never be delivered to anybody and belongs into the queue of rejected events, untouched.
pub fn decode(body: Bytes, metadata: &Metadata<'_>) -> Result<Event, NoEvent> {
    let text = std::str::from_utf8(&body).map_err(|e| NoEvent::NotJson(JsonFault::Utf8(e.valid_up_to())))?;
    let members = Members::read(text)?;
    let body_topic = string(members.topic, "topic")?;
    let topic: Topic =
        name(body_topic.as_deref(), metadata.message_type, "topic", "property `type`", Topic::try_new)?.ok_or(NoEvent::NoTopic)?;
    let (envelope, content) = match members.data {
        Some(data) => (Envelope::read(&members)?, content_of_data(data, span_of(text, data.get()))?),
        None => (Envelope::default(), bare_content(text, &topic, body_topic.is_some())?),
    };

    let header = metadata.integrator.map(std::str::from_utf8).transpose().map_err(|_| NoEvent::HeaderNotText);
    // A broken header does not matter where the envelope already says whom to tell.
    let header = if envelope.integrator.is_some() { None } else { header? };
    let integrator = name(envelope.integrator.as_deref(), header, "integrator", "header `integrator`", IntegratorKey::try_new)?;
    let integrator = integrator.ok_or(NoEvent::NoIntegrator)?;
    let id = match name(envelope.id.as_deref(), metadata.message_id, "id", "property `message_id`", EventId::try_new)? {
        Some(id) => id,
        None => id_from_content(&integrator, &topic, &body).ok_or(NoEvent::BadName { place: "id", fault: BadName::Empty })?,
    };
    let occurred_at = envelope.occurred_at.as_deref().map(written).or_else(|| metadata.timestamp.and_then(stamped));
    Ok(Event { id, integrator, topic, occurred_at, trace: trace(metadata), content, body })
}

/// What the envelope of an enveloped event says of it. A bare message has none: members of it that happen to have these
/// names are the integrator's business and are passed on like any other.
#[derive(Default)]
struct Envelope<'a> {
    id: Option<Cow<'a, str>>,
    integrator: Option<Cow<'a, str>>,
    occurred_at: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// A member that stands there twice is refused, as readers disagree about which one counts. `occurredAt` routes nothing,
    /// so that anything but a short text there counts as absent.
    fn read(members: &Members<'a>) -> Result<Self, NoEvent> {
        members.twice.map_or(Ok(()), |member| Err(NoEvent::Twice(member)))?;
        let occurred_at = members.occurred_at.filter(|raw| raw.get().len() <= LONGEST_TIME);
        Ok(Self {
            id: string(members.id, "id")?,
            integrator: string(members.integrator, "integrator")?,
            occurred_at: string(occurred_at, "occurredAt").unwrap_or(None),
        })
    }
}

/// The members of the body that decide where it goes; all others are skipped unread.
#[derive(Default)]
struct Members<'a> {
    id: Option<&'a RawValue>,
    integrator: Option<&'a RawValue>,
    topic: Option<&'a RawValue>,
    occurred_at: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    /// One of them stands there twice.
    twice: Option<&'static str>,
}

impl<'a> Members<'a> {
    fn read(text: &'a str) -> Result<Self, NoEvent> {
        let mut members = Self::default();
        let mut is_doubtful = false;
        let read = for_each_member(text, |key, value| {
            is_doubtful |= key.iter().any(u8::is_ascii_control);
            let (slot, name) = match key {
                b"id" => (&mut members.id, "id"),
                b"integrator" => (&mut members.integrator, "integrator"),
                b"topic" => (&mut members.topic, "topic"),
                b"occurredAt" => (&mut members.occurred_at, "occurredAt"),
                b"data" => (&mut members.data, "data"),
                _ => return,
            };
            if slot.replace(value).is_some() {
                members.twice = Some(name);
            }
        });
        // That has validated all but one thing: a control character in a name may stand there as it is.
        if read.is_err() || is_doubtful {
            let whole: &RawValue = serde_json::from_str(text).map_err(|e| NoEvent::NotJson(e.into()))?;
            if !whole.get().starts_with('{') {
                return Err(NoEvent::NotAnObject);
            }
            read.map_err(|e| NoEvent::NotJson(e.into()))?;
        }
        match members.twice {
            Some(member @ ("topic" | "data")) => Err(NoEvent::Twice(member)),
            _ => Ok(members),
        }
    }
}

fn content_of_data(data: &RawValue, span: Span) -> Result<Content, NoEvent> {
    match data.get().as_bytes().first() {
        Some(b'[') => Ok(Content::Records(span)),
        Some(b'{') => {
            let mut names_topic = false;
            for_each_member(data.get(), |key, _| names_topic |= key == b"topic").map_err(|e| NoEvent::NotJson(e.into()))?;
            Ok(Content::Fields { object: span, names_topic })
        }
        _ => Err(NoEvent::DataShape),
    }
}

/// A bare message is passed on as it is; its records, for the classic format, are the member named as the topic. Two
/// members by that name are no records: receivers would disagree about which one counts.
fn bare_content(text: &str, topic: &Topic, names_topic: bool) -> Result<Content, NoEvent> {
    let (mut records, mut count) = (None, 0);
    for_each_member(text, |key, value| {
        if key == topic.as_str().as_bytes() {
            count += 1;
            records = value.get().starts_with('[').then(|| span_of(text, value.get()));
        }
    })
    .map_err(|e| NoEvent::NotJson(e.into()))?;
    let records = records.filter(|_| count == 1);
    Ok(Content::Bare { message: span_of(text, text.trim_ascii()), names_topic, records })
}

/// Takes a member that must be a string; `null` and the empty string count as absent. Copied only where it holds an escape.
fn string<'a>(value: Option<&'a RawValue>, member: &'static str) -> Result<Option<Cow<'a, str>>, NoEvent> {
    let Some(raw) = value.map(RawValue::get).filter(|raw| !matches!(*raw, "null" | "\"\"")) else { return Ok(None) };
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Some(Cow::Borrowed(plain))),
        _ => serde_json::from_str(raw).map(|text| Some(Cow::Owned(text))).map_err(|_| NoEvent::NotAString(member)),
    }
}

/// The first of two places that has a usable name.
fn name<'a, T>(
    body: Option<&'a str>,
    property: Option<&'a str>,
    member: &'static str,
    property_place: &'static str,
    make: impl Fn(&'a str) -> Result<T, BadName>,
) -> Result<Option<T>, NoEvent> {
    let (text, place) = match (body, property) {
        (Some(text), _) => (text, member),
        (None, Some(text)) if !text.is_empty() => (text, property_place),
        _ => return Ok(None),
    };
    make(text).map(Some).map_err(|fault| NoEvent::BadName { place, fault })
}

fn written(text: &str) -> OccurredAt {
    OccurredAt { text: text.to_owned(), at: Timestamp::parse(text) }
}

fn stamped(seconds: u64) -> Option<OccurredAt> {
    let at = Timestamp::from_millis(i64::try_from(seconds).ok()?.checked_mul(1000)?);
    // What lies beyond the calendar is a slip, such as milliseconds.
    at.is_in_calendar().then_some(())?;
    Some(OccurredAt { text: at.to_string(), at: Some(at) })
}

/// The trace context, where `traceparent` has the form that the specification gives it; anything else is dropped, as
/// the specification asks, since a broken one must not fail the event.
fn trace(metadata: &Metadata<'_>) -> Option<Trace> {
    let parent = std::str::from_utf8(metadata.traceparent?).ok()?;
    TraceParent::parse(parent)?;
    let state = metadata.tracestate.and_then(|raw| std::str::from_utf8(raw).ok());
    let state = state.filter(|text| !text.is_empty() && text.len() <= 512 && text.bytes().all(|b| (0x20..0x7f).contains(&b)));
    Some(Trace { parent: parent.to_owned(), state: state.map(str::to_owned) })
}

/// Where `part`, a slice of `whole`, stands in it.
pub(super) fn span_of(whole: &str, part: &str) -> Span {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

/// Calls back with each member of a JSON object: the key decoded (a lone surrogate stays distinguishable), the value raw.
pub(super) fn for_each_member<'a>(object: &'a str, each: impl FnMut(&[u8], &'a RawValue)) -> serde_json::Result<()> {
    struct Each<F>(F);
    impl<'de, F: FnMut(&[u8], &'de RawValue)> Visitor<'de> for Each<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(Key(key)) = map.next_key()? {
                (self.0)(&key, map.next_value()?);
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_str(object);
    json.deserialize_map(Each(each))?;
    json.end()
}

/// A member's name; a copy only where it holds an escape.
struct Key<'de>(Cow<'de, [u8]>);

impl<'de> de::Deserialize<'de> for Key<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(bytes.to_vec())))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
