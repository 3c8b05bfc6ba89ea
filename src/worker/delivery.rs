//! One delivery: render, attempt, decide, settle.

use std::sync::Arc;

use super::parcel::Parcel;
use super::{Shared, settle};
use crate::broker::Delivered;
use crate::clock;
use crate::domain::decide::{Rules, Verdict, decide};
use crate::domain::format::{Rendering, render};
use crate::domain::history::History;
use crate::domain::integrator::{Endpoint, SkipReason};
use crate::domain::reply::Reply;
use crate::domain::request::{self, Attempt};
use crate::domain::time::Timestamp;
use crate::telemetry::Fact;

/// One event for one endpoint.
#[derive(Debug)]
pub(super) struct Delivery {
    pub parcel: Arc<Parcel>,
    pub endpoint: Arc<Endpoint>,
}

/// Makes one attempt and settles what follows from it. Returns without settling when a stop or a lost connection comes
/// first: the message is then unacknowledged and the broker delivers it again.
pub(super) async fn run(shared: &Shared, delivery: Delivery) {
    let Delivery { parcel, endpoint } = &delivery;
    if parcel.over().is_cancelled() || shared.stopping.is_cancelled() {
        return;
    }
    match render(endpoint.format, &[&parcel.event]) {
        Ok(Rendering::Body(body)) => attempt(shared, &delivery, body).await,
        Ok(Rendering::Nothing) => settle::skip(shared, parcel, endpoint, SkipReason::NoRecords),
        Err(fault) => settle::unrenderable(shared, &delivery, fault).await,
    }
}

async fn attempt(shared: &Shared, delivery: &Delivery, body: Vec<u8>) {
    let Delivery { parcel, endpoint } = delivery;
    let started_at = clock::now();
    let number = parcel.history.attempts.saturating_add(1);
    let about = Attempt { number, received_at: parcel.history.received_at, now: started_at };
    let request_bytes = body.len();
    let request = request::compose(endpoint, &[&parcel.event], body, &about);
    let webhook_id = request.webhook_id.clone();

    let in_flight = shared.telemetry.in_flight_started();
    let reply = tokio::select! {
        reply = shared.egress.attempt(request, endpoint.timeout) => reply,
        () = shared.halt.cancelled() => return,
    };
    drop(in_flight);

    let now = clock::now();
    let history = attempted(parcel, endpoint, started_at, &reply);
    let rules = Rules { policy: &endpoint.retry, ladder: &shared.config.ladder };
    let verdict = decide(&history, &reply, rules, now, fastrand::f64());
    shared.telemetry.record(&Fact::Attempted {
        event: parcel.event_ref(),
        endpoint,
        webhook_id: &webhook_id,
        attempt: number,
        request_bytes,
        reply: &reply,
        verdict: &verdict,
        latency: matches!(verdict, Verdict::Delivered).then(|| now.since(told_at(parcel))),
    });
    match (verdict, Delivered::from_reply(&reply)) {
        (Verdict::Delivered, Some(proof)) => settle::delivered(parcel, proof),
        // A verdict without the reply to prove it cannot come out of `decide`; unsettled, the event comes again.
        (Verdict::Delivered, None) => {}
        (Verdict::Retry(wait), _) => settle::wait(shared, parcel, history, wait).await,
        (Verdict::Dead(reason), _) => settle::dead(shared, delivery, &history, reason).await,
    }
}

/// The history with this attempt in it.
fn attempted(parcel: &Parcel, endpoint: &Endpoint, started_at: Timestamp, reply: &Reply) -> History {
    let before = &parcel.history;
    History {
        received_at: before.received_at,
        endpoint: Some(endpoint.id.clone()),
        attempts: before.attempts.saturating_add(1),
        first_attempt_at: before.first_attempt_at.or(Some(started_at)),
        last_attempt_at: Some(started_at),
        last_status: reply.status(),
        last_error: reply.error(),
        due_at: None,
        hold_until: None,
        unknown_since: None,
    }
}

/// When the event happened, as far as anybody said so.
fn told_at(parcel: &Parcel) -> Timestamp {
    parcel.event.occurred_at.as_ref().and_then(|occurred| occurred.at).unwrap_or(parcel.history.received_at)
}
