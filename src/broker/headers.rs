//! AMQP properties to domain values and back: what is read of a message, and what the copies of it carry.
//!
//! All state of a delivery travels in our own headers. The broker acts on some properties of a message (it would send
//! extra copies, shorten a wait or refuse the publish), so those are moved aside on the first copy. Everything else
//! stays as it came.

mod size;

use std::num::NonZeroU16;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::decode::Metadata;
use crate::domain::history::History;
use crate::domain::names::{EndpointId, SourceName};
use crate::domain::time::Timestamp;
use crate::telemetry::EventRef;

pub(super) use size::held_size;
pub use size::{DEEPEST, FRAME_MAX, LARGEST_COPY, LARGEST_ORIGINAL, can_be_copied, encoded_size};

/// The names of our headers. Times are milliseconds since the Unix epoch, 64 bits.
pub mod name {
    /// The source that the event came from.
    pub const SOURCE: &str = "x-callback-source";
    /// The event's id, for tools.
    pub const EVENT_ID: &str = "x-callback-event-id";
    /// The integrator's key, for tools.
    pub const INTEGRATOR: &str = "x-callback-integrator";
    /// The event's topic, for tools.
    pub const TOPIC: &str = "x-callback-topic";
    /// The one endpoint that the copy is for.
    pub const ENDPOINT: &str = "x-callback-endpoint";
    /// When the event first came in.
    pub const RECEIVED_AT: &str = "x-callback-received-at";
    /// Attempts made.
    pub const ATTEMPTS: &str = "x-callback-attempts";
    /// When the first attempt started.
    pub const FIRST_ATTEMPT_AT: &str = "x-callback-first-attempt-at";
    /// When the latest attempt started.
    pub const LAST_ATTEMPT_AT: &str = "x-callback-last-attempt-at";
    /// The status of the latest answer.
    pub const LAST_STATUS: &str = "x-callback-last-status";
    /// Why the latest attempt failed.
    pub const LAST_ERROR: &str = "x-callback-last-error";
    /// When the wait is planned to end.
    pub const DUE_AT: &str = "x-callback-due-at";
    /// Not to be tried before.
    pub const HOLD_UNTIL: &str = "x-callback-hold-until";
    /// Since when nobody by that name is configured.
    pub const UNKNOWN_SINCE: &str = "x-callback-unknown-since";
    /// How often it made room at its endpoint without an attempt.
    pub const PARKED: &str = "x-callback-parked";
    /// When its turn at the endpoint was expected to come when it last made room.
    pub const TURN_AT: &str = "x-callback-turn-at";
    /// Most events that a request with this one may hold, since a larger one has failed.
    pub const BATCH_LIMIT: &str = "x-callback-batch-limit";
    /// Why it is dead or rejected, as a code.
    pub const REASON: &str = "x-callback-reason";
    /// Why it is rejected, for people.
    pub const DETAIL: &str = "x-callback-detail";
    /// Since when it is dead or rejected.
    pub const DEAD_AT: &str = "x-callback-dead-at";
    /// When an operator replayed it last.
    pub const REPLAYED_AT: &str = "x-callback-replayed-at";
    /// The exchange that upstream published to.
    pub const ORIG_EXCHANGE: &str = "x-callback-orig-exchange";
    /// The routing key that upstream used.
    pub const ORIG_ROUTING_KEY: &str = "x-callback-orig-routing-key";
    /// Property `user_id` as upstream set it: the broker refuses it from another user.
    pub const ORIG_USER_ID: &str = "x-callback-orig-user-id";
    /// Property `expiration` as upstream set it: it would shorten a wait.
    pub const ORIG_EXPIRATION: &str = "x-callback-orig-expiration";
    /// Property `priority` as upstream set it: it would reorder a wait queue.
    pub const ORIG_PRIORITY: &str = "x-callback-orig-priority";
    /// Header `CC` as upstream set it: the broker would send extra copies.
    pub const ORIG_CC: &str = "x-callback-orig-cc";

    /// What all of them start with.
    pub(super) const PREFIX: &str = "x-callback-";
    /// What a copy states anew; an older statement is dropped.
    pub(super) const STATE: [&str; 21] = [
        SOURCE,
        EVENT_ID,
        INTEGRATOR,
        TOPIC,
        ENDPOINT,
        RECEIVED_AT,
        REPLAYED_AT,
        ATTEMPTS,
        FIRST_ATTEMPT_AT,
        LAST_ATTEMPT_AT,
        LAST_STATUS,
        LAST_ERROR,
        DUE_AT,
        HOLD_UNTIL,
        UNKNOWN_SINCE,
        PARKED,
        TURN_AT,
        BATCH_LIMIT,
        REASON,
        DETAIL,
        DEAD_AT,
    ];
}

/// Longest error or detail text in a header, in characters.
pub const TEXT_LIMIT: usize = 200;

/// A message as it was received, and as much as has to be known of it to make a copy.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    /// Its properties.
    pub properties: &'a BasicProperties,
    /// The exchange that it came through last.
    pub exchange: &'a str,
    /// The routing key that it came with.
    pub routing_key: &'a str,
    /// The source that it belongs to.
    pub source: &'a SourceName,
    /// Who wrote its `x-callback-*` headers.
    pub trust: Trust,
}

/// Who wrote the `x-callback-*` headers of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// We did: it comes from a due queue, or is a copy that we made of a dead or rejected one.
    Ours,
    /// Anybody may have: it comes from a work queue. They are neither read nor kept.
    Foreign,
}

/// What decoding wants to know. Header values of other types than text count as absent.
#[must_use]
pub fn metadata(properties: &BasicProperties) -> Metadata<'_> {
    Metadata {
        message_id: properties.message_id().as_ref().map(ShortString::as_str),
        message_type: properties.kind().as_ref().map(ShortString::as_str),
        timestamp: *properties.timestamp(),
        integrator: bytes(properties, "integrator"),
        traceparent: bytes(properties, "traceparent"),
        tracestate: bytes(properties, "tracestate"),
    }
}

/// The past of a message from a due queue; `None` when it does not say when it was received, so that it is no copy of
/// ours. Any other header that is absent, of another type or out of range counts as absent. Not for messages of a work queue, whose
/// headers anybody may have written.
#[must_use]
pub fn read_history(properties: &BasicProperties) -> Option<History> {
    let small = |name| integer(properties, name);
    Some(History {
        received_at: time(properties, name::RECEIVED_AT)?,
        replayed_at: time(properties, name::REPLAYED_AT),
        endpoint: text(properties, name::ENDPOINT).and_then(|id| EndpointId::try_new(id).ok()),
        attempts: small(name::ATTEMPTS).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        first_attempt_at: time(properties, name::FIRST_ATTEMPT_AT),
        last_attempt_at: time(properties, name::LAST_ATTEMPT_AT),
        last_status: small(name::LAST_STATUS).and_then(|n| u16::try_from(n).ok()),
        last_error: text(properties, name::LAST_ERROR).map(short_line),
        due_at: time(properties, name::DUE_AT),
        hold_until: time(properties, name::HOLD_UNTIL),
        unknown_since: time(properties, name::UNKNOWN_SINCE),
        parked: small(name::PARKED).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        turn_at: time(properties, name::TURN_AT),
        batch_limit: small(name::BATCH_LIMIT).and_then(|n| u16::try_from(n).ok()).and_then(NonZeroU16::new),
    })
}

/// The properties of a copy that waits in the ladder.
#[must_use]
pub fn retry_copy(original: &Original<'_>, history: &History) -> BasicProperties {
    let mut copy = Copy::of(original);
    copy.history(history);
    copy.time(name::DUE_AT, history.due_at);
    copy.time(name::HOLD_UNTIL, history.hold_until);
    copy.finish()
}

/// The properties of a copy that goes to the dead letters at `now`.
#[must_use]
pub fn dead_copy(original: &Original<'_>, history: &History, event: EventRef<'_>, reason: DeadReason, now: Timestamp) -> BasicProperties {
    let mut copy = Copy::of(original);
    copy.history(history);
    copy.event(event);
    copy.text(name::REASON, reason.as_str());
    copy.time(name::DEAD_AT, Some(now));
    copy.finish()
}

/// The properties of a copy that goes to the rejected at `now`; `event` where it could be read.
#[must_use]
pub fn rejected_copy(
    original: &Original<'_>,
    history: &History,
    event: Option<EventRef<'_>>,
    reason: &RejectReason,
    now: Timestamp,
) -> BasicProperties {
    let mut copy = Copy::of(original);
    copy.history(history);
    if let Some(event) = event {
        copy.event(event);
    }
    copy.text(name::REASON, reason.code());
    copy.text(name::DETAIL, &short_line(&reason.to_string()));
    copy.time(name::DEAD_AT, Some(now));
    copy.finish()
}

/// The properties of a copy that starts again at `now`: no attempts, nothing waited for, age zero. The time of first receipt
/// and the endpoint stay, so that a
/// delivery to one is not repeated to the others.
#[must_use]
pub fn replay_copy(original: &Original<'_>, now: Timestamp) -> BasicProperties {
    let endpoint = match original.trust {
        Trust::Ours => text(original.properties, name::ENDPOINT).and_then(|id| EndpointId::try_new(id).ok()),
        Trust::Foreign => None,
    };
    let received_at = match original.trust {
        Trust::Ours => time(original.properties, name::RECEIVED_AT).unwrap_or(now),
        Trust::Foreign => now,
    };
    let mut copy = Copy::of(original);
    copy.history(&History { endpoint, replayed_at: Some(now), ..History::new(received_at) });
    copy.finish()
}

/// A header that is text in UTF-8.
#[must_use]
pub fn text<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a str> {
    std::str::from_utf8(bytes(properties, name)?).ok()
}

/// A header that is a whole number of any width.
#[must_use]
pub fn integer(properties: &BasicProperties, name: &str) -> Option<i64> {
    match *header(properties, name)? {
        AMQPValue::ShortShortInt(n) => Some(n.into()),
        AMQPValue::ShortShortUInt(n) => Some(n.into()),
        AMQPValue::ShortInt(n) => Some(n.into()),
        AMQPValue::ShortUInt(n) => Some(n.into()),
        AMQPValue::LongInt(n) => Some(n.into()),
        AMQPValue::LongUInt(n) => Some(n.into()),
        AMQPValue::LongLongInt(n) => Some(n),
        _ => None,
    }
}

/// A header that is a time of ours.
#[must_use]
pub fn time(properties: &BasicProperties, name: &str) -> Option<Timestamp> {
    integer(properties, name).map(Timestamp::from_millis)
}

fn bytes<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a [u8]> {
    match header(properties, name)? {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => Some(bytes.as_slice()),
        AMQPValue::ShortString(text) => Some(text.as_str().as_bytes()),
        _ => None,
    }
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

/// A copy in the making: what stays of the original, then what we say.
struct Copy {
    properties: BasicProperties,
    headers: FieldTable,
}

impl Copy {
    fn of(original: &Original<'_>) -> Self {
        let mut copy = Self { properties: kept_properties(original.properties), headers: FieldTable::default() };
        for (key, value) in original.properties.headers().iter().flatten() {
            if stays(key.as_str(), original.trust) {
                copy.headers.insert(key.clone(), value.clone());
            }
        }
        copy.move_aside(original);
        copy.text(name::SOURCE, original.source.as_str());
        copy
    }

    /// Keeps for the record what the copy cannot carry on in its place. What an earlier copy has recorded stands.
    fn move_aside(&mut self, original: &Original<'_>) {
        let from = original.properties;
        if !self.headers.contains_key(name::ORIG_EXCHANGE) {
            self.text(name::ORIG_EXCHANGE, original.exchange);
            self.text(name::ORIG_ROUTING_KEY, original.routing_key);
        }
        let moved = [
            (name::ORIG_USER_ID, from.user_id().as_ref().map(|text| long(text.as_str()))),
            (name::ORIG_EXPIRATION, from.expiration().as_ref().map(|text| long(text.as_str()))),
            (name::ORIG_PRIORITY, from.priority().map(|priority| AMQPValue::LongLongInt(priority.into()))),
            (name::ORIG_CC, header(from, "CC").cloned()),
        ];
        for (name, value) in moved {
            if let (Some(value), false) = (value, self.headers.contains_key(name)) {
                self.value(name, value);
            }
        }
    }

    fn history(&mut self, history: &History) {
        self.time(name::RECEIVED_AT, Some(history.received_at));
        self.time(name::REPLAYED_AT, history.replayed_at);
        if let Some(endpoint) = &history.endpoint {
            self.text(name::ENDPOINT, endpoint.as_str());
        }
        self.value(name::ATTEMPTS, AMQPValue::LongLongInt(history.attempts.into()));
        self.time(name::FIRST_ATTEMPT_AT, history.first_attempt_at);
        self.time(name::LAST_ATTEMPT_AT, history.last_attempt_at);
        if let Some(status) = history.last_status {
            self.value(name::LAST_STATUS, AMQPValue::LongLongInt(status.into()));
        }
        if let Some(error) = &history.last_error {
            self.text(name::LAST_ERROR, &short_line(error));
        }
        self.time(name::UNKNOWN_SINCE, history.unknown_since);
        if history.parked > 0 {
            self.value(name::PARKED, AMQPValue::LongLongInt(history.parked.into()));
        }
        self.time(name::TURN_AT, history.turn_at);
        if let Some(limit) = history.batch_limit {
            self.value(name::BATCH_LIMIT, AMQPValue::LongLongInt(limit.get().into()));
        }
    }

    fn event(&mut self, event: EventRef<'_>) {
        self.text(name::EVENT_ID, event.id.as_str());
        self.text(name::INTEGRATOR, event.integrator.as_str());
        self.text(name::TOPIC, event.topic.as_str());
    }

    fn text(&mut self, name: &str, text: &str) {
        self.value(name, long(text));
    }

    fn time(&mut self, name: &str, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.value(name, AMQPValue::LongLongInt(at.millis()));
        }
    }

    fn value(&mut self, name: &str, value: AMQPValue) {
        // Our names are all far below the 255 bytes at which this fails.
        if let Ok(name) = ShortString::try_new(name) {
            self.headers.insert(name, value);
        }
    }

    fn finish(self) -> BasicProperties {
        self.properties.with_headers(self.headers)
    }
}

/// Whether a header goes into the copy unchanged. `x-death` and its kin are the broker's account of one message's past: on
/// 3.10 a copied one counts on.
fn stays(key: &str, trust: Trust) -> bool {
    let brokers = matches!(key, "x-death" | "x-delivery-count" | "CC" | "BCC")
        || key.starts_with("x-first-death-")
        || key.starts_with("x-last-death-");
    let stale = match trust {
        Trust::Ours => name::STATE.contains(&key),
        Trust::Foreign => key.starts_with(name::PREFIX),
    };
    !brokers && !stale
}

type SetText = fn(BasicProperties, ShortString) -> BasicProperties;

/// All properties but headers and those that the broker would act on; persistent in any case.
fn kept_properties(from: &BasicProperties) -> BasicProperties {
    let mut kept = BasicProperties::default().with_delivery_mode(2);
    let texts: [(&Option<ShortString>, SetText); 8] = [
        (from.content_type(), BasicProperties::with_content_type),
        (from.content_encoding(), BasicProperties::with_content_encoding),
        (from.correlation_id(), BasicProperties::with_correlation_id),
        (from.reply_to(), BasicProperties::with_reply_to),
        (from.message_id(), BasicProperties::with_message_id),
        (from.kind(), BasicProperties::with_type),
        (from.app_id(), BasicProperties::with_app_id),
        (from.cluster_id(), BasicProperties::with_cluster_id),
    ];
    for (value, with) in texts {
        if let Some(value) = value {
            kept = with(kept, value.clone());
        }
    }
    match *from.timestamp() {
        Some(timestamp) => kept.with_timestamp(timestamp),
        None => kept,
    }
}

/// One line of at most [`TEXT_LIMIT`] characters, control characters replaced by blanks. Of such a line it is that line.
fn short_line(text: &str) -> String {
    let printable = text.replace(char::is_control, " ");
    printable.trim().chars().take(TEXT_LIMIT).collect::<String>().trim_end().to_owned()
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[cfg(test)]
mod tests;
