//! Intake: takes what the broker delivers, and sends each message on its way.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::delivery::Delivery;
use super::parcel::{Held, Message, Original, Parcel, Window};
use super::{Shared, lanes, settle};
use crate::broker::{Claim, Inbound, Proof, headers};
use crate::clock;
use crate::config::Source;
use crate::domain::dead::RejectReason;
use crate::domain::decide::Wait;
use crate::domain::decode::decode;
use crate::domain::history::History;
use crate::domain::integrator::{Endpoint, SkipReason};
use crate::domain::route::{Route, route};
use crate::telemetry::{EventOutcome, EventRef, Fact, WaitCause};

/// A queue that is taken from.
pub(super) struct Intake {
    pub source: Arc<Source>,
    /// It is the queue of retries that are due.
    pub due: bool,
    pub window: Arc<Window>,
}

impl Intake {
    /// Takes messages until the subscription ends or the worker stops.
    pub(super) async fn run(self, shared: Arc<Shared>, mut inbox: mpsc::Receiver<Inbound>) {
        while let Some(Some(inbound)) = shared.stopping.run_until_cancelled(inbox.recv()).await {
            admit(&shared, &self, inbound);
        }
    }
}

fn admit(shared: &Arc<Shared>, Intake { source, due, window }: &Intake, inbound: Inbound) {
    let due = *due;
    let now = clock::now();
    let Inbound { body, properties, exchange, routing_key, claim, weight, .. } = inbound;
    if !claim.is_live() {
        return;
    }
    // Only what comes back through our own queues has a past; whatever upstream writes into our headers is not one.
    let history = if due { headers::read_history(&properties) } else { None };
    let late_by = history.as_ref().and_then(|history| history.due_at).map(|due_at| now.since(due_at));
    shared.telemetry.record(&Fact::Received { source: &source.name, due, late_by });
    let history = history.unwrap_or_else(|| History::new(now));
    let original = Original { source: Arc::clone(source), due, properties, exchange, routing_key, body, held: Held::new(window, weight) };

    if !headers::can_be_copied(&original.properties, original.trust()) {
        return settle::reject_by_broker(shared, &original, claim);
    }
    let limit = shared.config.worker.max_body;
    if original.body.len() > limit {
        let size = original.body.len();
        return reject(shared, (original, history), RejectReason::TooLarge { size, limit }, claim);
    }
    match decode(original.body.clone(), &headers::metadata(&original.properties)) {
        Ok(event) => send_on(shared, (original, event, history, claim)),
        Err(fault) => reject(shared, (original, history), RejectReason::Undecodable(fault), claim),
    }
}

fn reject(shared: &Arc<Shared>, (original, history): (Original, History), reason: RejectReason, claim: Claim) {
    let on = Arc::clone(shared);
    shared.tasks.spawn(async move { settle::reject_message(&on, &original, &history, &reason, claim).await });
}

fn send_on(shared: &Arc<Shared>, message: Message) {
    let (_, event, history, _) = &message;
    let (now, on) = (clock::now(), Arc::clone(shared));
    if let Some(until) = history.hold_until.filter(|until| *until > now) {
        let wait = Wait::at_least(&shared.config.ladder, until.since(now), now);
        let history = history.clone();
        let stake = Parcel::whole(message, &shared.telemetry);
        shared.tasks.spawn(async move { settle::wait(&on, stake, history, (wait, WaitCause::HoldUntil)).await });
        return;
    }
    let directory = Arc::clone(&shared.directory.borrow());
    match route(&directory, event, history.endpoint.as_ref()) {
        Route::Deliveries { to, skipped } => deliver(shared, message, to, &skipped),
        Route::UnknownIntegrator | Route::UnknownEndpoint => {
            let endpoint = history.endpoint.clone();
            let stake = Parcel::whole(message, &shared.telemetry);
            shared.tasks.spawn(async move { settle::unknown(&on, stake, endpoint.as_ref()).await });
        }
    }
}

fn deliver(shared: &Arc<Shared>, message: Message, to: Vec<Arc<Endpoint>>, skipped: &[(Arc<Endpoint>, SkipReason)]) {
    let (original, event, _, _) = &message;
    let named = EventRef { id: &event.id, integrator: &event.integrator, topic: &event.topic };
    for (endpoint, reason) in skipped {
        shared.telemetry.record(&Fact::Skipped { event: named, endpoint, reason: *reason });
    }
    if to.is_empty() {
        let source = &original.source.name;
        shared.telemetry.record(&Fact::Settled { source, event: Some(named), outcome: EventOutcome::Skipped });
        let (_, _, _, claim) = message;
        return claim.settle(Proof::Skipped);
    }
    let stakes = Parcel::split(message, to.len(), &shared.telemetry);
    for (stake, endpoint) in stakes.zip(to) {
        lanes::push(shared, &endpoint, Delivery { stake });
    }
}
