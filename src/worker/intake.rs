//! Intake: takes what the broker delivers, and sends each message on its way.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::delivery::Delivery;
use super::lanes::Pushed;
use super::parcel::{Held, Message, Original, Parcel, Window};
use super::{Shared, settle};
use crate::broker::{Claim, HANDED_OVER, Inbound, Proof, headers};
use crate::clock;
use crate::config::Source;
use crate::domain::dead::RejectReason;
use crate::domain::decide::Wait;
use crate::domain::decode::decode;
use crate::domain::history::History;
use crate::domain::integrator::{Endpoint, SkipReason};
use crate::domain::route::{Route, route};
use crate::domain::trace::SpanId;
use crate::telemetry::{EventOutcome, EventRef, Fact, Receipt, WaitCause};

/// A queue that is taken from.
pub(super) struct Intake {
    pub source: Arc<Source>,
    /// It is the queue of retries that are due.
    pub due: bool,
    pub window: Arc<Window>,
}

impl Intake {
    /// Takes messages until the subscription ends or the worker stops. What has come together is put in line before any of it is
    /// started, so that events for one endpoint can share a request however fast the endpoint is.
    pub(super) async fn run(self, shared: Arc<Shared>, mut inbox: mpsc::Receiver<Inbound>) {
        let mut arrived = Vec::with_capacity(HANDED_OVER);
        let mut pushed = Pushed::default();
        while let Some(1..) = shared.stopping.run_until_cancelled(inbox.recv_many(&mut arrived, HANDED_OVER)).await {
            for inbound in arrived.drain(..) {
                admit(&shared, &self, inbound, &mut pushed);
            }
            pushed.start(&shared);
        }
    }
}

fn admit(shared: &Arc<Shared>, Intake { source, due, window }: &Intake, inbound: Inbound, pushed: &mut Pushed) {
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
    let receipt = Receipt { at: now, first_at: history.received_at, due, span: SpanId::from_bits(fastrand::u64(..)) };
    let held = Held::new(window, weight);
    let original = Original { source: Arc::clone(source), due, properties, exchange, routing_key, body, receipt, held };

    if !headers::can_be_copied(&original.properties, original.trust()) {
        return settle::reject_by_broker(shared, &original, &history, claim);
    }
    let limit = shared.config.worker.max_body;
    if original.body.len() > limit {
        let size = original.body.len();
        return reject(shared, (original, history), RejectReason::TooLarge { size, limit }, claim);
    }
    match decode(original.body.clone(), &headers::metadata(&original.properties)) {
        Ok(event) => send_on(shared, (original, event, history, claim), pushed),
        Err(fault) => reject(shared, (original, history), RejectReason::Undecodable(fault), claim),
    }
}

fn reject(shared: &Arc<Shared>, (original, history): (Original, History), reason: RejectReason, claim: Claim) {
    let on = Arc::clone(shared);
    shared.tasks.spawn(async move { settle::reject_message(&on, &original, &history, &reason, claim).await });
}

fn send_on(shared: &Arc<Shared>, message: Message, pushed: &mut Pushed) {
    let (_, event, history, _) = &message;
    let (now, on) = (clock::now(), Arc::clone(shared));
    if let Some(left) = history.held_for(now) {
        let wait = Wait::at_least(&shared.config.ladder, left, now);
        let history = history.clone();
        let stake = Parcel::whole(message, &shared.telemetry);
        shared.tasks.spawn(async move { settle::wait(&on, stake, history, (wait, WaitCause::HoldUntil)).await });
        return;
    }
    let directory = Arc::clone(&shared.directory.borrow());
    match route(&directory, event, history.endpoint.as_ref()) {
        Route::Deliveries { to, skipped } => deliver(shared, message, (to, &skipped), pushed),
        Route::UnknownIntegrator | Route::UnknownEndpoint => {
            let endpoint = history.endpoint.clone();
            let stake = Parcel::whole(message, &shared.telemetry);
            shared.tasks.spawn(async move { settle::unknown(&on, stake, endpoint.as_ref()).await });
        }
    }
}

type Routed<'a> = (Vec<Arc<Endpoint>>, &'a [(Arc<Endpoint>, SkipReason)]);

fn deliver(shared: &Arc<Shared>, message: Message, (to, skipped): Routed<'_>, pushed: &mut Pushed) {
    let (original, event, _, _) = &message;
    let named = EventRef::received(event, original.receipt);
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
        pushed.push(shared, &endpoint, Delivery { stake });
    }
}
