//! The log: exactly one line per fact, with a constant message and the fact's fields.
//!
//! Text from outside goes in as a field of type `str`, which both formats escape; nothing is formatted for a line that
//! the filter drops.

mod circuits;
mod delivery_log;
mod jobs;
mod outcomes;
mod traces;

use std::borrow::Cow;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::{EventRef, Fact, WaitCause};
use crate::clock;
use crate::domain::decide::{Verdict, Wait};
use crate::domain::names::EndpointId;

/// Longest id or key in a log line, in bytes; the names themselves may have five times as many.
const NAME_LIMIT: usize = 200;

/// Longest error text in a log line, in bytes: a broker's reply text has at most 255.
const TEXT_LIMIT: usize = 500;

/// Longest reason for a lost link, in bytes: it may list what is missing on the broker, how many things and what to do first.
const LOST_LIMIT: usize = 2000;

/// Longest list of problems in a log line, in bytes: about twenty problems.
const PROBLEMS_LIMIT: usize = 4000;

/// Writes the line of a fact.
pub(super) fn write(fact: &Fact<'_>) {
    match fact {
        Fact::Attempted { .. } => attempt(fact),
        Fact::TokenGranted { url, life } => {
            debug!(target: "callbackd", token_server = url.to_string(), life_ms = ms(*life), "token granted");
        }
        Fact::TokenRefused { url, fault } => {
            warn!(target: "callbackd", token_server = url.to_string(), error = fault.to_string(), "token refused");
        }
        Fact::Waits { .. } => waits(fact),
        Fact::Received { .. } | Fact::Settled { .. } | Fact::Skipped { .. } | Fact::DeadLettered { .. } | Fact::Rejected { .. } => {
            event(fact)
        }
        Fact::CircuitOpened { .. }
        | Fact::CircuitProbing { .. }
        | Fact::CircuitClosed { .. }
        | Fact::EndpointPaused { .. }
        | Fact::EndpointResumed { .. }
        | Fact::EndpointHeld { .. }
        | Fact::EndpointReleased { .. }
        | Fact::HoldsUnread { .. }
        | Fact::HoldsRead { .. } => circuits::write(fact),
        Fact::DeliveryLogReady { .. }
        | Fact::DeliveryLogFailed { .. }
        | Fact::DeliveryLogFull
        | Fact::DeliveryLogWritten { .. }
        | Fact::DeliveryLogNotTrimmed { .. }
        | Fact::DeliveryLogTrimmed { .. } => delivery_log::write(fact),
        Fact::OutcomesReady { .. }
        | Fact::OutcomesFailed { .. }
        | Fact::OutcomesFull
        | Fact::OutcomesRefused { .. }
        | Fact::OutcomesDropped { .. } => outcomes::write(fact),
        Fact::TracesReady { .. }
        | Fact::TracesFailed { .. }
        | Fact::TracesFull
        | Fact::TracesRefused { .. }
        | Fact::TracesDropped { .. } => traces::write(fact),
        Fact::BrokerConnected { .. }
        | Fact::BrokerLost { .. }
        | Fact::BrokerBlocked { .. }
        | Fact::BrokerUnblocked
        | Fact::Quarantined { .. }
        | Fact::QuarantineOver { .. }
        | Fact::Consuming { .. }
        | Fact::WindowNarrowed { .. }
        | Fact::PublishFailed { .. }
        | Fact::StaleAcks { .. }
        | Fact::TopologyReady { .. } => broker(fact),
        Fact::JobEnded { .. } | Fact::JobsNotRecorded { .. } | Fact::JobsRecorded => jobs::write(fact),
        Fact::Started { .. }
        | Fact::Audited { .. }
        | Fact::ApiRefused { .. }
        | Fact::Reloaded { .. }
        | Fact::ReloadRefused { .. }
        | Fact::Stopping { .. }
        | Fact::Stopped { .. } => service(fact),
    }
}

fn attempt(fact: &Fact<'_>) {
    let Fact::Attempted { event, endpoint, webhook_id, attempt, place, request_bytes, reply, verdict, latency, .. } = *fact else { return };
    let (wait, reason) = match verdict {
        Verdict::Delivered => (None, None),
        Verdict::Retry(wait) => (Some(wait), None),
        Verdict::Dead(reason) => (None, Some(reason.as_str())),
    };
    info!(
        target: "callbackd",
        event_id = &*id(&event),
        integrator = &*cut(endpoint.integrator.as_str(), NAME_LIMIT),
        endpoint = endpoint.id.as_str(),
        topic = &*topic(&event),
        webhook_id = &*cut(webhook_id, NAME_LIMIT),
        attempt,
        batch = place.of,
        request_bytes,
        status = reply.status(),
        class = reply.class(),
        took_ms = ms(reply.took),
        verdict = verdict.as_str(),
        reason,
        retry_in_ms = wait.map(remaining_ms),
        due_at = wait.map(|wait| wait.due_at.to_string()),
        latency_ms = latency.map(ms),
        "attempt"
    );
}

fn waits(fact: &Fact<'_>) {
    let Fact::Waits { event, endpoint, cause, wait, .. } = *fact else { return };
    // The level of a line is part of what `tracing` knows of it before it runs, so there is one line for each level.
    macro_rules! line {
        ($level:ident) => {
            $level!(
                target: "callbackd",
                event_id = &*id(&event),
                integrator = &*integrator(&event),
                endpoint = endpoint.map(EndpointId::as_str),
                topic = &*topic(&event),
                cause = cause.as_str(),
                retry_in_ms = remaining_ms(&wait),
                due_at = wait.due_at.to_string(),
                "waits"
            )
        };
    }
    match cause {
        // The attempt before has its own line, which says the same; so has the circuit that opened and the endpoint that
        // paused. A full lane sends thousands away: they are counted.
        WaitCause::Retry | WaitCause::HoldUntil | WaitCause::Parked | WaitCause::Circuit | WaitCause::Paused | WaitCause::Held => {
            line!(debug);
        }
        WaitCause::Configuration | WaitCause::Stopping => line!(info),
    }
}

fn event(fact: &Fact<'_>) {
    match *fact {
        Fact::Received { source, due, late_by } => {
            debug!(target: "callbackd", source = source.as_str(), due, late_by_ms = late_by.map(ms), "received");
        }
        Fact::Settled { source, event, outcome } => debug!(
            target: "callbackd",
            source = source.as_str(),
            event_id = event.as_ref().map(id).as_deref(),
            outcome = outcome.as_str(),
            "settled"
        ),
        Fact::Skipped { event, endpoint, reason } => info!(
            target: "callbackd",
            event_id = &*id(&event),
            integrator = &*integrator(&event),
            endpoint = endpoint.id.as_str(),
            topic = &*topic(&event),
            reason = reason.as_str(),
            "skipped"
        ),
        Fact::DeadLettered { event, endpoint, reason, attempts, .. } => warn!(
            target: "callbackd",
            event_id = &*id(&event),
            integrator = &*integrator(&event),
            endpoint = endpoint.as_str(),
            topic = &*topic(&event),
            reason = reason.as_str(),
            attempts,
            "dead letter"
        ),
        Fact::Rejected { source, event, endpoint, reason, .. } => warn!(
            target: "callbackd",
            source = source.as_str(),
            event_id = event.as_ref().map(id).as_deref(),
            integrator = event.as_ref().map(integrator).as_deref(),
            endpoint = endpoint.map(EndpointId::as_str),
            topic = event.as_ref().map(topic).as_deref(),
            reason = reason.code(),
            detail = &*cut(&reason.to_string(), TEXT_LIMIT),
            "rejected"
        ),
        _ => {}
    }
}

fn broker(fact: &Fact<'_>) {
    match *fact {
        Fact::BrokerConnected { link } => info!(target: "callbackd", link, "broker connected"),
        Fact::BrokerLost { link, error, retry_in } => {
            warn!(target: "callbackd", link, error = &*cut(error, LOST_LIMIT), retry_in_ms = ms(retry_in), "broker lost");
        }
        Fact::BrokerBlocked { reason } => warn!(target: "callbackd", reason = &*cut(reason, TEXT_LIMIT), "broker blocked"),
        Fact::BrokerUnblocked => info!(target: "callbackd", "broker unblocked"),
        Fact::Quarantined { queue } => warn!(target: "callbackd", queue, "quarantined"),
        Fact::QuarantineOver { queue } => info!(target: "callbackd", queue, "quarantine over"),
        Fact::Consuming { queue, prefetch } => debug!(target: "callbackd", queue, prefetch, "consuming"),
        Fact::WindowNarrowed { queue, prefetch, given_back } => {
            info!(target: "callbackd", queue, prefetch, given_back, "window narrowed");
        }
        Fact::PublishFailed { queue, error } => {
            warn!(target: "callbackd", queue, error = &*cut(error, TEXT_LIMIT), "publish failed");
        }
        Fact::StaleAcks { queue, count } => warn!(target: "callbackd", queue, count, "stale acks"),
        Fact::TopologyReady { objects } => info!(target: "callbackd", objects, "topology ready"),
        _ => {}
    }
}

fn service(fact: &Fact<'_>) {
    match *fact {
        Fact::Started { integrators, endpoints } => {
            info!(target: "callbackd", version = env!("CARGO_PKG_VERSION"), integrators, endpoints, "started");
        }
        Fact::Audited { actor, action, detail } => {
            let detail = detail.map(|detail| cut(detail, TEXT_LIMIT));
            info!(target: "callbackd::audit", actor, action, detail = detail.as_deref(), "audit");
        }
        // Whoever tries could fill the log: they are counted.
        Fact::ApiRefused { reason } => debug!(target: "callbackd", reason = reason.as_str(), "api refused"),
        Fact::Reloaded { integrators, endpoints } => info!(target: "callbackd", integrators, endpoints, "reloaded"),
        Fact::ReloadRefused { problems } => error!(
            target: "callbackd",
            count = problems.len(),
            problems = &*cut(&problems.join("; "), PROBLEMS_LIMIT),
            "reload refused"
        ),
        Fact::Stopping { open, limit } => info!(target: "callbackd", open, limit_ms = ms(limit), "stopping"),
        Fact::Stopped { abandoned } => info!(target: "callbackd", abandoned, "stopped"),
        _ => {}
    }
}

fn id<'a>(event: &EventRef<'a>) -> Cow<'a, str> {
    cut(event.id.as_str(), NAME_LIMIT)
}

fn integrator<'a>(event: &EventRef<'a>) -> Cow<'a, str> {
    cut(event.integrator.as_str(), NAME_LIMIT)
}

fn topic<'a>(event: &EventRef<'a>) -> Cow<'a, str> {
    cut(event.topic.as_str(), NAME_LIMIT)
}

/// At most `limit` bytes of a text, and `…` where more was there. DEL and the C1 controls, which JSON leaves as they are
/// and terminals obey, become U+FFFD.
fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    // What nearly every text is, found out without a look at single characters.
    if text.len() <= limit && text.bytes().all(|byte| byte < 0x7f) {
        return Cow::Borrowed(text);
    }
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    let shown = &text[..end];
    let is_bad = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    match (shown.len() < text.len(), shown.contains(is_bad)) {
        (false, false) => Cow::Borrowed(text),
        (true, false) => Cow::Owned(format!("{shown}…")),
        (false, true) => Cow::Owned(shown.replace(is_bad, "\u{fffd}")),
        (true, true) => Cow::Owned(format!("{}…", shown.replace(is_bad, "\u{fffd}"))),
    }
}

fn remaining_ms(wait: &Wait) -> u64 {
    ms(wait.due_at.since(clock::now()))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
