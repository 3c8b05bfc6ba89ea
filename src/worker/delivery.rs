//! One delivery: render, attempt, decide, settle.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::parcel::{Parcel, Stake};
use super::{Shared, settle};
use crate::broker::Delivered;
use crate::clock;
use crate::domain::decide::{Decision, Rules, Tried, Verdict, decide};
use crate::domain::format::{Rendering, render};
use crate::domain::integrator::{Endpoint, SkipReason};
use crate::domain::request::{self, Attempt};
use crate::domain::time::Timestamp;
use crate::telemetry::{Fact, WaitCause};

/// A publisher's clock that is further off than this tells nothing about how long a delivery took.
const CREDIBLE: Duration = Duration::from_secs(24 * 3600);

/// One event for one endpoint.
pub(super) struct Delivery {
    pub stake: Stake,
    /// The endpoint as it was configured when the event came in.
    pub endpoint: Arc<Endpoint>,
    /// In line for its turn since then.
    pub since: Instant,
}

/// Makes one attempt and settles what follows from it. Returns without settling when a stop or a lost connection comes
/// first: the message is then unacknowledged and the broker delivers it again.
///
/// The endpoint is looked up anew: a reload may have changed or removed it while the delivery stood in line.
pub(super) async fn run(shared: &Shared, delivery: Delivery) {
    let Delivery { stake, endpoint, .. } = delivery;
    if stake.parcel().over().is_cancelled() || shared.stopping.is_cancelled() {
        return;
    }
    let directory = Arc::clone(&shared.directory.borrow());
    let Some(endpoint) = directory.endpoint(&endpoint.integrator, &endpoint.id) else {
        return settle::unknown(shared, stake, Some(&endpoint.id)).await;
    };
    if let Err(reason) = endpoint.takes(&stake.parcel().event.topic) {
        return settle::skip(shared, stake, endpoint, reason);
    }
    match render(endpoint.format, &[&stake.parcel().event]) {
        Ok(Rendering::Body(body)) => attempt(shared, stake, endpoint, body).await,
        Ok(Rendering::Nothing) => settle::skip(shared, stake, endpoint, SkipReason::NoRecords),
        Err(fault) => settle::unrenderable(shared, stake, endpoint, fault).await,
    }
}

async fn attempt(shared: &Shared, stake: Stake, endpoint: &Endpoint, body: Vec<u8>) {
    let parcel = stake.parcel();
    stake.begin();
    let started_at = clock::now();
    let about = Attempt::next([&parcel.history], started_at);
    let request_bytes = body.len();
    let request = request::compose(endpoint, &[&parcel.event], body, &about);
    let webhook_id = request.webhook_id.clone();

    let in_flight = shared.telemetry.in_flight_started();
    let reply = tokio::select! {
        reply = shared.egress.attempt(request, endpoint.policy.timeout) => reply,
        () = shared.halt.cancelled() => return,
    };
    drop(in_flight);

    let now = clock::now();
    let tried = Tried { endpoint: &endpoint.id, started_at, members: NonZeroU16::MIN, reply: &reply };
    let rules = Rules { policy: &endpoint.policy.retry, ladder: &shared.config.ladder };
    let Decision { verdict, history } = decide(&parcel.history, &tried, rules, now, fastrand::f64());
    shared.telemetry.record(&Fact::Attempted {
        event: parcel.event_ref(),
        endpoint,
        webhook_id: &webhook_id,
        attempt: about.number,
        request_bytes,
        reply: &reply,
        verdict: &verdict,
        latency: matches!(verdict, Verdict::Delivered).then(|| now.since(published_at(parcel))),
    });
    match (verdict, Delivered::from_reply(&reply)) {
        (Verdict::Delivered, Some(proof)) => settle::delivered(stake, proof),
        // A verdict without the reply to prove it cannot come out of `decide`; unsettled, the event comes again.
        (Verdict::Delivered, None) => {}
        (Verdict::Retry(wait), _) => settle::wait(shared, stake, history, (wait, WaitCause::Retry)).await,
        (Verdict::Dead(reason), _) => settle::dead(shared, stake, &endpoint.id, &history, reason).await,
    }
}

/// When the event was published, as far as the publisher's clock can be believed; else when it first came in.
fn published_at(parcel: &Parcel) -> Timestamp {
    let received_at = parcel.history.received_at;
    let stamped = (*parcel.original.properties.timestamp()).and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000));
    let stamped = stamped.map(Timestamp::from_millis).filter(|at| *at <= received_at && received_at.since(*at) < CREDIBLE);
    stamped.unwrap_or(received_at)
}
