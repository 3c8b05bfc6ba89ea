//! How a delivery ends: acknowledged with proof, or with a confirmed copy elsewhere. Publish first, then acknowledge: a
//! crash in between makes a duplicate, never a loss.

use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::delivery::Delivery;
use super::parcel::{Original, Stake};
use crate::broker::{Claim, Confirmed, Delivered, Outgoing, Proof, Unpublished, headers};
use crate::clock;
use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::decide::{Unknown, Wait, decide_unknown};
use crate::domain::format::Unrenderable;
use crate::domain::history::History;
use crate::domain::integrator::{Endpoint, SkipReason};
use crate::domain::names::EndpointId;
use crate::domain::park::{Need, Parking, Rounding, decide_park};
use crate::telemetry::{EventOutcome, EventRef, Fact, WaitCause};

/// How long a delivery stays in the ladder that makes way for a stop: until another worker can take it.
const MADE_WAY: Duration = Duration::from_secs(30);

/// The endpoint has it.
pub(super) fn delivered(stake: Stake, proof: Delivered) {
    stake.settle(Proof::Delivered(proof), EventOutcome::Delivered);
}

/// The endpoint is not told, on purpose.
pub(super) fn skip(shared: &Shared, stake: Stake, endpoint: &Endpoint, reason: SkipReason) {
    shared.telemetry.record(&Fact::Skipped { event: stake.parcel().event_ref(), endpoint, reason });
    stake.settle(Proof::Skipped, EventOutcome::Skipped);
}

/// Puts the event, or the one delivery that `history` names, into the ladder.
pub(super) async fn wait(shared: &Shared, stake: Stake, history: History, (wait, cause): (Wait, WaitCause)) {
    let history = history.waiting(wait);
    let (attempts, parked) = (history.attempts, history.parked);
    let message = &stake.parcel().original;
    let copy = (message.source.wait_queue(wait.rung), headers::retry_copy(&original(message), &history));
    settle_by_copy(shared, stake, copy, EventOutcome::Waiting, |event| {
        shared.telemetry.record(&Fact::Waits { event, endpoint: history.endpoint.as_ref(), cause, wait, attempts, parked });
    })
    .await;
}

/// Moves a delivery that leaves its lane into the ladder, alone: no attempt is counted, its age goes on until it is too old.
pub(super) async fn park(shared: &Shared, delivery: Delivery, endpoint: &Endpoint, need: Need, cause: WaitCause) {
    let stake = delivery.stake;
    let history = stake.parcel().history.at(&endpoint.id);
    match decide_park(&history, need, &endpoint.policy.retry, &shared.config.ladder, clock::now()) {
        Parking::Wait(stay, turn_at) => wait(shared, stake, history.making_room(turn_at), (stay, cause)).await,
        Parking::Expired => dead(shared, stake, &endpoint.id, &history, DeadReason::Expired).await,
    }
}

/// Moves a delivery into the ladder, alone, so that the worker can stop.
pub(super) async fn make_way(shared: &Shared, delivery: Delivery, endpoint: &Endpoint) {
    let need = Need { wait: MADE_WAY, rounding: Rounding::Up };
    park(shared, delivery, endpoint, need, WaitCause::Stopping).await;
}

/// Nobody by the event's integrator, or by the endpoint's name, is configured. The configuration may be on its way, so the
/// event waits for it for a while; then it is rejected, or the delivery given up.
pub(super) async fn unknown(shared: &Shared, stake: Stake, endpoint: Option<&EndpointId>) {
    let now = clock::now();
    let parcel = stake.parcel();
    // A clock that was fast may have written a time that is still to come: it would be waited for in vain.
    let since = parcel.history.unknown_since.map_or(now, |since| since.min(now));
    let patience = shared.config.worker.unknown_integrator_wait;
    let history = History { endpoint: endpoint.cloned(), unknown_since: Some(since), ..parcel.history.clone() };
    match (decide_unknown(since, patience, &shared.config.ladder, now), endpoint) {
        (Unknown::Wait(stay), _) => wait(shared, stake, history, (stay, WaitCause::Configuration)).await,
        (Unknown::GiveUp, Some(endpoint)) => dead(shared, stake, endpoint, &history, DeadReason::EndpointRemoved).await,
        (Unknown::GiveUp, None) => reject_event(shared, stake, None, RejectReason::UnknownIntegrator).await,
    }
}

/// Gives the delivery up: it goes to the dead letters.
pub(super) async fn dead(shared: &Shared, stake: Stake, endpoint: &EndpointId, history: &History, reason: DeadReason) {
    let parcel = stake.parcel();
    let properties = headers::dead_copy(&original(&parcel.original), &history.at(endpoint), parcel.event_ref(), reason, clock::now());
    let copy = (shared.config.broker.names.dead.clone(), properties);
    settle_by_copy(shared, stake, copy, EventOutcome::Dead, |event| {
        let (attempts, status, replayed_at) = (history.attempts, history.last_status, history.replayed_at);
        shared.telemetry.record(&Fact::DeadLettered { event, endpoint, reason, attempts, status, replayed_at });
    })
    .await;
}

/// One endpoint's format cannot carry the event: a copy that names the endpoint goes to the rejected.
pub(super) async fn unrenderable(shared: &Shared, stake: Stake, endpoint: &Endpoint, fault: Unrenderable) {
    reject_event(shared, stake, Some(&endpoint.id), RejectReason::Unrenderable(fault)).await;
}

async fn reject_event(shared: &Shared, stake: Stake, endpoint: Option<&EndpointId>, reason: RejectReason) {
    let parcel = stake.parcel();
    let source = &Arc::clone(&parcel.original.source).name;
    let history = endpoint.map_or_else(|| parcel.history.clone(), |endpoint| parcel.history.at(endpoint));
    let properties = headers::rejected_copy(&original(&parcel.original), &history, Some(parcel.event_ref()), &reason, clock::now());
    let copy = (shared.config.broker.names.rejected.clone(), properties);
    settle_by_copy(shared, stake, copy, EventOutcome::Rejected, |event| {
        let replayed_at = history.replayed_at;
        shared.telemetry.record(&Fact::Rejected { source, event: Some(event), message_id: None, endpoint, reason: &reason, replayed_at });
    })
    .await;
}

/// Publishes a copy of the message (queue and properties), says so, and settles the delivery with it.
async fn settle_by_copy(
    shared: &Shared,
    stake: Stake,
    copy: (String, BasicProperties),
    outcome: EventOutcome,
    tell: impl FnOnce(EventRef<'_>),
) {
    let parcel = stake.parcel();
    match publish(shared, &parcel.original, copy, parcel.over()).await {
        Copy::Safe(confirmed) => {
            tell(parcel.event_ref());
            stake.settle(Proof::Copied(confirmed), outcome);
        }
        Copy::Unsettled => {}
        Copy::Impossible => {
            record_headers_too_large(shared, &parcel.original, Some(parcel.event_ref()), &parcel.history);
            stake.reject();
        }
    }
}

/// The message is no event at all: it goes to the rejected as it came.
pub(super) async fn reject_message(shared: &Shared, message: &Original, history: &History, reason: &RejectReason, claim: Claim) {
    let properties = headers::rejected_copy(&original(message), history, None, reason, clock::now());
    let copy = (shared.config.broker.names.rejected.clone(), properties);
    let source = &message.source.name;
    match publish(shared, message, copy, &claim.over()).await {
        Copy::Safe(confirmed) => {
            let (message_id, replayed_at) = (message.message_id(), history.replayed_at);
            shared.telemetry.record(&Fact::Rejected { source, event: None, message_id, endpoint: None, reason, replayed_at });
            claim.settle(Proof::Copied(confirmed));
            shared.telemetry.record(&Fact::Settled { source, event: None, outcome: EventOutcome::Rejected });
        }
        Copy::Unsettled => {}
        Copy::Impossible => reject_by_broker(shared, message, history, claim),
    }
}

/// The properties of a message are such that no copy of it can be made: the broker moves it itself.
pub(super) fn reject_by_broker(shared: &Shared, message: &Original, history: &History, claim: Claim) {
    claim.reject();
    record_headers_too_large(shared, message, None, history);
}

fn record_headers_too_large(shared: &Shared, message: &Original, event: Option<EventRef<'_>>, history: &History) {
    let source = &message.source.name;
    let (message_id, replayed_at) = (message.message_id().filter(|_| event.is_none()), history.replayed_at);
    let reason = &RejectReason::HeadersTooLarge;
    shared.telemetry.record(&Fact::Rejected { source, event, message_id, endpoint: None, reason, replayed_at });
    shared.telemetry.record(&Fact::Settled { source, event, outcome: EventOutcome::Rejected });
}

/// What became of a copy.
enum Copy {
    /// It is in its queue.
    Safe(Confirmed),
    /// The worker halts, or the broker will deliver the original again: the message is left as it is.
    Unsettled,
    /// The broker would never take it.
    Impossible,
}

/// Publishes a copy (queue and properties) until the broker confirms it.
async fn publish(shared: &Shared, message: &Original, (queue, properties): (String, BasicProperties), over: &CancellationToken) -> Copy {
    let outgoing = Outgoing { queue, properties, body: message.body.clone() };
    // Boxed, so that a delivery in flight does not carry the room that only a copy needs.
    let published = Box::pin(shared.publisher.publish_until_confirmed(&outgoing, over));
    match shared.halt.run_until_cancelled(published).await {
        Some(Ok(confirmed)) => Copy::Safe(confirmed),
        Some(Err(Unpublished::Impossible(_))) => Copy::Impossible,
        Some(Err(Unpublished::GivenUp)) | None => Copy::Unsettled,
    }
}

fn original(message: &Original) -> headers::Original<'_> {
    headers::Original {
        properties: &message.properties,
        exchange: message.exchange.as_str(),
        routing_key: message.routing_key.as_str(),
        source: &message.source.name,
        trust: message.trust(),
    }
}
