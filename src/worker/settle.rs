//! How a delivery ends: acknowledged with proof, or with a confirmed copy elsewhere. Publish first, then acknowledge: a
//! crash in between makes a duplicate, never a loss.

use std::time::Duration;

use lapin::BasicProperties;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::delivery::Delivery;
use super::parcel::{Original, Parcel, Stake};
use crate::broker::{Claim, Confirmed, Delivered, Outgoing, Proof, headers};
use crate::clock;
use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::decide::{Unknown, Wait, decide_unknown};
use crate::domain::format::Unrenderable;
use crate::domain::history::History;
use crate::domain::integrator::{Endpoint, SkipReason};
use crate::domain::names::EndpointId;
use crate::telemetry::{EventOutcome, EventRef, Fact, WaitCause};

/// How long a delivery stays in the ladder whose endpoint had no turn for it.
const PARKED: Duration = Duration::from_secs(30);

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
    let parcel = stake.parcel();
    let history = history.waiting(wait);
    let properties = headers::retry_copy(&original(&parcel.original), &history);
    let queue = parcel.original.source.wait_queue(wait.rung);
    if let Some(confirmed) = publish(shared, &parcel.original, queue, properties, parcel.over()).await {
        let endpoint = history.endpoint.as_ref();
        shared.telemetry.record(&Fact::Waits { event: parcel.event_ref(), endpoint, cause, wait });
        stake.settle(Proof::Copied(confirmed), EventOutcome::Waiting);
    }
}

/// Puts a delivery that had no turn at its endpoint into the ladder, alone: no attempt is counted, its age goes on.
pub(super) async fn park(shared: &Shared, delivery: Delivery) {
    let Delivery { stake, endpoint, .. } = delivery;
    let history = stake.parcel().history.at(&endpoint.id);
    let stay = Wait::at_least(&shared.config.ladder, PARKED, clock::now());
    wait(shared, stake, history, (stay, WaitCause::Parked)).await;
}

/// Nobody by the event's integrator, or by the endpoint's name, is configured. The configuration may be on its way, so the
/// event waits for it for a while; then it is rejected, or the delivery given up.
pub(super) async fn unknown(shared: &Shared, stake: Stake, endpoint: Option<&EndpointId>) {
    let now = clock::now();
    let parcel = stake.parcel();
    let since = parcel.history.unknown_since.unwrap_or(now);
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
    let queue = shared.config.broker.names.dead.clone();
    if let Some(confirmed) = publish(shared, &parcel.original, queue, properties, parcel.over()).await {
        let event = parcel.event_ref();
        shared.telemetry.record(&Fact::DeadLettered { event, endpoint, reason, attempts: history.attempts });
        stake.settle(Proof::Copied(confirmed), EventOutcome::Dead);
    }
}

/// One endpoint's format cannot carry the event: a copy that names the endpoint goes to the rejected.
pub(super) async fn unrenderable(shared: &Shared, stake: Stake, endpoint: &Endpoint, fault: Unrenderable) {
    reject_event(shared, stake, Some(&endpoint.id), RejectReason::Unrenderable(fault)).await;
}

async fn reject_event(shared: &Shared, stake: Stake, endpoint: Option<&EndpointId>, reason: RejectReason) {
    let parcel: &Parcel = stake.parcel();
    let rejection = Rejection { event: Some(parcel.event_ref()), endpoint, reason: &reason };
    if let Some(confirmed) = copy_to_rejected(shared, &parcel.original, &parcel.history, &rejection, parcel.over()).await {
        stake.settle(Proof::Copied(confirmed), EventOutcome::Rejected);
    }
}

/// The message is no event at all: it goes to the rejected as it came.
pub(super) async fn reject_message(shared: &Shared, original: &Original, history: &History, reason: &RejectReason, claim: Claim) {
    let rejection = Rejection { event: None, endpoint: None, reason };
    if let Some(confirmed) = copy_to_rejected(shared, original, history, &rejection, &claim.over()).await {
        claim.settle(Proof::Copied(confirmed));
        shared.telemetry.record(&Fact::Settled { source: &original.source.name, event: None, outcome: EventOutcome::Rejected });
    }
}

/// The properties of a message are so large that ours would not fit beside them: the broker moves it itself.
pub(super) fn reject_by_broker(shared: &Shared, original: &Original, claim: Claim) {
    let source = &original.source.name;
    claim.reject();
    shared.telemetry.record(&Fact::Rejected { source, event: None, endpoint: None, reason: &RejectReason::HeadersTooLarge });
    shared.telemetry.record(&Fact::Settled { source, event: None, outcome: EventOutcome::Rejected });
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

/// Publishes until the broker confirms it. `None` when the worker halts or the broker will deliver the original again.
async fn publish(
    shared: &Shared,
    message: &Original,
    queue: String,
    properties: BasicProperties,
    over: &CancellationToken,
) -> Option<Confirmed> {
    let outgoing = Outgoing { queue, properties, body: message.body.clone() };
    tokio::select! {
        confirmed = shared.publisher.publish_until_confirmed(&outgoing, over) => confirmed,
        () = shared.halt.cancelled() => None,
    }
}

fn original(message: &Original) -> headers::Original<'_> {
    headers::Original {
        properties: &message.properties,
        exchange: &message.exchange,
        routing_key: &message.routing_key,
        source: &message.source.name,
        trust: message.trust(),
    }
}
