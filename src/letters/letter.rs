//! What is known of a dead or rejected message without its payload.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use serde::Serialize;
use utoipa::ToSchema;

use super::rfc3339;
use crate::broker::headers::{self, Original, Trust, encoded_size, name};
use crate::config::{Config, Source};
use crate::domain::decode::decode;
use crate::domain::time::Timestamp;

/// A dead, rejected or unroutable message without its payload.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Letter {
    /// Its place in the queue, from 1.
    pub position: u32,
    /// The name of its source.
    pub source: Option<String>,
    /// Its event's id.
    pub event: Option<String>,
    /// Whose it is.
    pub integrator: Option<String>,
    /// The one endpoint that it is for.
    pub endpoint: Option<String>,
    /// What it is about.
    pub topic: Option<String>,
    /// Why it is here, as a code.
    pub reason: Option<String>,
    /// Why it is here, for people.
    pub detail: Option<String>,
    /// Attempts made.
    pub attempts: u32,
    /// When the first attempt started.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first_attempt_at: Option<Timestamp>,
    /// When the latest attempt started.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_attempt_at: Option<Timestamp>,
    /// The status of the latest answer.
    pub last_status: Option<u16>,
    /// Why the latest attempt failed.
    pub last_error: Option<String>,
    /// When an operator replayed it last.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub replayed_at: Option<Timestamp>,
    /// Since when it is here.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub dead_at: Option<Timestamp>,
    /// Bytes of its body.
    pub size: usize,
    /// Who wrote it as it is.
    #[serde(skip)]
    pub origin: Origin,
}

/// Who wrote a message as it is, which says whether its `x-callback-*` headers are believed and what a replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Upstream, or anybody: the broker moved it before we made a copy.
    #[default]
    Foreign,
    /// We, and the delivery or event has come to its end: a replay starts again.
    Ended,
    /// We, and it was waiting for its next try: a replay goes on where it was.
    Waiting,
}

impl Letter {
    /// Reads a message. What we moved says everything in its headers; what the broker moved is read as far as its own
    /// account of the move and the event's body go.
    pub(crate) fn read(delivery: &Delivery, position: u32, config: &Config) -> Self {
        let letter = if delivery.exchange.as_str() == config.broker.names.route {
            Self::moved_by_the_broker(delivery, config)
        } else {
            Self::ours(&delivery.properties)
        };
        Self { position, size: delivery.data.len(), ..letter }
    }

    fn ours(properties: &BasicProperties) -> Self {
        let text = |name| headers::text(properties, name).map(str::to_owned);
        let history = headers::read_history(properties);
        let known = history.as_ref();
        Self {
            source: text(name::SOURCE),
            event: text(name::EVENT_ID).or_else(|| properties.message_id().as_ref().map(ToString::to_string)),
            integrator: text(name::INTEGRATOR),
            endpoint: text(name::ENDPOINT),
            topic: text(name::TOPIC),
            reason: text(name::REASON),
            detail: text(name::DETAIL),
            attempts: known.map_or(0, |history| history.attempts),
            first_attempt_at: known.and_then(|history| history.first_attempt_at),
            last_attempt_at: known.and_then(|history| history.last_attempt_at),
            last_status: known.and_then(|history| history.last_status),
            last_error: known.and_then(|history| history.last_error.clone()),
            replayed_at: headers::time(properties, name::REPLAYED_AT),
            dead_at: headers::time(properties, name::DEAD_AT),
            origin: Origin::Ended,
            ..Self::default()
        }
    }

    /// Only a message from a due or wait queue carries headers of ours; on one from a work queue anybody may have written them.
    /// Which it was is told by the routing key of the move. The account in `x-death` is not asked for it: RabbitMQ 3.10 goes on
    /// with one that a publisher has begun.
    fn moved_by_the_broker(delivery: &Delivery, config: &Config) -> Self {
        let origin = origin(delivery.routing_key.as_str(), config);
        let (source, origin) = origin.map_or((None, Origin::Foreign), |(source, origin)| (Some(source), origin));
        let moved = Moved::read(&delivery.properties);
        let from_headers = if origin == Origin::Foreign { Self::default() } else { Self::ours(&delivery.properties) };
        let event = decode(Bytes::copy_from_slice(&delivery.data), &headers::metadata(&delivery.properties)).ok();
        let event = event.as_ref();
        let detail = match origin {
            Origin::Waiting => format!("its wait was over and the queue {} was missing", delivery.routing_key),
            Origin::Ended | Origin::Foreign => "moved by the broker".to_owned(),
        };
        Self {
            source: source.map(|source| source.name.to_string()),
            event: event.map(|event| event.id.to_string()),
            integrator: event.map(|event| event.integrator.to_string()),
            topic: event.map(|event| event.topic.to_string()),
            reason: moved.as_ref().map(|moved| moved.reason.to_owned()),
            detail: Some(detail),
            dead_at: moved.and_then(|moved| moved.at),
            origin,
            ..from_headers
        }
    }

    /// Where it goes when it is replayed, and with which properties.
    ///
    /// # Errors
    /// Why it cannot be replayed, for people.
    pub(crate) fn replay(&self, delivery: &Delivery, config: &Config, now: Timestamp) -> Result<(String, BasicProperties), String> {
        let name = self.source.as_deref().ok_or("it does not say which source it belongs to")?;
        let source = config.sources.iter().find(|source| source.name.as_str() == name);
        let source = source.ok_or_else(|| format!("its source `{name}` is not configured"))?;
        let original = Original {
            properties: &delivery.properties,
            exchange: delivery.exchange.as_str(),
            routing_key: delivery.routing_key.as_str(),
            source: &source.name,
            trust: if self.origin == Origin::Foreign { Trust::Foreign } else { Trust::Ours },
        };
        let history = headers::read_history(&delivery.properties);
        let copy = match (self.origin, &history) {
            (Origin::Waiting, Some(history)) => headers::retry_copy(&original, history),
            _ => headers::replay_copy(&original, now),
        };
        if encoded_size(&copy) > headers::LARGEST_COPY {
            return Err("its properties are too large for a copy".to_owned());
        }
        // Only there our headers are believed: the one endpoint, without which all would be told again, and since when we have it.
        let is_ours = self.origin != Origin::Foreign && (self.endpoint.is_some() || history.is_some());
        let queue = if is_ours { source.due_queue() } else { source.queue.clone() };
        Ok((queue, copy))
    }
}

/// The broker's account of its own latest move, the first entry of `x-death`.
struct Moved<'a> {
    reason: &'a str,
    at: Option<Timestamp>,
}

impl<'a> Moved<'a> {
    fn read(properties: &'a BasicProperties) -> Option<Self> {
        let AMQPValue::FieldArray(deaths) = properties.headers().as_ref()?.inner().get("x-death")? else { return None };
        let AMQPValue::FieldTable(latest) = deaths.as_slice().first()? else { return None };
        let at = match latest.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds).ok().and_then(|seconds| seconds.checked_mul(1000)),
            _ => None,
        };
        Some(Self { reason: text(latest, "reason")?, at: at.map(Timestamp::from_millis) })
    }
}

/// Whose queue the broker moved a message from, by the key that the queue gives it on its way.
fn origin<'c>(routing_key: &str, config: &'c Config) -> Option<(&'c Source, Origin)> {
    config.sources.iter().find_map(|source| {
        let origin = match routing_key {
            key if key == source.rejection_key(false) => Origin::Foreign,
            key if key == source.rejection_key(true) => Origin::Ended,
            key if key == source.due_queue() => Origin::Waiting,
            _ => return None,
        };
        Some((source, origin))
    })
}

fn text<'a>(table: &'a FieldTable, name: &str) -> Option<&'a str> {
    match table.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}
