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
    /// A delivery, or an event that is none.
    Event {
        event: Option<Named>,
        /// Where a message came from that is no event, and what tells it from others.
        source: Option<(SourceName, u64)>,
        endpoint: Option<EndpointId>,
        attempt: Option<u32>,
        status: Option<u16>,
        reason: Option<&'static str>,
    },
    /// An endpoint.
    Endpoint {
        integrator: IntegratorKey,
        endpoint: EndpointId,
        since: Option<Timestamp>,
        failures: Option<u32>,
        reason: Option<&'static str>,
    },
}

#[derive(Debug, Clone)]
struct Named {
    id: EventId,
    integrator: IntegratorKey,
    topic: Topic,
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
    endpoint: Option<&'a str>,
    webhook_id: Option<String>,
    attempt: Option<u32>,
    status: Option<u16>,
    reason: Option<&'static str>,
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
    integrator: &'a str,
    endpoint: &'a str,
    since: Option<String>,
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
            Fact::Attempted { event, endpoint, attempt, reply, .. } => Subject::Event {
                event: Some(event.into()),
                source: None,
                endpoint: Some(endpoint.id.clone()),
                attempt: Some(attempt),
                status: reply.status(),
                reason: None,
            },
            Fact::DeadLettered { event, endpoint, reason, attempts, status } => Subject::Event {
                event: Some(event.into()),
                source: None,
                endpoint: Some(endpoint.clone()),
                attempt: Some(attempts),
                status,
                reason: Some(reason.as_str()),
            },
            Fact::Rejected { source, event, endpoint, reason, .. } => Subject::Event {
                event: event.map(Named::from),
                source: event.is_none().then(|| (source.clone(), fastrand::u64(..))),
                endpoint: endpoint.cloned(),
                attempt: None,
                status: None,
                reason: Some(reason.code()),
            },
            Fact::CircuitOpened { endpoint, cause, failures, .. } => {
                Subject::endpoint(endpoint, Some(at), Some(failures), Some(cause.as_str()))
            }
            Fact::EndpointPaused { endpoint, .. } => Subject::endpoint(endpoint, Some(at), None, Some(GONE)),
            Fact::CircuitClosed { endpoint, open_for } => {
                let open_for = i64::try_from(open_for.as_millis()).unwrap_or(i64::MAX);
                Subject::endpoint(endpoint, Some(Timestamp::from_millis(at.millis().saturating_sub(open_for))), None, None)
            }
            Fact::EndpointResumed { endpoint, cause } => Subject::endpoint(endpoint, None, None, Some(cause.as_str())),
            _ => return None,
        };
        Some(Self { kind, at, subject })
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        // The names are shared with the event, which may live no longer than this; those of an endpoint live as long as it is configured.
        let names = match &self.subject {
            Subject::Event { event: Some(Named { id, integrator, topic }), .. } => {
                id.as_str().len() + integrator.as_str().len() + topic.as_str().len()
            }
            _ => 0,
        };
        size_of::<Self>() + names
    }

    /// The message that tells it.
    #[must_use]
    pub fn message(&self) -> Message {
        let (kind, at) = (self.kind.as_str(), self.at.to_string());
        let (integrator, id, body) = match &self.subject {
            Subject::Event { event, source, endpoint, attempt, status, reason } => {
                let webhook_id = event.as_ref().zip(endpoint.as_ref());
                let webhook_id = webhook_id.map(|(event, endpoint)| webhook_id_of(&event.integrator, endpoint, &event.topic, &event.id));
                let id = self.id_of_event(event.as_ref(), source.as_ref(), webhook_id.as_deref());
                let body = EventBody {
                    r#type: kind,
                    id: &id,
                    at,
                    event: event.as_ref().map(Named::names),
                    endpoint: endpoint.as_ref().map(EndpointId::as_str),
                    webhook_id,
                    attempt: *attempt,
                    status: *status,
                    reason: *reason,
                };
                let body = serde_json::to_vec(&body);
                (event.as_ref().map(|event| &event.integrator), id, body)
            }
            Subject::Endpoint { integrator, endpoint, since, failures, reason } => {
                let id = endpoint_outcome_id(self.kind, integrator, endpoint, self.at);
                let body = EndpointBody {
                    r#type: kind,
                    id: &id,
                    at,
                    integrator: integrator.as_str(),
                    endpoint: endpoint.as_str(),
                    since: since.map(|since| since.to_string()),
                    failures: *failures,
                    reason: *reason,
                };
                let body = serde_json::to_vec(&body);
                (Some(integrator), id, body)
            }
        };
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_app_id("callbackd".into())
            .with_type(kind.into())
            .with_timestamp(u64::try_from(self.at.seconds()).unwrap_or(0))
            .with_message_id(id.as_str().into());
        // Texts and numbers alone can always be written.
        Message { routing_key: routing_key(self.kind, integrator), properties, body: body.unwrap_or_default() }
    }

    fn id_of_event(&self, event: Option<&Named>, source: Option<&(SourceName, u64)>, webhook_id: Option<&str>) -> String {
        match (webhook_id, event, source) {
            (Some(webhook_id), ..) => delivery_outcome_id(self.kind, webhook_id),
            (None, Some(event), _) => event_outcome_id(&event.integrator, event.topic.as_str(), event.id.as_str()),
            (None, None, Some((source, dice))) => message_outcome_id(source, self.at, *dice),
            (None, None, None) => delivery_outcome_id(self.kind, &self.at.to_string()),
        }
    }
}

impl Subject {
    fn endpoint(endpoint: &Endpoint, since: Option<Timestamp>, failures: Option<u32>, reason: Option<&'static str>) -> Self {
        Self::Endpoint { integrator: endpoint.integrator.clone(), endpoint: endpoint.id.clone(), since, failures, reason }
    }
}

impl Named {
    fn names(&self) -> EventNames<'_> {
        EventNames { id: self.id.as_str(), integrator: self.integrator.as_str(), topic: self.topic.as_str() }
    }
}
