//! How a delivery ends: acknowledged with proof, or with a confirmed copy elsewhere. Publish first, then acknowledge: a
//! crash in between makes a duplicate, never a loss.

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::delivery::Delivery;
use super::parcel::{Original, Parcel};
use crate::broker::{Claim, Confirmed, Delivered, Outgoing, Proof, headers};
use crate::clock;
use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::decide::Wait;
use crate::domain::format::Unrenderable;
use crate::domain::history::History;
use crate::domain::integrator::{Endpoint, SkipReason};
use crate::domain::names::EndpointId;
use crate::telemetry::{EventOutcome, EventRef, Fact};

/// The endpoint has it.
pub(super) fn delivered(parcel: &Parcel, proof: Delivered) {
    parcel.settle(Proof::Delivered(proof), EventOutcome::Delivered);
}

/// The endpoint is not told, on purpose.
pub(super) fn skip(shared: &Shared, parcel: &Parcel, endpoint: &Endpoint, reason: SkipReason) {
    shared.telemetry.record(&Fact::Skipped { event: parcel.event_ref(), endpoint, reason });
    parcel.settle(Proof::Skipped, EventOutcome::Skipped);
}

/// Puts the event, or the one delivery that `history` names, into the ladder.
pub(super) async fn wait(shared: &Shared, parcel: &Parcel, history: History, wait: Wait) {
    let history = History { due_at: Some(wait.due_at), hold_until: wait.hold_until, ..history };
    let properties = headers::retry_copy(&original(&parcel.original), &history);
    let queue = parcel.original.source.wait_queue(wait.rung);
    if let Some(confirmed) = publish(shared, &parcel.original, queue, properties, parcel.over()).await {
        parcel.settle(Proof::Copied(confirmed), EventOutcome::Waiting);
    }
}

/// Gives the delivery up: it goes to the dead letters.
pub(super) async fn dead(shared: &Shared, delivery: &Delivery, history: &History, reason: DeadReason) {
    give_up(shared, &delivery.parcel, &delivery.endpoint.id, history, reason).await;
}

/// Gives up a delivery whose endpoint is not configured any more.
pub(super) async fn endpoint_removed(shared: &Shared, parcel: &Parcel, endpoint: &EndpointId) {
    give_up(shared, parcel, endpoint, &parcel.history, DeadReason::EndpointRemoved).await;
}

async fn give_up(shared: &Shared, parcel: &Parcel, endpoint: &EndpointId, history: &History, reason: DeadReason) {
    let history = History { endpoint: Some(endpoint.clone()), due_at: None, hold_until: None, ..history.clone() };
    let properties = headers::dead_copy(&original(&parcel.original), &history, parcel.event_ref(), reason, clock::now());
    let queue = shared.config.broker.names.dead.clone();
    if let Some(confirmed) = publish(shared, &parcel.original, queue, properties, parcel.over()).await {
        let event = parcel.event_ref();
        shared.telemetry.record(&Fact::DeadLettered { event, endpoint, reason, attempts: history.attempts });
        parcel.settle(Proof::Copied(confirmed), EventOutcome::Dead);
    }
}

/// One endpoint's format cannot carry the event: a copy that names the endpoint goes to the rejected.
pub(super) async fn unrenderable(shared: &Shared, delivery: &Delivery, fault: Unrenderable) {
    let Delivery { parcel, endpoint } = delivery;
    let reason = RejectReason::Unrenderable(fault);
    if let Some(confirmed) = into_rejected(shared, parcel, Some(&endpoint.id), &reason).await {
        parcel.settle(Proof::Copied(confirmed), EventOutcome::Rejected);
    }
}

/// Nobody has the event's integrator's key, and that for long enough.
pub(super) async fn unknown_integrator(shared: &Shared, parcel: &Parcel) {
    let reason = RejectReason::UnknownIntegrator;
    if let Some(confirmed) = into_rejected(shared, parcel, None, &reason).await {
        parcel.settle(Proof::Copied(confirmed), EventOutcome::Rejected);
    }
}

async fn into_rejected(shared: &Shared, parcel: &Parcel, endpoint: Option<&EndpointId>, reason: &RejectReason) -> Option<Confirmed> {
    let rejection = Rejection { event: Some(parcel.event_ref()), endpoint, reason };
    copy_to_rejected(shared, &parcel.original, &parcel.history, &rejection, parcel.over()).await
}

/// The message is no event at all: it goes to the rejected as it came.
pub(super) async fn reject(shared: &Shared, original: &Original, history: &History, reason: &RejectReason, claim: Claim) {
    let rejection = Rejection { event: None, endpoint: None, reason };
    if let Some(confirmed) = copy_to_rejected(shared, original, history, &rejection, &claim.over()).await {
        claim.settle(Proof::Copied(confirmed));
        shared.telemetry.record(&Fact::Settled { source: &original.source.name, outcome: EventOutcome::Rejected });
    }
}

/// What is no delivery, and why.
struct Rejection<'a> {
    event: Option<EventRef<'a>>,
    endpoint: Option<&'a EndpointId>,
    reason: &'a RejectReason,
}

async fn copy_to_rejected(
    shared: &Shared,
    message: &Original,
    history: &History,
    rejection: &Rejection<'_>,
    over: &CancellationToken,
) -> Option<Confirmed> {
    let Rejection { event, endpoint, reason } = *rejection;
    let history = History { endpoint: endpoint.cloned().or_else(|| history.endpoint.clone()), ..history.clone() };
    let properties = headers::rejected_copy(&original(message), &history, event, reason, clock::now());
    let queue = shared.config.broker.names.rejected.clone();
    let confirmed = publish(shared, message, queue, properties, over).await?;
    shared.telemetry.record(&Fact::Rejected { source: &message.source.name, event, endpoint, reason });
    Some(confirmed)
}

/// The properties of a message are so large that ours would not fit beside them: the broker moves it itself.
pub(super) fn reject_by_broker(shared: &Shared, original: &Original, claim: Claim) {
    let source = &original.source.name;
    claim.reject();
    shared.telemetry.record(&Fact::Rejected { source, event: None, endpoint: None, reason: &RejectReason::HeadersTooLarge });
    shared.telemetry.record(&Fact::Settled { source, outcome: EventOutcome::Rejected });
}

/// Publishes until the broker confirms it. `None` when the worker halts, the broker will deliver the original again, or
/// the copy is impossible.
async fn publish(
    shared: &Shared,
    message: &Original,
    queue: String,
    properties: lapin::BasicProperties,
    over: &CancellationToken,
) -> Option<Confirmed> {
    let outgoing = Outgoing { queue, properties, body: message.body.clone() };
    tokio::select! {
        confirmed = shared.publisher.publish_until_confirmed(&outgoing, over) => confirmed.ok(),
        () = shared.halt.cancelled() => None,
    }
}

fn original(message: &Original) -> headers::Original<'_> {
    headers::Original {
        properties: &message.properties,
        exchange: &message.exchange,
        routing_key: &message.routing_key,
        source: &message.source.name,
        trust: if message.due { headers::Trust::Ours } else { headers::Trust::Foreign },
    }
}
