//! Spans as OTLP carries them: the messages of `opentelemetry/proto/collector/trace/v1` that are used, field by field, and what our spans are
//! called by OpenTelemetry's semantic conventions (HTTP: stable; messaging and RabbitMQ: in development, version 1.37).
//!
//! Written out here because the types that OpenTelemetry generates bring its whole SDK along, whose spans begin and end in one process.

use std::collections::HashMap;

use prost::Message;

use super::span::{Span, Subject, What, nanos};
use crate::config::Source;
use crate::domain::names::SourceName;
use crate::domain::trace::SpanId;
use crate::telemetry::EventOutcome;

/// The version of the semantic conventions that names follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Flags of a span (`SpanFlags`): sampled; that it is known whether the parent is remote, and that it is.
const SAMPLED: u32 = 0x01;
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// A request to a collector.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

/// What a collector answers.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// Where it took some and left others.
    #[prost(message, optional, tag = "1")]
    pub partial: Option<Partial>,
}

/// What a collector has left.
#[derive(Clone, PartialEq, Message)]
pub struct Partial {
    /// Spans that it did not take.
    #[prost(int64, tag = "1")]
    pub rejected: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<ProtoSpan>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct ProtoSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(enumeration = "Kind", tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unspecified = 0,
    Internal = 1,
    Client = 3,
    Consumer = 5,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// Makes requests of spans.
#[derive(Debug)]
pub struct Writer {
    resource: Resource,
    /// The queue of first attempts and that of retries, of each source.
    queues: HashMap<SourceName, (String, String)>,
}

impl Writer {
    /// For the worker of this name.
    #[must_use]
    pub fn new(sources: &[Source], worker: &str) -> Self {
        let attributes = vec![
            text("service.name", "callbackd"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", worker),
        ];
        let queues = sources.iter().map(|source| (source.name.clone(), (source.queue.clone(), source.due_queue())));
        Self { resource: Resource { attributes }, queues: queues.collect() }
    }

    /// The request with these spans.
    #[must_use]
    pub fn request(&self, spans: &[Box<Span>]) -> Vec<u8> {
        let scope = Scope { name: "callbackd".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let spans = spans.iter().map(|span| self.span(span)).collect();
        let scopes = vec![ScopeSpans { scope: Some(scope), spans, schema_url: SCHEMA.to_owned() }];
        let all = ResourceSpans { resource: Some(self.resource.clone()), scopes, schema_url: SCHEMA.to_owned() };
        Request { resource_spans: vec![all] }.encode_to_vec()
    }

    fn span(&self, Span { of, start, end, what }: &Span) -> ProtoSpan {
        let (trace, outer, receipt) = of.ids();
        let random = || SpanId::from_bits(fastrand::u64(..));
        let (id, parent, is_remote) = match what {
            What::Process { .. } => (receipt, outer, true),
            What::Attempt { .. } | What::Wait { .. } => (random(), Some(receipt), false),
            What::Deliver { .. } => (random(), Some(of.root()), true),
        };
        let mut attributes = vec![text("callbackd.integrator", of.integrator.as_str()), text("callbackd.topic", of.topic.as_str())];
        let (name, kind, error) = self.describe(of, what, &mut attributes);
        attributes.extend(error.as_ref().map(|error| text("error.type", error)));
        ProtoSpan {
            trace_id: trace.as_bytes().to_vec(),
            span_id: id.as_bytes().to_vec(),
            trace_state: of.state.clone().unwrap_or_default(),
            parent_span_id: parent.map(|parent| parent.as_bytes().to_vec()).unwrap_or_default(),
            name,
            kind: kind.into(),
            start: nanos(*start),
            end: nanos(*end),
            attributes,
            status: error.map(|_| Status { code: ERROR }),
            flags: SAMPLED | PARENT_IS_KNOWN | if is_remote && parent.is_some() { PARENT_IS_REMOTE } else { 0 },
        }
    }

    /// The name, the kind, and why it failed where it did.
    fn describe(&self, of: &Subject, what: &What, attributes: &mut Vec<KeyValue>) -> (String, Kind, Option<String>) {
        match what {
            What::Process { source, outcome, bytes } => {
                let queues = self.queues.get(source);
                let queue = queues.map_or("", |(work, due)| if of.receipt.due { due } else { work });
                attributes.extend([
                    text("messaging.system", "rabbitmq"),
                    text("messaging.operation.type", "process"),
                    text("messaging.operation.name", "process"),
                    text("messaging.destination.name", queue),
                    text("messaging.message.id", of.event.as_str()),
                    number("messaging.message.body.size", *bytes as u64),
                    text("callbackd.outcome", outcome.as_str()),
                ]);
                let error = matches!(outcome, EventOutcome::Dead | EventOutcome::Rejected).then(|| outcome.as_str().to_owned());
                (format!("process {queue}"), Kind::Consumer, error)
            }
            What::Attempt { endpoint, host, port, attempt, events, status, error, verdict } => {
                attributes.extend([
                    text("http.request.method", "POST"),
                    text("server.address", host),
                    text("callbackd.endpoint", endpoint.as_str()),
                    number("callbackd.attempt", (*attempt).into()),
                    text("callbackd.verdict", verdict),
                ]);
                attributes.extend(port.map(|port| number("server.port", port.into())));
                attributes.extend(status.map(|status| number("http.response.status_code", status.into())));
                attributes.extend((*attempt > 1).then(|| number("http.request.resend_count", u64::from(attempt - 1))));
                attributes.extend((*events > 1).then(|| number("messaging.batch.message_count", *events as u64)));
                let error = error.map(|class| match status {
                    Some(status) if !(200..300).contains(status) => status.to_string(),
                    _ => class.to_owned(),
                });
                ("POST".to_owned(), Kind::Client, error)
            }
            What::Wait { endpoint, cause } => {
                attributes.extend(endpoint.as_ref().map(|endpoint| text("callbackd.endpoint", endpoint.as_str())));
                attributes.push(text("callbackd.wait.cause", cause));
                ("wait".to_owned(), Kind::Internal, None)
            }
            What::Deliver { endpoint, outcome, reason, attempts } => {
                attributes.extend([text("callbackd.endpoint", endpoint.as_str()), text("callbackd.outcome", outcome)]);
                attributes.extend(attempts.map(|attempts| number("callbackd.attempts", attempts.into())));
                ("deliver".to_owned(), Kind::Internal, reason.map(str::to_owned))
            }
        }
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::Text(value.to_owned())) }) }
}

fn number(key: &str, value: u64) -> KeyValue {
    let value = Value::Number(i64::try_from(value).unwrap_or(i64::MAX));
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
