//! Intake: takes what the broker delivers, and sends each message on its way.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::delivery::Delivery;
use super::parcel::{Original, Parcel};
use super::{Shared, lanes, settle};
use crate::broker::{Claim, Inbound, Proof, headers};
use crate::clock;
use crate::config::Source;
use crate::domain::dead::RejectReason;
use crate::domain::decide::{Unknown, Wait, decide_unknown};
use crate::domain::decode::decode;
use crate::domain::event::Event;
use crate::domain::history::History;
use crate::domain::integrator::{Endpoint, SkipReason};
use crate::domain::route::{Route, route};
use crate::domain::time::Timestamp;
use crate::telemetry::{EventOutcome, EventRef, Fact, WaitCause};

/// Takes messages of one queue until the subscription ends or the worker stops. While the broker does not take what we
/// publish (an alarm), nothing new is taken: a delivery that failed could not be put away.
pub(super) async fn run(shared: Arc<Shared>, source: Arc<Source>, due: bool, mut inbox: mpsc::Receiver<Inbound>) {
    let mut blocked = shared.publisher.blocked();
    loop {
        let inbound = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            inbound = next(&mut inbox, &mut blocked) => inbound,
        };
        let Some(inbound) = inbound else { return };
        admit(&shared, &source, due, inbound);
    }
}

async fn next(inbox: &mut mpsc::Receiver<Inbound>, blocked: &mut watch::Receiver<bool>) -> Option<Inbound> {
    // The sender lives as long as the publisher; should it be gone, there is nothing left to wait for.
    let _ = blocked.wait_for(|blocked| !blocked).await;
    inbox.recv().await
}

fn admit(shared: &Arc<Shared>, source: &Arc<Source>, due: bool, inbound: Inbound) {
    let now = clock::now();
    let Inbound { body, properties, exchange, routing_key, claim, .. } = inbound;
    // Only what comes back through our own queues has a past; whatever upstream writes into our headers is not one.
    let history = if due { headers::read_history(&properties) } else { None };
    let late_by = history.as_ref().and_then(|history| history.due_at).map(|due_at| now.since(due_at));
    shared.telemetry.record(&Fact::Received { source: &source.name, due, late_by });
    let history = history.unwrap_or_else(|| History::new(now));
    let original = Original { source: Arc::clone(source), due, properties, exchange, routing_key, body };

    if headers::encoded_size(&original.properties) > headers::LARGEST_ORIGINAL {
        return settle::reject_by_broker(shared, &original, claim);
    }
    let limit = shared.config.worker.max_body;
    if original.body.len() > limit {
        let size = original.body.len();
        return reject(shared, (original, history), RejectReason::TooLarge { size, limit }, claim);
    }
    match decode(original.body.clone(), &headers::metadata(&original.properties)) {
        Ok(event) => send_on(shared, original, event, history, (claim, now)),
        Err(fault) => reject(shared, (original, history), RejectReason::Undecodable(fault), claim),
    }
}

fn reject(shared: &Arc<Shared>, (original, history): (Original, History), reason: RejectReason, claim: Claim) {
    let on = Arc::clone(shared);
    shared.tasks.spawn(async move { settle::reject(&on, &original, &history, &reason, claim).await });
}

fn send_on(shared: &Arc<Shared>, original: Original, event: Event, history: History, (claim, now): (Claim, Timestamp)) {
    let one = |original, event, history, claim| Parcel::new(original, event, history, claim, (1, &shared.telemetry));
    if let Some(until) = history.hold_until.filter(|until| *until > now) {
        let wait = Wait::at_least(&shared.config.ladder, until.since(now), now);
        let same = history.clone();
        return wait_on(shared, one(original, event, history, claim), same, wait);
    }
    let directory = Arc::clone(&shared.directory.borrow());
    match route(&directory, &event, history.endpoint.as_ref()) {
        Route::Deliveries { to, skipped } => deliver(shared, (original, event, history, claim), to, &skipped),
        Route::UnknownIntegrator | Route::UnknownEndpoint => unknown(shared, one(original, event, history, claim), now),
    }
}

type Message = (Original, Event, History, Claim);

fn deliver(shared: &Arc<Shared>, message: Message, to: Vec<Arc<Endpoint>>, skipped: &[(Arc<Endpoint>, SkipReason)]) {
    let (original, event, history, claim) = message;
    let named = EventRef { id: &event.id, integrator: &event.integrator, topic: &event.topic };
    for (endpoint, reason) in skipped {
        shared.telemetry.record(&Fact::Skipped { event: named, endpoint, reason: *reason });
    }
    if to.is_empty() {
        claim.settle(Proof::Skipped);
        return shared.telemetry.record(&Fact::Settled {
            source: &original.source.name,
            event: Some(named),
            outcome: EventOutcome::Skipped,
        });
    }
    let parcel = Parcel::new(original, event, history, claim, (to.len(), &shared.telemetry));
    for endpoint in to {
        lanes::push(shared, Delivery { parcel: Arc::clone(&parcel), endpoint });
    }
}

/// Nobody by that name is configured: the configuration may be on its way, so the event waits for it for a while.
fn unknown(shared: &Arc<Shared>, parcel: Arc<Parcel>, now: Timestamp) {
    let since = parcel.history.unknown_since.unwrap_or(now);
    let patience = shared.config.worker.unknown_integrator_wait;
    if let Unknown::Wait(wait) = decide_unknown(since, patience, &shared.config.ladder, now) {
        let endpoint = parcel.history.endpoint.as_ref();
        shared.telemetry.record(&Fact::Waits { event: parcel.event_ref(), endpoint, cause: WaitCause::Configuration, wait });
        let history = History { unknown_since: Some(since), ..parcel.history.clone() };
        return wait_on(shared, parcel, history, wait);
    }
    let on = Arc::clone(shared);
    shared.tasks.spawn(async move {
        match parcel.history.endpoint.clone() {
            Some(endpoint) => settle::endpoint_removed(&on, &parcel, &endpoint).await,
            None => settle::unknown_integrator(&on, &parcel).await,
        }
    });
}

fn wait_on(shared: &Arc<Shared>, parcel: Arc<Parcel>, history: History, wait: Wait) {
    let on = Arc::clone(shared);
    shared.tasks.spawn(async move { settle::wait(&on, &parcel, history, wait).await });
}
