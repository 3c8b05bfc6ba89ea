//! An outcome, and the message that tells it.

use lapin::BasicProperties;
use serde::Serialize;

use crate::domain::circuit::TripCause;
use crate::domain::decide::Verdict;
use crate::domain::event::webhook_id_of;
use crate::domain::integrator::Endpoint;
use crate::domain::names::{EndpointId, EventId, IntegratorKey, SourceName, Topic};
use crate::domain::outcome::{OutcomeKind, delivery_outcome_id, endpoint_outcome_id, event_outcome_id, message_outcome_id, routing_key};
use crate::domain::time::Timestamp;
use crate::telemetry::{EventRef, Fact};

/// What an outcome says of an endpoint that is gone, where a circuit has its cause.
const GONE: &str = "gone";

/// What became of an event or of an endpoint, as little as the message needs. Made where it happens, so the texts are made later.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What became of it.
    pub kind: OutcomeKind,
    at: Timestamp,
    subject: Subject,
}

#[derive(Debug, Clone)]
enum Subject {
    /// A delivery, an event, or a message that is none.
    Event(AboutEvent),
    /// An endpoint.
    Endpoint(AboutEndpoint),
}

#[derive(Debug, Clone)]
struct AboutEvent {
    event: Option<Named>,
    /// Where a message came from that was rejected.
    source: Option<SourceName>,
    /// What tells a message that is no event from others.
    message: Option<Nameless>,
    endpoint: Option<EndpointId>,
    attempt: Option<u32>,
    status: Option<u16>,
    reason: Option<&'static str>,
    replayed_at: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct AboutEndpoint {
    integrator: IntegratorKey,
    endpoint: EndpointId,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    failures: Option<u32>,
    reason: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct Named {
    id: EventId,
    integrator: IntegratorKey,
    topic: Topic,
}

/// A message that is no event.
#[derive(Debug, Clone)]
struct Nameless {
    /// AMQP `message_id`: whatever text upstream wrote there, within the limit of an event's id, which may stand in its place.
    id: Option<EventId>,
    dice: u64,
}

impl From<EventRef<'_>> for Named {
    fn from(event: EventRef<'_>) -> Self {
        Self { id: event.id.clone(), integrator: event.integrator.clone(), topic: event.topic.clone() }
    }
}

/// The body of a message about an event. A member is `null` where there is nothing to say, and never missing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventBody<'a> {
    r#type: &'static str,
    id: &'a str,
    at: String,
    event: Option<EventNames<'a>>,
    source: Option<&'a str>,
    message_id: Option<&'a str>,
    endpoint: Option<&'a str>,
    webhook_id: Option<&'a str>,
    attempt: Option<u32>,
    status: Option<u16>,
    reason: Option<&'static str>,
    replayed_at: Option<String>,
}

#[derive(Serialize)]
struct EventNames<'a> {
    id: &'a str,
    integrator: &'a str,
    topic: &'a str,
}

/// The body of a message about an endpoint.
#[derive(Serialize)]
struct EndpointBody<'a> {
    r#type: &'static str,
    id: &'a str,
    at: String,
    worker: &'a str,
    integrator: &'a str,
    endpoint: &'a str,
    since: Option<String>,
    until: Option<String>,
    failures: Option<u32>,
    reason: Option<&'static str>,
}

/// A message, ready to be published.
#[derive(Debug)]
pub struct Message {
    /// Its routing key.
    pub routing_key: String,
    /// Its properties.
    pub properties: BasicProperties,
    /// Its body.
    pub body: Vec<u8>,
}

/// What kind of outcome a fact is; `None` where it is none. Cheap.
#[must_use]
pub const fn kind_of(fact: &Fact<'_>) -> Option<OutcomeKind> {
    match fact {
        Fact::Attempted { verdict: Verdict::Delivered, .. } => Some(OutcomeKind::Delivered),
        Fact::DeadLettered { .. } => Some(OutcomeKind::Dead),
        Fact::Rejected { .. } => Some(OutcomeKind::Rejected),
        // After a probe that has failed, a circuit is as open as it was.
        Fact::CircuitOpened { cause: TripCause::Consecutive | TripCause::FailureRate, .. } | Fact::EndpointPaused { .. } => {
            Some(OutcomeKind::EndpointFailing)
        }
        Fact::CircuitClosed { .. } | Fact::EndpointResumed { .. } => Some(OutcomeKind::EndpointRecovered),
        _ => None,
    }
}

impl Outcome {
    /// The outcome that a fact is; `None` where it is none.
    #[must_use]
    pub fn of(fact: &Fact<'_>, at: Timestamp) -> Option<Self> {
        let kind = kind_of(fact)?;
        let subject = match *fact {
            Fact::Attempted { event, endpoint, attempt, replayed_at, reply, .. } => Subject::Event(AboutEvent {
                endpoint: Some(endpoint.id.clone()),
                attempt: Some(attempt),
                status: reply.status(),
                ..AboutEvent::new(Some(event), replayed_at)
            }),
            Fact::DeadLettered { event, endpoint, reason, attempts, status, replayed_at } => Subject::Event(AboutEvent {
                endpoint: Some(endpoint.clone()),
                attempt: Some(attempts),
                status,
                reason: Some(reason.as_str()),
                ..AboutEvent::new(Some(event), replayed_at)
            }),
            Fact::Rejected { source, event, message_id, endpoint, reason, replayed_at } => Subject::Event(AboutEvent {
                source: Some(source.clone()),
                message: event.is_none().then(|| Nameless::new(message_id)),
                endpoint: endpoint.cloned(),
                reason: Some(reason.code()),
                ..AboutEvent::new(event, replayed_at)
            }),
            Fact::CircuitOpened { endpoint, cause, failures, next_probe_at, .. } => Subject::Endpoint(AboutEndpoint {
                since: Some(at),
                until: Some(next_probe_at),
                failures: Some(failures),
                reason: Some(cause.as_str()),
                ..AboutEndpoint::new(endpoint)
            }),
            Fact::EndpointPaused { endpoint, until } => {
                Subject::Endpoint(AboutEndpoint { since: Some(at), until: Some(until), reason: Some(GONE), ..AboutEndpoint::new(endpoint) })
            }
            Fact::CircuitClosed { endpoint, open_for } => {
                let since = at.minus(open_for);
                Subject::Endpoint(AboutEndpoint { since: Some(since), ..AboutEndpoint::new(endpoint) })
            }
            Fact::EndpointResumed { endpoint, cause } => {
                Subject::Endpoint(AboutEndpoint { reason: Some(cause.as_str()), ..AboutEndpoint::new(endpoint) })
            }
            _ => return None,
        };
        Some(Self { kind, at, subject })
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        // The names are shared with the event, which may live no longer than this; those of an endpoint or a source live as long as it is
        // configured.
        let names = match &self.subject {
            Subject::Event(AboutEvent { event: Some(Named { id, integrator, topic }), .. }) => {
                id.as_str().len() + integrator.as_str().len() + topic.as_str().len()
            }
            Subject::Event(AboutEvent { message: Some(Nameless { id: Some(id), .. }), .. }) => id.as_str().len(),
            _ => 0,
        };
        size_of::<Self>() + names
    }

    /// The message that tells it, for the worker of this name.
    #[must_use]
    pub fn message(&self, worker: &str) -> Message {
        let (integrator, id, body) = match &self.subject {
            Subject::Event(about) => {
                let (id, body) = about.written(self.kind, self.at);
                (about.event.as_ref().map(|event| &event.integrator), id, body)
            }
            Subject::Endpoint(about) => {
                let (id, body) = about.written(self.kind, self.at, worker);
                (Some(&about.integrator), id, body)
            }
        };
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_app_id("callbackd".into())
            .with_type(self.kind.as_str().into())
            .with_timestamp(u64::try_from(self.at.seconds()).unwrap_or(0))
            .with_message_id(id.as_str().into());
        // Texts and numbers alone can always be written.
        Message { routing_key: routing_key(self.kind, integrator), properties, body: body.unwrap_or_default() }
    }
}

/// An id and the body with it.
type Written = (String, serde_json::Result<Vec<u8>>);

impl AboutEvent {
    fn new(event: Option<EventRef<'_>>, replayed_at: Option<Timestamp>) -> Self {
        let event = event.map(Named::from);
        Self { event, source: None, message: None, endpoint: None, attempt: None, status: None, reason: None, replayed_at }
    }

    fn written(&self, kind: OutcomeKind, at: Timestamp) -> Written {
        let webhook_id = self.event.as_ref().zip(self.endpoint.as_ref());
        let webhook_id = webhook_id.map(|(event, endpoint)| webhook_id_of(&event.integrator, endpoint, &event.topic, &event.id));
        let id = self.id(kind, at, webhook_id.as_deref());
        let body = EventBody {
            r#type: kind.as_str(),
            id: &id,
            at: at.to_string(),
            event: self.event.as_ref().map(Named::names),
            source: self.source.as_ref().map(SourceName::as_str),
            message_id: self.message.as_ref().and_then(|message| message.id.as_ref()).map(EventId::as_str),
            endpoint: self.endpoint.as_ref().map(EndpointId::as_str),
            webhook_id: webhook_id.as_deref(),
            attempt: self.attempt,
            status: self.status,
            reason: self.reason,
            replayed_at: self.replayed_at.map(|at| at.to_string()),
        };
        let body = serde_json::to_vec(&body);
        (id, body)
    }

    fn id(&self, kind: OutcomeKind, at: Timestamp, webhook_id: Option<&str>) -> String {
        match (webhook_id, &self.event, &self.source, &self.message) {
            (Some(webhook_id), ..) => delivery_outcome_id(kind, webhook_id, self.replayed_at),
            (None, Some(event), ..) => event_outcome_id(&event.integrator, event.topic.as_str(), event.id.as_str(), self.replayed_at),
            (None, None, Some(source), Some(message)) => message_outcome_id(source, at, message.dice),
            (None, None, ..) => delivery_outcome_id(kind, &at.to_string(), self.replayed_at),
        }
    }
}

impl AboutEndpoint {
    fn new(endpoint: &Endpoint) -> Self {
        let (integrator, endpoint) = (endpoint.integrator.clone(), endpoint.id.clone());
        Self { integrator, endpoint, since: None, until: None, failures: None, reason: None }
    }

    fn written(&self, kind: OutcomeKind, at: Timestamp, worker: &str) -> Written {
        let id = endpoint_outcome_id(kind, worker, &self.integrator, &self.endpoint, at);
        let body = EndpointBody {
            r#type: kind.as_str(),
            id: &id,
            at: at.to_string(),
            worker,
            integrator: self.integrator.as_str(),
            endpoint: self.endpoint.as_str(),
            since: self.since.map(|since| since.to_string()),
            until: self.until.map(|until| until.to_string()),
            failures: self.failures,
            reason: self.reason,
        };
        let body = serde_json::to_vec(&body);
        (id, body)
    }
}

impl Nameless {
    fn new(message_id: Option<&str>) -> Self {
        Self { id: message_id.and_then(|id| EventId::try_new(id).ok()), dice: fastrand::u64(..) }
    }
}

impl Named {
    fn names(&self) -> EventNames<'_> {
        EventNames { id: self.id.as_str(), integrator: self.integrator.as_str(), topic: self.topic.as_str() }
    }
}
