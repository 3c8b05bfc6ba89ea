//! One thing that became of an event, as it is stored.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::insert::storable;
use crate::domain::decide::Verdict;
use crate::domain::names::{BadName, EndpointId, EventId, IntegratorKey, SourceName, Topic};
use crate::domain::search::{SearchKey, SearchKeys};
use crate::domain::time::Timestamp;
use crate::telemetry::{EventRef, Fact, WaitCause};

/// What an entry tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A request was made.
    Attempt,
    /// It waits, not for the next attempt after one that failed.
    Waits,
    /// An endpoint is not told, on purpose.
    Skipped,
    /// It was given up.
    Dead,
    /// It is no delivery.
    Rejected,
}

impl What {
    /// The word that is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Waits => "waits",
            Self::Skipped => "skipped",
            Self::Dead => "dead",
            Self::Rejected => "rejected",
        }
    }
}

/// One thing that became of an event. What does not apply is `None`.
#[derive(Debug)]
pub struct Entry {
    /// When it was recorded: of an attempt, its end.
    pub at: Timestamp,
    /// What it tells.
    pub what: What,
    /// The event; of a message that is none, its AMQP `message_id`.
    pub event_id: Option<EventId>,
    /// Whose it is.
    pub integrator: Option<IntegratorKey>,
    /// Who is, or is not, told.
    pub endpoint: Option<EndpointId>,
    /// What it is about.
    pub topic: Option<Topic>,
    /// Where it came from; only where it was rejected.
    pub source: Option<SourceName>,
    /// The message's id at the endpoint.
    pub webhook_id: Option<String>,
    /// The number of this attempt, or of those made so far.
    pub attempt: Option<u32>,
    /// Events in the request.
    pub events: Option<usize>,
    /// What follows from an attempt.
    pub verdict: Option<&'static str>,
    /// Why it waits, was skipped, given up or rejected.
    pub reason: Option<&'static str>,
    /// What the attempt ended with, as [`crate::domain::reply::Reply::class`] says it. Counted, not stored.
    pub class: Option<&'static str>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Why the attempt failed; nothing that an endpoint wrote.
    pub error: Option<String>,
    /// How long the request took.
    pub took: Option<Duration>,
    /// Bytes of its body.
    pub request_bytes: Option<usize>,
    /// When it is planned to go on.
    pub due_at: Option<Timestamp>,
    /// When an operator replayed the event last.
    pub replayed_at: Option<Timestamp>,
    /// What the event is found by; with its first entry alone.
    pub keys: Vec<SearchKey>,
    /// The event itself, with the same entry, where events are stored.
    pub payload: Option<Bytes>,
}

/// What is kept of events beside what became of them.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What they are found by.
    pub keys: SearchKeys,
    /// Whether the events themselves are stored.
    pub payloads: bool,
}

impl Entry {
    /// Whether a fact becomes an entry. Cheap.
    #[must_use]
    pub const fn is_made_of(fact: &Fact<'_>) -> bool {
        match fact {
            Fact::Waits { cause, parked, .. } => is_told(*cause, *parked),
            Fact::Attempted { .. } | Fact::Skipped { .. } | Fact::DeadLettered { .. } | Fact::Rejected { .. } => true,
            _ => false,
        }
    }

    /// The entry of a fact; `None` for facts that the log does not keep. A retry is told by the attempt before; and of an endpoint that keeps an event
    /// waiting by the 1st, 2nd, 4th, 8th stay and so on, or those of an outage would be most of the log.
    #[must_use]
    pub fn of(fact: &Fact<'_>, kept: &Kept, at: Timestamp) -> Option<Self> {
        match *fact {
            Fact::Attempted { event, endpoint, webhook_id, attempt, replayed_at, place, request_bytes, reply, verdict, .. } => {
                let (reason, due_at) = match verdict {
                    Verdict::Delivered => (None, None),
                    Verdict::Retry(wait) => (None, Some(wait.due_at)),
                    Verdict::Dead(reason) => (Some(reason.as_str()), None),
                };
                Some(Self {
                    endpoint: Some(endpoint.id.clone()),
                    webhook_id: Some(webhook_id.to_owned()),
                    attempt: Some(attempt),
                    events: Some(place.of),
                    verdict: Some(verdict.as_str()),
                    reason,
                    class: Some(reply.class()),
                    status: reply.status(),
                    error: reply.error(),
                    took: Some(reply.took),
                    request_bytes: Some(request_bytes),
                    due_at,
                    replayed_at,
                    ..Self::about(event, What::Attempt, at).with(kept, event, attempt == 1)
                })
            }
            Fact::Waits { event, endpoint, cause, wait, attempts, parked } if is_told(cause, parked) => Some(Self {
                endpoint: endpoint.cloned(),
                attempt: Some(attempts),
                reason: Some(cause.as_str()),
                due_at: Some(wait.due_at),
                ..Self::about(event, What::Waits, at).with(kept, event, attempts == 0 && parked <= 1)
            }),
            Fact::Skipped { event, endpoint, reason } => Some(Self {
                endpoint: Some(endpoint.id.clone()),
                reason: Some(reason.as_str()),
                ..Self::about(event, What::Skipped, at).with(kept, event, true)
            }),
            Fact::DeadLettered { event, endpoint, reason, attempts, .. } => Some(Self {
                endpoint: Some(endpoint.clone()),
                attempt: Some(attempts),
                reason: Some(reason.as_str()),
                ..Self::about(event, What::Dead, at).with(kept, event, attempts == 0)
            }),
            Fact::Rejected { source, event, message_id, endpoint, reason, .. } => {
                let entry = Self { source: Some(source.clone()), reason: Some(reason.code()), ..Self::new(What::Rejected, at) };
                Some(match event {
                    // The id is all that upstream can look for it by.
                    None => Self { event_id: message_id.and_then(|id| EventId::try_new(storable(id)).ok()), ..entry },
                    Some(event) => Self {
                        endpoint: endpoint.cloned(),
                        source: entry.source,
                        reason: entry.reason,
                        ..Self::about(event, What::Rejected, at).with(kept, event, true)
                    },
                })
            }
            _ => None,
        }
    }

    fn new(what: What, at: Timestamp) -> Self {
        Self {
            at,
            what,
            event_id: None,
            integrator: None,
            endpoint: None,
            topic: None,
            source: None,
            webhook_id: None,
            attempt: None,
            events: None,
            verdict: None,
            reason: None,
            class: None,
            status: None,
            error: None,
            took: None,
            request_bytes: None,
            due_at: None,
            replayed_at: None,
            keys: Vec::new(),
            payload: None,
        }
    }

    fn about(event: EventRef<'_>, what: What, at: Timestamp) -> Self {
        Self {
            event_id: Some(stored(event.id, EventId::as_str, EventId::try_new)),
            integrator: Some(stored(event.integrator, IntegratorKey::as_str, IntegratorKey::try_new)),
            topic: Some(stored(event.topic, Topic::as_str, Topic::try_new)),
            ..Self::new(what, at)
        }
    }

    /// With what is stored once for an event, if this is the first that is told of it.
    fn with(self, kept: &Kept, event: EventRef<'_>, is_first: bool) -> Self {
        match event.whole.filter(|_| is_first) {
            None => self,
            Some(whole) => Self { keys: kept.keys.of(whole), payload: kept.payloads.then(|| whole.body().clone()), ..self },
        }
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        let keys: usize = self.keys.iter().map(|key| size_of::<SearchKey>() + key.name.len() + key.value.len()).sum();
        let texts = self.webhook_id.as_ref().map_or(0, String::len) + self.error.as_ref().map_or(0, String::len);
        // The names are shared with the event, which may live no longer than this.
        let names = [
            self.event_id.as_ref().map_or(0, |id| id.as_str().len()),
            self.integrator.as_ref().map_or(0, |key| key.as_str().len()),
            self.topic.as_ref().map_or(0, |topic| topic.as_str().len()),
        ];
        let names: usize = names.iter().sum();
        size_of::<Self>() + keys + texts + names + self.payload.as_ref().map_or(0, Bytes::len)
    }
}

/// A name as databases take it.
fn stored<N: Clone>(name: &N, text: fn(&N) -> &str, make: fn(String) -> Result<N, BadName>) -> N {
    match storable(text(name)) {
        Cow::Borrowed(_) => name.clone(),
        Cow::Owned(text) => make(text).unwrap_or_else(|_| name.clone()),
    }
}

const fn is_told(cause: WaitCause, parked: u32) -> bool {
    match cause {
        WaitCause::Retry | WaitCause::HoldUntil => false,
        WaitCause::Configuration => true,
        WaitCause::Parked | WaitCause::Circuit | WaitCause::Paused | WaitCause::Held | WaitCause::Stopping => parked.is_power_of_two(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_stays_few_are_told_and_retries_are_told_by_their_attempts() {
        let told: Vec<u32> = (0..=78).filter(|stay| is_told(WaitCause::Circuit, *stay)).collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64]);
        assert!(!is_told(WaitCause::Retry, 1) && !is_told(WaitCause::HoldUntil, 1) && is_told(WaitCause::Configuration, 3));
    }
}
